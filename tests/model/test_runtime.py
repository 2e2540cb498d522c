"""Every runtime computes the formulas, and every row gets its answer as if it were alone."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.checkpoint import Checkpoint, load_checkpoint
from model.config import SPAN, TOKEN, WORD, Cell, Tower
from model.onnx_runtime import OnnxRuntime
from model.runtime import (
    Head,
    Runtime,
    check_runtime,
    initial_states,
    log_of,
    open_runtime,
    output_slice,
)
from model.tokenizer import BLANK, START
from model.torch_runtime import open_torch_runtime
from tests.fixtures_checkpoint import build_tiny_checkpoint
from tests.reference_network import open_reference

# Largest allowed difference of a log-probability or a state; measured, up to width 480:
EXACT = 1e-5  # torch against float64: 2.3e-6
QUANTISED = 0.1  # int8 graphs against float64, on random weights: 0.037
SAME_ROUNDING = 0.02  # int8 graphs against the same roundings in numpy: 1e-6, but 0.01 after a tie

CELLS: tuple[Cell, ...] = ("rnn_tanh", "gru", "lstm")
RUNTIMES = ("int8", "unsigned int8", "torch")
TOWERS: tuple[Tower, ...] = ("forward", "backward")
each_runtime = pytest.mark.parametrize("name", RUNTIMES)
property_test = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="session", params=CELLS)
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    """Two towers of two layers, once with every cell; sizes that no vector register divides."""
    torch.set_num_threads(1)
    return build_tiny_checkpoint(
        tmp_path_factory.mktemp("cells") / request.param,
        cell=request.param,
        embedding_size=13,
        hidden_size=19,
        backward_layers=2,
        gap_hidden_size=7,
    )


@functools.cache
def opened(name: str, directory: Path) -> Runtime:
    """One of RUNTIMES on a checkpoint; opened once."""
    config = load_checkpoint(directory).config.network
    if name == "torch":
        return open_torch_runtime(directory, config, "cpu")
    with pytest.MonkeyPatch.context() as patch:
        if name == "unsigned int8":  # as on a CPU without VNNI
            patch.setattr("model.onnx_runtime.products_saturate", lambda: True)
        return OnnxRuntime(directory, config)


def random_rows(generator: np.random.Generator, *shape: int) -> np.ndarray:
    """Float32 numbers of states or outputs."""
    return generator.normal(size=shape).astype(np.float32)


def padded(rows: Sequence[Sequence[int]], width: int, filler: int) -> np.ndarray:
    """Rows of tokens as an array (N, width), right-padded."""
    filled = [[*row, *[filler] * (width - len(row))] for row in rows]
    return np.array(filled, dtype=np.int64).reshape(len(rows), width)


def difference(left: np.ndarray, right: np.ndarray) -> float:
    """Largest difference; both must have minus infinity at the same places."""
    assert np.array_equal(np.isneginf(left), np.isneginf(right))
    finite = np.isfinite(left)
    return float(np.abs(left[finite] - right[finite]).max())


@pytest.mark.parametrize(
    ("name", "quantised", "bound"),
    [
        ("torch", False, EXACT),
        ("int8", True, SAME_ROUNDING),
        ("int8", False, QUANTISED),
        ("unsigned int8", True, SAME_ROUNDING),
    ],
)
def test_runtime_computes_the_formulas(
    checkpoint: Checkpoint, name: str, quantised: bool, bound: float
) -> None:
    """Towers and heads agree with the numpy network, and pass the check of a new runtime."""
    oracle = open_reference(checkpoint, quantised=quantised)
    runtime = opened(name, checkpoint.directory)
    check_runtime(runtime)
    generator = np.random.default_rng(1)
    rows = [[1, 300, 301, 9, 310], [280, 281], [], [7]]
    lengths = np.array([len(row) for row in rows])
    tops: dict[Tower, np.ndarray] = {}
    for tower in TOWERS:
        states = random_rows(generator, 4, runtime.sizes.state_size(tower)) * np.float32(0.3)
        new_states, outputs = runtime.run_tower(tower, states, padded(rows, 5, 0), lengths)
        for row, tokens in enumerate(rows):
            expected_state, expected_outputs = oracle.run_tower(tower, states[row], tokens)
            assert difference(new_states[row], expected_state) < bound
            if tokens:
                assert difference(outputs[row, : len(tokens)], np.array(expected_outputs)) < bound
        assert np.array_equal(new_states[2], states[2]), "a row of length 0 keeps its state"
        tops[tower] = new_states[:, output_slice(runtime.sizes, tower)]
        for row in (0, 1, 3):
            assert np.array_equal(tops[tower][row], outputs[row, lengths[row] - 1])

    forward, backward = tops["forward"], tops["backward"]
    known, positions = np.array([True, False, True, True]), np.array([0, 0, 3, 40])
    kinds = np.array([WORD, TOKEN, SPAN, WORD])
    next_, previous = runtime.score("next", forward), runtime.score("previous", backward)
    gap = runtime.score("gap", forward, backward, known, positions, kinds)
    for row in range(4):
        assert difference(log_of(next_[row]), oracle.score("next", forward[row])) < bound
        assert difference(previous[row], oracle.score("previous", backward[row])) < bound
        right = backward[row] if known[row] else None
        expected = oracle.gap(forward[row], right, int(positions[row]), int(kinds[row]))
        assert difference(gap[row], expected) < bound


@pytest.mark.parametrize("cell", CELLS)
def test_stacked_networks_compute_the_formulas(tmp_path: Path, cell: Cell) -> None:
    """Every runtime agrees with the numpy network; a line gives the same bits alone and padded."""
    sizes: Any = {"embedding_size": 13, "hidden_size": 19, "forward_layers": 3, "cell": cell}
    checkpoint = build_tiny_checkpoint(
        tmp_path / cell, architecture="stacked_bidirectional", **sizes
    )
    lines = [[START, 300, BLANK, 301, 9], [START, BLANK], [START, 280, 281, BLANK]]
    places, lengths = np.array([2, 1, 3]), np.array([5, 2, 4])
    for name in RUNTIMES:
        runtime = opened(name, checkpoint.directory)
        check_runtime(runtime)
        rows = runtime.score("fill", padded(lines, 5, 7), lengths, places)
        oracle = open_reference(checkpoint, quantised=name != "torch")
        for n, line in enumerate(lines):
            bound = EXACT if name == "torch" else SAME_ROUNDING
            assert difference(rows[n], oracle.fill(line, int(places[n]))) < bound
            alone = runtime.score("fill", np.array([line]), lengths[[n]], places[[n]])
            assert np.array_equal(alone[0], rows[n])


@each_runtime
@property_test
@given(
    rows=st.lists(st.lists(st.integers(0, 350), max_size=4), min_size=1, max_size=20),
    extra=st.integers(1, 3),
    filler=st.integers(0, 350),
    seed=st.integers(0, 1000),
)
def test_towers_are_batch_invariant(
    checkpoint: Checkpoint, name: str, rows: list[list[int]], extra: int, filler: int, seed: int
) -> None:
    """A row's state and outputs are bit for bit the same in any batch, order and padding."""
    runtime, generator = opened(name, checkpoint.directory), np.random.default_rng(seed)
    order = generator.permutation(len(rows))
    lengths = np.array([len(row) for row in rows])
    tokens = padded([rows[row] for row in order], max(lengths) + extra, filler)
    for tower in TOWERS:
        states = random_rows(generator, len(rows), runtime.sizes.state_size(tower))
        states[::3] = 0
        together = runtime.run_tower(tower, states[order], tokens, lengths[order])
        for place, row in enumerate(order):
            alone = runtime.run_tower(
                tower, states[[row]], padded([rows[row]], max(lengths[row], 1), 0), lengths[[row]]
            )
            assert np.array_equal(together[0][place], alone[0][0])
            assert np.array_equal(together[1][place, : lengths[row]], alone[1][0, : lengths[row]])


