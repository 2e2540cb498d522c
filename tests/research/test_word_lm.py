"""The word benchmarks: reading, training, resuming, and perplexities that mean what published ones mean."""

import json
import math
import random
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from model.errors import CorpusError, DivergedError, RunError
from research.word_corpus import WordCorpus, read_word_corpus
from research.word_lm import WordRun, WordTrainer, columns, score
from research.word_network import WordNetwork, WordNetworkOptions
from research.word_scores import (
    CACHE_FLATNESS,
    CACHE_SHARES,
    CACHE_WORDS,
    cache_probabilities,
    cached_nats,
    dynamic_nats,
    fit_cache,
    fit_dynamic,
    perplexity,
    read_lines_apart,
    read_through,
    score_continuous,
    score_ngram,
)
from training.__main__ import main
from training.config import OptimizerOptions
from training.run_log import read_records

RUN = """
name = "tiny"
train = "{root}/train.txt"
valid = "{root}/valid.txt"
test = "{root}/test.txt"
epochs = 4
rows = 4
window_words = 8

[network]
embedding_size = 12
hidden_size = 16
layers = 2
embedding_dropout = 0.1
input_dropout = 0.1
hidden_dropout = 0.1
output_dropout = 0.1
weight_drop = 0.2

[optimizer]
learning_rate = 0.02
schedule = "one_cycle"
warmup_steps = 5
"""


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files of a small regular language, one of whose words the training text calls <unk>."""
    root, chance = tmp_path_factory.mktemp("words"), random.Random(1)
    for name, lines in (("train", 300), ("valid", 40), ("test", 40)):
        text = "".join(
            f" the {chance.choice(('cat', 'dog', '<unk>'))} {chance.choice(('sat', 'ran'))} on the mat \n"
            for _ in range(lines)
        )
        (root / f"{name}.txt").write_text(text, encoding="utf-8")
    (root / "run.toml").write_text(RUN.format(root=root), encoding="utf-8")
    return root


def options(texts: Path, **changes: Any) -> WordRun:
    """The run of the file, as an object."""
    dropped = WordNetworkOptions(12, 16, 2, 0.1, 0.1, 0.1, 0.1, 0.2)
    optimizer = OptimizerOptions(learning_rate=0.02, schedule="one_cycle", warmup_steps=5)
    values = {
        "network": dropped,
        "epochs": 4,
        "rows": 4,
        "window_words": 8,
        "activation_penalty": 2.0,
        "slowness_penalty": 1.0,
    }
    paths = {name: str(texts / f"{name}.txt") for name in ("train", "valid", "test")}
    return WordRun("tiny", optimizer=optimizer, **paths, **{**values, **changes})


@pytest.fixture(scope="module")
def network() -> WordNetwork:
    """Random weights, large enough for words to differ."""
    torch.manual_seed(1)
    fresh = WordNetwork(9, WordNetworkOptions(6, 10, 2)).eval()
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.mul_(3.0)
    return fresh


IDS = np.array([1, 2, 3, 0, 4, 1, 2, 0, 1, 2, 5, 6, 0])


def test_lines_end_in_a_word_of_their_own(texts: Path) -> None:
    """Each line is followed by <eos>, which has id 0; the vocabulary is that of the training text."""
    corpus = read_word_corpus(*(texts / f"{name}.txt" for name in ("train", "valid", "test")))
    assert corpus.words[0] == "<eos>"
    assert set(corpus.words) == {"<eos>", "the", "cat", "dog", "<unk>", "sat", "ran", "on", "mat"}
    assert [len(part) for part in (corpus.train, corpus.valid, corpus.test)] == [2100, 280, 280]
    assert (corpus.valid[6::7] == 0).all()


def test_a_word_that_training_lacks_is_refused(texts: Path, tmp_path: Path) -> None:
    """Such words must read <unk>; the message names the line and not the word."""
    odd = tmp_path / "odd.txt"
    odd.write_text("the cat\nthe zebra\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="line 2 holds a word") as caught:
        read_word_corpus(texts / "train.txt", odd, texts / "test.txt")
    assert "zebra" not in str(caught.value)


def test_columns_go_on_from_row_to_row() -> None:
    """Each column is a stretch of the text; what does not fill a row is left out."""
    assert columns(np.arange(11), 3, "text").t().tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    with pytest.raises(RunError, match="text: has 5 words, too few for 4 rows"):
        columns(np.arange(5), 4, "text")


def test_training_learns_the_language(texts: Path, tmp_path: Path) -> None:
    """After a dozen epochs the perplexity is near that of the grammar, whose lines of seven hold log2(6) bits."""
    network = WordNetworkOptions(12, 16, 2)
    trainer = WordTrainer(options(texts, epochs=12, network=network), tmp_path)
    assert trainer.valid_perplexity() > 7
    assert trainer.run([])
    assert trainer.valid_perplexity() < 1.1 * math.exp(math.log(6) / 7)


def test_interrupted_and_resumed_equals_uninterrupted(texts: Path, tmp_path: Path) -> None:
    """A stop in the middle of an epoch changes no weight."""
    WordTrainer(options(texts, epochs=2), tmp_path / "whole").run([])
    parts = WordTrainer(options(texts, epochs=2), tmp_path / "parts")
    stopping: list[int] = []
    update = parts._update

    def counted() -> float:
        if parts.progress.step == 10:
            stopping.append(15)
        return update()

    parts._update = counted  # type: ignore[method-assign]
    assert not parts.run(stopping)
    assert WordTrainer(options(texts, epochs=2), tmp_path / "parts", resume=True).run([])
    ours, theirs = (
        load_file(tmp_path / name / "state" / "weights.safetensors") for name in ("parts", "whole")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_valid_text_is_asked_every_few_epochs_and_at_the_end(texts: Path, tmp_path: Path) -> None:
    """The log has those lines alone; how often may change when a run goes on, and older snapshots do not know of it."""
    config = options(texts, epochs=5, evaluate_every_epochs=2)
    trainer = WordTrainer(config, tmp_path)
    assert trainer.run([])
    records = read_records(tmp_path / "metrics.jsonl")
    assert [record["step"] / trainer.windows for record in records] == [2, 4, 5]
    state = tmp_path / "state" / "state.json"
    for changed in (replace(config, evaluate_every_epochs=1), config):
        assert WordTrainer(changed, tmp_path, resume=True).progress.step == trainer.steps
        values = json.loads(state.read_text(encoding="utf-8"))
        values["config"].pop("evaluate_every_epochs", None)
        state.write_text(json.dumps(values), encoding="utf-8")


def test_a_run_is_neither_overwritten_nor_resumed_with_other_options(
    texts: Path, tmp_path: Path
) -> None:
    """Both are refused, and the second names what differs."""
    WordTrainer(options(texts, epochs=1), tmp_path).run([])
    with pytest.raises(RunError, match="holds a run already"):
        WordTrainer(options(texts, epochs=1), tmp_path)
    with pytest.raises(RunError, match="another epochs"):
        WordTrainer(options(texts, epochs=2), tmp_path, resume=True)


def copied(texts: Path, directory: Path) -> Path:
    """The three files again, to be changed."""
    directory.mkdir()
    for name in ("train", "valid", "test"):
        (directory / f"{name}.txt").write_bytes((texts / f"{name}.txt").read_bytes())
    return directory


def test_other_files_at_the_same_paths_are_refused(texts: Path, tmp_path: Path) -> None:
    """Ids go by the order of the training text, so with another one every score would be of other words."""
    own = copied(texts, tmp_path / "texts")
    WordTrainer(options(own, epochs=1), tmp_path / "run").run([])
    first, *rest = (own / "train.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    other = next(number for number, line in enumerate(rest) if line != first)
    rest.insert(0, rest.pop(other))
    (own / "train.txt").write_text("".join([*rest, first]), encoding="utf-8")
    with pytest.raises(RunError, match="was trained on a corpus"):
        score(options(own, epochs=1), tmp_path / "run")


def test_a_short_valid_text_is_read_in_fewer_rows(texts: Path, tmp_path: Path) -> None:
    """It is found out before the first epoch whether it can be read at all."""
    own = copied(texts, tmp_path / "texts")
    (own / "valid.txt").write_text("the cat sat\n", encoding="utf-8")
    assert WordTrainer(options(own, epochs=1), tmp_path / "run").run([])
    (own / "valid.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"valid\.txt: has 1 words, too few"):
        WordTrainer(options(own, epochs=1), tmp_path / "another")


def test_dropout_is_off_when_scoring_and_on_when_training() -> None:
    """Two passes in training differ, also by the dropped recurrent weights alone; two in evaluation do not."""
    torch.manual_seed(1)
    subject = WordNetwork(9, WordNetworkOptions(6, 10, 2, weight_drop=0.5))
    words = torch.tensor([[1], [2], [3]])
    first, second = (subject(words, subject.initial_states(1)).raw for _ in range(2))
    assert not torch.equal(first, second)
    subject.eval()
    first, second = (subject(words, subject.initial_states(1)).raw for _ in range(2))
    assert torch.equal(first, second)


def test_the_continuous_perplexity_is_that_of_the_whole_text_read_once(
    network: WordNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows change nothing: each word is predicted once from all before it, the first from an <eos>."""
    monkeypatch.setattr("research.word_scores.WINDOW", 4)
    reading = read_through(network, IDS)
    words = torch.from_numpy(np.append(0, IDS)).unsqueeze(1)
    with torch.no_grad():
        read = network(words[:-1], network.initial_states(1))
        expected = F.cross_entropy(network.logits(read.raw[:, 0]), words[1:, 0], reduction="none")
    assert torch.allclose(reading.nats, expected, atol=1e-5)
    assert perplexity(reading.nats) == pytest.approx(math.exp(expected.mean().item()), rel=1e-5)


