"""The word benchmarks: reading, training, resuming, and perplexities as they are published."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import research.word_lm
from model.errors import CorpusError, RunError
from research.__main__ import main
from research.word_corpus import read_word_corpus
from research.word_lm import WordRun, WordTrainer, columns, score
from research.word_network import WordNetwork, WordNetworkOptions
from research.word_scores import (
    cache_probabilities,
    cached_nats,
    dynamic_nats,
    perplexity,
    read_through,
)
from training.config import read_options

IDS = np.array([1, 2, 3, 0, 4, 1, 2, 0, 1, 2, 5, 6, 0])
# Of a line of the language below: one word of three, one of two.
ENTROPY = math.log(6) / 7
RUN = """
name = "tiny"
train = "{root}/train.txt"
valid = "{root}/valid.txt"
test = "{root}/test.txt"
epochs = 2
rows = 4
window_words = 8
activation_penalty = 2.0
slowness_penalty = 1.0
optimizer = {{ learning_rate = 0.02, schedule = "one_cycle", warmup_steps = 5 }}
[network]
embedding_size = 12
hidden_size = 16
layers = 2
embedding_dropout = 0.1
hidden_dropout = 0.1
output_dropout = 0.1
weight_drop = 0.2
"""


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Write three files of a small regular language and a run file."""
    rng = random.Random(1)
    for name, lines in (("train", 300), ("valid", 40), ("test", 40)):
        nouns, verbs = ("cat", "dog", "<unk>"), ("sat", "ran")
        text = [f" the {rng.choice(nouns)} {rng.choice(verbs)} on the mat \n" for _ in range(lines)]
        (tmp_path / f"{name}.txt").write_text("".join(text), encoding="utf-8")
    (tmp_path / "run.toml").write_text(RUN.format(root=tmp_path), encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def network() -> WordNetwork:
    """Return random weights, large enough for words to differ."""
    torch.manual_seed(1)
    fresh = WordNetwork(9, WordNetworkOptions(6, 10, 2)).eval()
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.mul_(3.0)
    return fresh


def test_lines_end_in_a_word_of_their_own(texts: Path) -> None:
    """<eos> has id 0; a word that training lacks is refused with its line and without the word."""
    corpus = read_options(WordRun, texts / "run.toml").read_corpus()
    assert set(corpus.words) == {"<eos>", "the", "cat", "dog", "<unk>", "sat", "ran", "on", "mat"}
    assert [len(part) for part in (corpus.train, corpus.valid)] == [2100, 280]
    assert (corpus.valid[6::7] == 0).all()
    assert columns(np.arange(11), 3).tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    odd = texts / "odd.txt"
    odd.write_text("the cat\nthe zebra\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"line 2 has a word that .*train.txt lacks") as caught:
        read_word_corpus(texts / "train.txt", odd, texts / "test.txt")
    assert "zebra" not in str(caught.value)


def test_a_resumed_run_equals_an_uninterrupted_one(texts: Path, tmp_path: Path) -> None:
    """A stop in the middle of an epoch changes no weight; other options or texts are refused."""
    run = read_options(WordRun, texts / "run.toml")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    WordTrainer(run, whole).run([])
    trainer = WordTrainer(run, parts)
    stopping: list[int] = []
    update = trainer._update

    def stop_at_10() -> float:
        if trainer.progress.step == 10:
            stopping.append(15)
        return update()

    trainer._update = stop_at_10  # type: ignore[method-assign]
    assert not trainer.run(stopping)
    with pytest.raises(RunError, match="finish it with --resume"):
        score(run, parts)
    with pytest.raises(RunError, match="another rows"):
        WordTrainer(replace(run, rows=5), parts, resume=True)
    with pytest.raises(RunError, match="has a run already"):
        WordTrainer(run, parts)
    assert WordTrainer(run, parts, resume=True).run([])
    ours, expected = (load_file(d / "state" / "weights.safetensors") for d in (parts, whole))
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    lines = (texts / "train.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    (texts / "train.txt").write_text("".join(lines[1:] + lines[:1]), encoding="utf-8")
    with pytest.raises(RunError, match="was trained on corpus"):
        score(run, whole)


def test_the_continuous_perplexity_is_that_of_one_pass(
    network: WordNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows change nothing: each word is predicted once from all before it, starting at <eos>."""
    monkeypatch.setattr("research.word_scores.WINDOW", 4)
    reading = read_through(network, IDS)
    words = torch.from_numpy(np.append(0, IDS)).unsqueeze(1)
    with torch.no_grad():
        _, raw, _ = network(words[:-1], network.initial_states(1))
        expected = F.cross_entropy(network.logits(raw[:, 0]), words[1:, 0], reduction="none")
    assert torch.allclose(reading.nats, expected, atol=1e-5)
    assert perplexity(reading.nats) == pytest.approx(math.exp(expected.mean().item()), rel=1e-5)


def test_the_cache_is_a_softmax_over_earlier_places(
    network: WordNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with loops: only the last few places count, and no later one."""
    monkeypatch.setattr("research.word_scores.WINDOW", 3)
    reading, kept, flatness = read_through(network, IDS), 5, 0.7
    found = cache_probabilities(reading, kept, flatness)
    for t in range(len(IDS)):
        places = range(max(0, t - kept), t)
        matches = [float(reading.outputs[t] @ reading.outputs[i]) for i in places]
        weights = np.exp(flatness * np.array(matches))
        same = weights[[IDS[i] == IDS[t] for i in places]].sum()
        assert found[t].item() == pytest.approx(same / weights.sum() if t else 0.0, abs=1e-5)
    mixed = cached_nats(reading, kept, flatness, 0.25)
    expected = 0.75 * torch.exp(-reading.nats) + 0.25 * found
    assert torch.allclose(torch.exp(-mixed), expected, atol=1e-6)


def test_dynamic_evaluation_learns_from_the_past_only(
    network: WordNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rate 0 is static; otherwise the first window is, a repeated text gets cheaper, the network
    stays.
    """
    monkeypatch.setattr("research.word_scores.DYNAMIC_WINDOW", 4)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    text = np.tile(IDS, 10)
    static = read_through(network, text).nats
    assert torch.allclose(dynamic_nats(network, text, 0.0, 0.0), static, atol=1e-4)
    learning = dynamic_nats(network, text, 1.0, 1e-2)
    assert torch.allclose(learning[:4], static[:4], atol=1e-5)
    assert learning[-13:].mean() < static[-13:].mean() - 0.1
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_commands_train_score_and_continue(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished parts are not scored again; an n-gram comes near the entropy of the language."""
    run = tmp_path / "run"
    command = ["word-lm", str(texts / "run.toml"), "--output", str(run)]
    assert main(command) == 0
    (run / "state" / "optimizer.safetensors").unlink()
    assert main([*command, "--scores"]) == 0
    written = (run / "scores.json").read_bytes()
    scores = json.loads(written)["scores"]
    assert all(1 < scores[kind]["test"] < 6 for kind in ("continuous", "cache", "dynamic"))
    for name in ("score_continuous", "score_dynamic"):
        monkeypatch.setattr(research.word_lm, name, None)
    assert main([*command, "--scores"]) == 0
    assert (run / "scores.json").read_bytes() == written
    assert main([*command, "--ngram", "3"]) == 0
    counted = json.loads((run / "3-gram.json").read_text(encoding="utf-8"))
    assert counted["test"] == pytest.approx(math.exp(ENTROPY), rel=0.03)