@each_runtime
@property_test
@given(seed=st.integers(0, 1000), count=st.integers(1, 40), start=st.integers(0, 39))
def test_heads_are_batch_invariant(
    checkpoint: Checkpoint, name: str, seed: int, count: int, start: int
) -> None:
    """A row's log-probabilities of every head are bit for bit the same in any slice of a batch."""
    runtime, generator = opened(name, checkpoint.directory), np.random.default_rng(seed)
    scales = generator.choice(np.float32([0, 0.1, 1, 3]), (2, count, 1))
    forward, backward = random_rows(generator, 2, count, runtime.sizes.hidden_size) * scales
    known, positions = generator.random(count) < 0.5, generator.integers(0, 12, count)
    kinds = generator.integers(0, 3, count)
    first = min(start, count - 1)
    inputs: dict[Head, tuple[np.ndarray, ...]] = {
        "next": (forward,),
        "previous": (backward,),
        "gap": (forward, backward, known, positions, kinds),
    }
    for head, arrays in inputs.items():
        together = runtime.score(head, *arrays)
        later = runtime.score(head, *(value[first:] for value in arrays))
        assert np.array_equal(together[first:], later)
        alone = runtime.score(head, *(value[[first]] for value in arrays))
        assert np.array_equal(together[first], alone[0])


