"""The experiment on gates: its gradients are right, its task is what it says, its report is whole."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from research.compare_report import insert
from research.vanishing_gradients import (
    DISTRACTORS,
    QUESTION,
    SYMBOLS,
    VARIANTS,
    GatesOptions,
    RecallNetwork,
    Variant,
    gradient_norms,
    recall,
    recall_batch,
    train_recall,
)
from research.vanishing_gradients_report import BEGIN, END, half_life, markdown
from training.__main__ import main

ROOT = Path(__file__).parents[2]


def test_the_symbol_stands_first_and_nowhere_else() -> None:
    """Only the first token tells the answer; the question mark ends the row."""
    tokens, symbols = recall_batch(np.random.default_rng(1), 50, 12)
    assert tokens.shape == (13, 50)
    assert torch.equal(tokens[0], symbols)
    assert ((tokens[1:-1] >= SYMBOLS) & (tokens[1:-1] < SYMBOLS + DISTRACTORS)).all()
    assert (tokens[-1] == QUESTION).all()


@pytest.mark.parametrize(
    "variant", [Variant("RNN", "rnn_tanh"), Variant("LSTM", "lstm", 0.0), Variant("GRU", "gru")]
)
def test_gradients_are_those_of_the_loss_by_the_earlier_state(variant: Variant) -> None:
    """The norm at k is what differentiating the last k steps by the state they start from gives."""
    torch.manual_seed(1)
    network, distance = RecallNetwork(variant, 8), 9
    norms = gradient_norms(network, distance, 1)
    tokens, symbols = recall_batch(np.random.default_rng(0), 1, distance)
    inputs = network.embedding(tokens).detach()
    for k in (1, 4, 9):
        _, state = network.layer(inputs[: distance + 1 - k], network.initial_state(1))
        start = tuple(part.detach().requires_grad_() for part in state)
        outputs, _ = network.layer(inputs[distance + 1 - k :], start)
        grads = torch.autograd.grad(F.cross_entropy(network.guess(outputs[-1]), symbols), start)
        for part, grad in zip(("h", "c"), grads, strict=False):
            assert norms[part][k - 1] == pytest.approx(grad.norm().item(), rel=1e-4)


def test_an_lstm_learns_to_recall() -> None:
    """In a few hundred updates it answers short distances far better than chance."""
    torch.manual_seed(1)
    options = GatesOptions(
        hidden_size=48, steps=250, rows=32, learning_rate=5e-3, distances=(2, 6), seeds=(1,)
    )
    network = RecallNetwork(Variant("LSTM", "lstm"), options.hidden_size)
    assert recall(network, 4, 300) < 0.3
    assert train_recall(network, "norm", np.random.default_rng(1), options)
    assert recall(network, 4, 300) > 0.9


def test_half_life_is_that_of_an_exponential() -> None:
    """0.5 ** (k / 7) halves every seven steps; what is level never does."""
    assert half_life([0.5 ** (k / 7) for k in range(1, 50)]) == pytest.approx(7)
    assert half_life([1.0, 1.0, 1.0]) == math.inf
    assert half_life([2.0**k for k in range(5)]) == pytest.approx(-1)
    assert math.isnan(half_life([0.0, 0.0]))


def test_the_document_is_what_its_figures_say() -> None:
    """Written again from docs/gates.json, docs/tutorial.md is the same; from other figures it is not."""
    figures = json.loads((ROOT / "docs" / "gates.json").read_text(encoding="utf-8"))
    document = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    assert insert(document, markdown(figures), BEGIN, END) == document
    figures["runs"][0]["recall"]["5"] = 0.0
    assert insert(document, markdown(figures), BEGIN, END) != document


def test_one_command_writes_the_whole_report_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every variant and seed is measured once; a second call measures nothing and writes the same."""
    assert main(["gates", "--output", str(tmp_path), "--quick"]) == 0
    found = json.loads((tmp_path / "gates.json").read_text(encoding="utf-8"))
    assert [(run["variant"], run["seed"]) for run in found["runs"]] == [
        (v.name, s) for s in (1, 2) for v in VARIANTS
    ]
    text = (tmp_path / "gates.md").read_text(encoding="utf-8")
    for variant in VARIANTS:
        assert text.count(f"| {variant.name} |") == 2
    for picture in ("gates-gradients.png", "gates-recall.png"):
        assert (tmp_path / picture).stat().st_size > 10_000
    monkeypatch.setattr("research.vanishing_gradients.measure_one", None)
    assert (
        main(["gates", "--output", str(tmp_path)]) == 2
    )  # other options than those of the runs that are kept
    (tmp_path / "begun_with.json").unlink()  # as an older program left it
    assert main(["gates", "--output", str(tmp_path), "--quick"]) == 0
    assert (
        main(["gates", "--output", str(tmp_path / "b"), "--report", str(tmp_path / "gates.json")])
        == 0
    )
    assert (tmp_path / "b" / "gates.md").read_text(encoding="utf-8") == text
