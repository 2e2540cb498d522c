"""docs/quality.md is what its figures say."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from research.quality_page import ANCHORS, BEGIN, END, HEADLINES, PARTS, markdown
from research.sentence_completion import FITTED, measure_arms
from research.sentence_completion import PARTS as PARTS_OF_A_SENTENCE
from research.word_scores import (
    CACHE_FLATNESS,
    CACHE_SHARES,
    CACHE_WORDS,
    DYNAMIC_DECAYS,
    DYNAMIC_RATES,
)
from training.__main__ import main
from training.evaluation.report import LANGUAGE_NAMES

ROOT = Path(__file__).parents[2]


def test_the_document_is_what_its_figures_say(tmp_path: Path) -> None:
    """Written again from the committed figures, docs/quality.md is the same."""
    document = tmp_path / "quality.md"
    shutil.copy(ROOT / "docs" / "quality.md", document)
    assert (
        main(["quality", "--results", str(ROOT / "docs" / "results"), "--document", str(document)])
        == 0
    )
    assert document.read_text(encoding="utf-8") == (ROOT / "docs" / "quality.md").read_text(
        encoding="utf-8"
    )


def test_every_part_is_there_even_without_figures(tmp_path: Path) -> None:
    """What was not measured says so."""
    document = tmp_path / "quality.md"
    document.write_text(f"{BEGIN}{END}", encoding="utf-8")
    assert main(["quality", "--results", str(tmp_path), "--document", str(document)]) == 0
    text = document.read_text(encoding="utf-8")
    assert text.count("Not measured yet.") == len(PARTS) - 1  # anchors stand there in any case
    assert text.count("| not measured |") == len(ANCHORS)
    for title in PARTS:
        assert f"## {title}" in text


@pytest.mark.parametrize("content", ["{", "no json"])
def test_torn_figures_are_refused(tmp_path: Path, content: str) -> None:
    """And the document stays as it was."""
    (tmp_path / "everyday.json").write_text(content, encoding="utf-8")
    document = tmp_path / "quality.md"
    document.write_text(f"{BEGIN}{END}", encoding="utf-8")
    assert main(["quality", "--results", str(tmp_path), "--document", str(document)]) == 2
    assert document.read_text(encoding="utf-8") == f"{BEGIN}{END}"


def test_perplexities_of_words_become_rows(tmp_path: Path) -> None:
    """A network's and an n-gram's, each with what it is."""
    both = {"valid": 80.0, "test": 78.0}
    scores = {"parameters": 1000, "continuous": both, "reset": both, "cache": both, "dynamic": both}
    run = {
        "name": "small",
        "device": "cpu",
        "threads": 2,
        "network": {"layers": 2, "hidden_size": 650},
    }
    found = {"scores": scores, "run": run, "progress": {"seconds": 3600.0, "wall_seconds": 9000.0}}
    (tmp_path / "words-ptb-lstm.json").write_text(json.dumps(found), encoding="utf-8")
    found["run"] = {**run, "name": "fast", "device": "cuda"}
    (tmp_path / "words-wikitext2-lstm.json").write_text(json.dumps(found), encoding="utf-8")
    counted = {"order": 5, "ngrams": 3, **both}
    (tmp_path / "words-ptb-5gram.json").write_text(json.dumps(counted), encoding="utf-8")
    document = tmp_path / "quality.md"
    document.write_text(f"{BEGIN}{END}", encoding="utf-8")
    assert main(["quality", "--results", str(tmp_path), "--document", str(document)]) == 0
    text = document.read_text(encoding="utf-8")
    assert (
        "| small: LSTM 2 x 650 | PTB | 1,000 | 2.0 CPU hours | 80.0 | 78.0 | 78.0 | 78.0 | 78.0 |"
        in text
    )
    assert "| fast: LSTM 2 x 650 | WIKITEXT2 | 1,000 | 2.5 GPU hours | 80.0 |" in text
    assert "| Kneser-Ney 5-gram | PTB | 3 |  | 80.0 |  | 78.0 |  |  |" in text
    ours = "Kneser-Ney 5-gram 78.0; LSTM 2 x 650 78.0; with cache 78.0; dynamic 78.0"
    assert f"| {ours} | 2.0 CPU hours |" in text


def test_settings_at_an_edge_of_their_grid_are_named(tmp_path: Path) -> None:
    """With the grid; those inside are not."""
    both = {"valid": 80.0, "test": 78.0}
    cache = both | {
        "words": CACHE_WORDS[0],
        "flatness": CACHE_FLATNESS[1],
        "share": CACHE_SHARES[1],
    }
    dynamic = both | {"rate": DYNAMIC_RATES[1], "decay": DYNAMIC_DECAYS[1]}
    scores = {
        "parameters": 1000,
        "continuous": both,
        "reset": both,
        "cache": cache,
        "dynamic": dynamic,
    }
    run = {
        "name": "small",
        "device": "cpu",
        "threads": 2,
        "network": {"layers": 2, "hidden_size": 650},
    }
    found = {"scores": scores, "run": run, "progress": {"seconds": 3600.0, "wall_seconds": 9000.0}}
    (tmp_path / "words-ptb-small.json").write_text(json.dumps(found), encoding="utf-8")
    grid = ", ".join(f"{each:g}" for each in CACHE_WORDS)
    assert f"lie beyond: words of the cache {CACHE_WORDS[0]:g} of {grid}.\n" in markdown(tmp_path)
    cache["words"] = CACHE_WORDS[1]
    (tmp_path / "words-ptb-small.json").write_text(json.dumps(found), encoding="utf-8")
    assert "lie beyond" not in markdown(tmp_path)


def test_sentence_completion_says_what_each_training_cost(tmp_path: Path) -> None:
    """By CPU time, or by the clock on a GPU, in the anchors' table and above each report."""
    parts = np.random.default_rng(1).normal(size=(20, 5, len(PARTS_OF_A_SENTENCE)))
    weights = {"left whole": 1.0, "right whole": 0.5, "temperature": 1.0}
    arms = measure_arms(parts, [0] * 20, weights)
    both = {
        "questions": 20,
        "fitted_on": 20,
        "weights": weights,
        "arms": arms,
        "held_out_arms": arms,
    }
    slow = {"device": "cpu", "cpu_hours": 1.25, "wall_hours": 9.0}
    fast = {"device": "cuda", "cpu_hours": 9.0, "wall_hours": 0.16}
    for name, stages in (("slow", [slow, slow]), ("fast", [fast])):
        training = {"tokens_seen": 3e6, "stages": stages}
        report = {**both, "checkpoints": [{"name": name, "training": training}]}
        (tmp_path / f"sentence_completion-{name}.json").write_text(
            json.dumps(report), encoding="utf-8"
        )
    text = markdown(tmp_path)
    accuracy = f"{100 * arms[FITTED]['accuracy']:.1f} %"
    assert (
        f"trained for it, fast {accuracy}; trained for it, slow {accuracy} | 0.16 GPU hours; 2.50 CPU hours |"
        in text
    )
    assert (
        "slow, trained for it on the challenge's own text: 3 million tokens read in 2.50 CPU hours."
        in text
    )