def test_reset_lines_know_nothing_of_each_other(network: WordNetwork) -> None:
    """Each line gives the nats that it gives alone, <eos> included."""
    expected = torch.cat(
        [read_through(network, line).nats for line in (IDS[:4], IDS[4:8], IDS[8:])]
    )
    found = read_lines_apart(network, IDS)
    assert torch.allclose(found.sort().values, expected.sort().values, atol=1e-5)


def test_the_cache_is_a_softmax_over_earlier_places(
    network: WordNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against loops: only the last few places count, and none that is yet to come."""
    monkeypatch.setattr("research.word_scores.WINDOW", 3)
    reading, kept, flatness = read_through(network, IDS), 5, 0.7
    found = cache_probabilities(reading, kept, flatness)
    for t in range(len(IDS)):
        places = range(max(0, t - kept), t)
        weights = [
            math.exp(flatness * float(reading.outputs[t] @ reading.outputs[i])) for i in places
        ]
        same = sum(weight for weight, i in zip(weights, places, strict=True) if IDS[i] == IDS[t])
        assert found[t].item() == pytest.approx(same / sum(weights) if weights else 0.0, abs=1e-5)
    mixed = cached_nats(reading, kept, flatness, 0.25)
    assert torch.allclose(
        torch.exp(-mixed), 0.75 * torch.exp(-reading.nats) + 0.25 * found, atol=1e-6
    )


def test_dynamic_evaluation_learns_from_the_past_only(
    network: WordNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At rate 0 it is static; at another the first window is still, a repeated text gets cheaper, the network stays."""
    monkeypatch.setattr("research.word_scores.DYNAMIC_WINDOW", 4)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    static = read_through(network, np.tile(IDS, 10)).nats
    assert torch.allclose(dynamic_nats(network, np.tile(IDS, 10), 0.0, 0.0), static, atol=1e-4)
    learning = dynamic_nats(network, np.tile(IDS, 10), 1.0, 1e-2)
    assert torch.allclose(learning[:4], static[:4], atol=1e-5)
    assert learning[-13:].mean() < static[-13:].mean() - 0.1
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_settings_are_the_best_on_valid_and_know_nothing_of_test(network: WordNetwork) -> None:
    """A valid text that repeats itself wants much of the cache and fast steps; test text of chance wants neither."""
    chance = np.random.default_rng(1).integers(0, 9, 300)
    repeated = np.tile(IDS, 20)
    found = score_continuous(network, WordCorpus(tuple("abcdefghi"), chance, repeated, chance))
    valid = read_through(network, repeated)
    assert found["cache"].items() > fit_cache(valid).items()
    assert fit_cache(read_through(network, chance)) != fit_cache(valid)
    assert fit_dynamic(network, chance) != fit_dynamic(network, repeated)
    every = [
        perplexity(cached_nats(valid, *one))
        for one in product(CACHE_WORDS, CACHE_FLATNESS, CACHE_SHARES)
    ]
    assert found["cache"]["valid"] == pytest.approx(min(every))


def test_more_words_than_ids_are_refused() -> None:
    """An n-gram's ids have 16 bits: larger ones would wrap and be other words."""
    corpus = WordCorpus(tuple(map(str, range(65_536))), IDS, IDS, IDS)
    with pytest.raises(CorpusError, match="65536 words, but"):
        score_ngram(corpus, 3)


def test_commands_train_and_score(texts: Path, tmp_path: Path) -> None:
    """The run file is enough: train, then --scores writes every perplexity with the settings that valid chose."""
    output = tmp_path / "run"
    assert main(["words", str(texts / "run.toml"), "--output", str(output)]) == 0
    assert main(["words", str(texts / "run.toml"), "--output", str(output), "--scores"]) == 0
    scores = json.loads((output / "scores.json").read_text(encoding="utf-8"))["scores"]
    assert set(scores) == {"parameters", "continuous", "reset", "cache", "dynamic"}
    for kind in ("continuous", "reset", "cache", "dynamic"):
        assert 1 < scores[kind]["test"] < 3


def test_scores_go_on_with_the_part_that_they_were_at(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Side by side they are the same; what is there is not done again, and parts of other weights are refused."""
    config, alone, together = options(texts, epochs=1), tmp_path / "alone", tmp_path / "together"
    assert WordTrainer(config, alone).run([])
    shutil.copytree(alone, together)
    found = score(config, alone)
    assert score(config, together, jobs=2) == found
    trained = WordTrainer(config, alone, resume=True)
    dynamic = fit_dynamic(trained.network.float().eval(), trained.corpus.valid)
    assert found["scores"]["dynamic"].items() > dynamic.items()

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    (alone / "scores" / "dynamic-test.json").unlink()
    for name in ("score_continuous", "score_reset", "fit_dynamic"):
        monkeypatch.setattr(f"research.word_lm.{name}", stop)
    assert score(config, alone) == found
    monkeypatch.setattr("research.word_lm.grids", lambda: {"cache": []})
    with pytest.raises(RunError, match="remove it"):
        score(config, alone)


def test_only_a_finished_run_is_scored_and_it_stays_as_it_is(texts: Path, tmp_path: Path) -> None:
    """One that was interrupted is refused; scoring needs the weights and a CPU, and leaves the log alone."""
    config = options(texts, epochs=1)
    assert not WordTrainer(config, tmp_path).run([15])
    with pytest.raises(RunError, match="to its end first"):
        score(config, tmp_path)
    assert WordTrainer(config, tmp_path, resume=True).run([])
    log = tmp_path / "metrics.jsonl"
    log.write_text(log.read_text(encoding="utf-8") + '{"step": 99}\n', encoding="utf-8")
    before = log.read_text(encoding="utf-8")
    (
        tmp_path / "state" / "optimizer.safetensors"
    ).unlink()  # as where the weights alone came from another machine
    assert score(replace(config, device="cuda"), tmp_path)["run"]["device"] == "cuda"
    assert log.read_text(encoding="utf-8") == before


def test_a_run_that_diverges_says_what_helps(texts: Path, tmp_path: Path) -> None:
    """Its snapshot cannot be resumed at another rate, so the message names a new run."""
    trainer = WordTrainer(options(texts), tmp_path)
    with torch.no_grad():
        trainer.network.output_bias.fill_(math.nan)
    with pytest.raises(DivergedError, match="begin a new run at a lower learning rate"):
        trainer.run([])


def test_the_ngram_of_a_word_benchmark_is_a_distribution_and_near_the_grammar(
    texts: Path, tmp_path: Path
) -> None:
    """A trigram of the regular language comes near its entropy on test lines, which it reads from their starts."""
    assert main(["words", str(texts / "run.toml"), "--output", str(tmp_path), "--ngram", "3"]) == 0
    counted = json.loads((tmp_path / "3-gram.json").read_text(encoding="utf-8"))
    grammar = math.exp(math.log(6) / 7)
    assert 0.97 * grammar < counted["test"] < 1.03 * grammar