@each_runtime
def test_reading_in_one_call_or_in_several_is_the_same(checkpoint: Checkpoint, name: str) -> None:
    """A state kept after a prefix and advanced later is bit for bit the state of the whole text."""
    runtime = opened(name, checkpoint.directory)
    start = initial_states(runtime.sizes, "forward", 1)
    tokens = np.array([[1, 300, 12, 280, 299, 7]])
    whole, outputs = runtime.run_tower("forward", start, tokens, np.array([6]))
    for cut in range(1, 6):
        state, _ = runtime.run_tower("forward", start, tokens[:, :cut], np.array([cut]))
        state, rest = runtime.run_tower("forward", state, tokens[:, cut:], np.array([6 - cut]))
        assert np.array_equal(state, whole)
        assert np.array_equal(rest, outputs[:, cut:])


def test_a_failing_graph_raises_and_writes_nothing(
    checkpoint: Checkpoint, capfd: pytest.CaptureFixture[str]
) -> None:
    """A token that does not exist is an error; ONNX Runtime writes no line."""
    runtime, states = (
        opened("int8", checkpoint.directory),
        initial_states(checkpoint.network, "forward", 1),
    )
    with pytest.raises(Exception, match="10000"):
        runtime.run_tower("forward", states, np.array([[10_000]]), np.array([1]))
    assert capfd.readouterr() == ("", "")


def test_real_sizes_and_threads_change_no_bit(tmp_path: Path) -> None:
    """At real widths, a row alone on one thread equals that row among 33 on two."""
    sizes = build_tiny_checkpoint(
        tmp_path / "wide", embedding_size=256, hidden_size=480, gap_hidden_size=384
    ).config.network
    single, double = (OnnxRuntime(tmp_path / "wide", sizes, threads) for threads in (1, 2))
    generator = np.random.default_rng(3)
    states = random_rows(generator, 33, sizes.state_size("forward"))
    tokens, lengths = generator.integers(5, 364, (33, 3)), generator.integers(0, 4, 33)
    together, _ = double.run_tower("forward", states, tokens, lengths)
    tops = together[:, output_slice(sizes, "forward")]
    gap = (tops, tops, lengths > 1, lengths, lengths % 3)
    heads: dict[Head, tuple[np.ndarray, ...]] = {"next": (tops,), "gap": gap}
    for row in range(33):
        one = slice(row, row + 1)
        alone, _ = single.run_tower("forward", states[one], tokens[one], lengths[one])
        assert np.array_equal(alone[0], together[row])
    for head, inputs in heads.items():
        scores = double.score(head, *inputs)
        for row in range(33):
            alone = single.score(head, *(value[row : row + 1] for value in inputs))
            assert np.array_equal(alone[0], scores[row])


def test_one_tower_passes_the_check(tmp_path: Path) -> None:
    """A network without a backward tower can be opened."""
    open_runtime(build_tiny_checkpoint(tmp_path / "new", architecture="forward"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore:RNN module weights are not part of")
def test_gpu_agrees_and_is_batch_invariant(checkpoint: Checkpoint) -> None:
    """On a GPU a row is bit for bit the same alone and among 300, and close to the CPU's."""
    sizes = checkpoint.config.network
    runtime = open_torch_runtime(checkpoint.directory, sizes, "cuda")
    generator = np.random.default_rng(0)
    states = random_rows(generator, 300, sizes.state_size("forward"))
    tokens, lengths = generator.integers(0, 350, (300, 4)), generator.integers(0, 5, 300)
    together, _ = runtime.run_tower("forward", states, tokens, lengths)
    next_ = runtime.score("next", together[:, output_slice(sizes, "forward")])
    oracle = opened("torch", checkpoint.directory)
    assert difference(together, oracle.run_tower("forward", states, tokens, lengths)[0]) < 1e-3
    for row in (0, 100, 255, 256, 299):
        alone, _ = runtime.run_tower("forward", states[[row]], tokens[[row]], lengths[[row]])
        assert np.array_equal(alone[0], together[row])
        found = runtime.score("next", alone[:, output_slice(sizes, "forward")])
        assert np.array_equal(found[0], next_[row])