def test_an_adaptation_names_what_was_adapted(tmp_path: Path) -> None:
    """By the report's own word, as the bundled checkpoint changes; a report without it says that."""
    metrics = {name: {"values": [0.4]} for name in HEADLINES}
    base = {"name": "other", "version": "7", "digest": "0"}
    report = {
        "date": "2026-01-02T03:04:05+00:00",
        "contestants": [{"name": "adapted", "text": {"adapted_from": base}}],
        "languages": {"zh": {"metrics": metrics}},
    }
    path = tmp_path / "adaptation-letters.json"
    path.write_text(json.dumps(report), encoding="utf-8")
    assert "letters: other 7 was adapted, on 2026-01-02.\n" in markdown(tmp_path)
    path.write_text(json.dumps(report | {"contestants": [{"name": "adapted"}]}), encoding="utf-8")
    assert "letters: the report does not say which checkpoint was adapted.\n" in markdown(tmp_path)


def test_a_lead_that_is_undecided_is_marked(tmp_path: Path) -> None:
    """Only the first contestant's figure, and only where the interval of its difference holds 0."""
    sure, unsure = (
        {"value": 0.1, "interval": interval} for interval in ([0.05, 0.15], [-0.05, 0.25])
    )
    metrics = {name: {"values": [0.4, 0.3], "difference": sure} for name in HEADLINES}
    metrics["saved"] = {"values": [0.2, 0.1], "difference": unsure}
    report = {
        "questions_sha256": "0" * 64,
        "contestants": [{"name": "network"}, {"name": "counts"}],
        "languages": {code: {"metrics": metrics} for code in LANGUAGE_NAMES},
    }
    (tmp_path / "evaluation-1.json").write_text(json.dumps(report), encoding="utf-8")
    rows = [
        row
        for row in markdown(tmp_path).splitlines()
        if row.startswith(("| 1 |", "| counts beside 1 |"))
    ]
    assert len(rows) == 2 * len(LANGUAGE_NAMES)
    assert [row.count("≈") for row in rows] == [1, 0] * len(LANGUAGE_NAMES)
    assert "20.0 % ≈" in rows[0]
