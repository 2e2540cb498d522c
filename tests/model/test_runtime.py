"""The runtimes give what the formulas say, and every row gets its answer as if it were alone."""

import dataclasses
import functools
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from model.checkpoint import Checkpoint, load_checkpoint
from model.config import SPAN, TOKEN, WORD, Cell, Tower
from model.errors import CheckpointError, UnsupportedError
from model.onnx_runtime import OnnxRuntime, products_saturate
from model.runtime import Runtime, check_runtime, initial_states, open_runtime, output_of
from model.torch_runtime import open_torch_runtime
from tests.fixtures_checkpoint import build_tiny_checkpoint
from tests.reference_network import ReferenceNetwork

# Largest difference of a log-probability or a state that is allowed; measured, over all cells and up to width 480:
EXACT = 1e-5  # fp32 runtimes against float64: 2.3e-6
QUANTISED = 0.1  # int8 graphs against float64, on random weights: 0.037
SAME_ROUNDING = 0.02  # int8 graphs against the same roundings in numpy: 1e-6, but 0.01 where a tie falls the other way

CELLS: tuple[Cell, ...] = ("rnn_tanh", "gru", "lstm")
RUNTIMES = ("int8", "fp32", "torch")


@pytest.fixture(scope="session", params=CELLS)
def cell_checkpoint(
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
    checkpoint = load_checkpoint(directory)
    if name == "torch":
        return open_torch_runtime(checkpoint.directory, checkpoint.network, "cpu")
    return OnnxRuntime(
        checkpoint.directory, checkpoint.network, precision="int8" if name == "int8" else "fp32"
    )


def reference(checkpoint: Checkpoint, *, quantised: bool = False) -> ReferenceNetwork:
    """The numpy network with the checkpoint's weights."""
    return ReferenceNetwork(
        checkpoint.network,
        load_file(checkpoint.directory / "weights.safetensors"),
        quantised=quantised,
    )


def padded(rows: Sequence[Sequence[int]], width: int, filler: int) -> np.ndarray:
    """Rows of tokens as an array (N, width), right-padded."""
    return np.array(
        [[*row, *[filler] * (width - len(row))] for row in rows], dtype=np.int64
    ).reshape(len(rows), width)


def difference(left: np.ndarray, right: np.ndarray) -> float:
    """Largest difference; both must have minus infinity at the same places."""
    assert np.array_equal(np.isneginf(left), np.isneginf(right))
    finite = np.isfinite(left)
    return float(np.abs(left[finite] - right[finite]).max())


@pytest.mark.parametrize(
    ("name", "quantised", "bound"),
    [
        ("fp32", False, EXACT),
        ("torch", False, EXACT),
        ("int8", True, SAME_ROUNDING),
        ("int8", False, QUANTISED),
    ],
)
def test_runtime_computes_the_formulas(
    cell_checkpoint: Checkpoint, name: str, quantised: bool, bound: float
) -> None:
    """Towers and heads of every runtime agree with the numpy networks, in float64 and with the same roundings."""
    network, oracle = cell_checkpoint.network, reference(cell_checkpoint, quantised=quantised)
    runtime = opened(name, cell_checkpoint.directory)
    generator = np.random.default_rng(1)
    rows = [[1, 300, 301, 9, 310], [280, 281], [], [7]]
    lengths = np.array([len(row) for row in rows])
    tops: dict[Tower, np.ndarray] = {}
    for tower in ("forward", "backward"):
        states = generator.normal(size=(4, network.state_size(tower))).astype(np.float32) * 0.3
        new_states, outputs = runtime.advance(tower, states, padded(rows, 5, 0), lengths)
        for row, tokens in enumerate(rows):
            expected_state, expected_outputs = oracle.advance(tower, states[row], tokens)
            assert difference(new_states[row], expected_state) < bound
            if tokens:
                assert difference(outputs[row, : len(tokens)], np.array(expected_outputs)) < bound
        assert np.array_equal(new_states[2], states[2]), "a row of length 0 keeps its state"
        tops[tower] = output_of(network, tower, new_states)
        for row in (0, 1, 3):
            assert np.array_equal(tops[tower][row], outputs[row, lengths[row] - 1])

    followed = runtime.next_log_probabilities(tops["forward"])
    preceded = runtime.previous_log_probabilities(tops["backward"])
    known, positions = np.array([True, False, True, True]), np.array([0, 0, 3, 40])
    kinds = np.array([WORD, TOKEN, SPAN, WORD])
    filled = runtime.gap_log_probabilities(
        tops["forward"], tops["backward"], known, positions, kinds
    )
    for row in range(4):
        assert difference(followed[row], oracle.next(tops["forward"][row])) < bound
        assert difference(preceded[row], oracle.previous(tops["backward"][row])) < bound
        right = tops["backward"][row] if known[row] else None
        gap = oracle.gap(tops["forward"][row], right, int(positions[row]), int(kinds[row]))
        assert difference(filled[row], gap) < bound
    for log_probabilities in (followed, preceded, filled):
        assert np.allclose(np.exp(log_probabilities.astype(np.float64)).sum(axis=1), 1, atol=1e-5)


def test_masks_are_where_they_must_be(tiny_checkpoint: Path) -> None:
    """Controls are never proposed; the end of a gap only by the gap head, and not while the gap is empty."""
    checkpoint = load_checkpoint(tiny_checkpoint)
    runtime = open_runtime(checkpoint)
    outputs = np.zeros((2, checkpoint.network.hidden_size), dtype=np.float32)
    kinds = np.zeros(2, dtype=np.int64)
    followed = runtime.next_log_probabilities(outputs)
    gap = runtime.gap_log_probabilities(
        outputs, outputs, np.ones(2, dtype=bool), np.array([0, 1]), kinds
    )
    assert np.flatnonzero(np.isneginf(followed[0])).tolist() == [0, 1, 2, 3, 4]
    assert np.flatnonzero(np.isneginf(gap[0])).tolist() == [0, 1, 2, 3, 4]
    assert np.flatnonzero(np.isneginf(gap[1])).tolist() == [0, 1, 2, 3]


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[list[int]], int, int, int, list[int]]:
    """Rows of tokens, extra padding, the id that pads, a seed for states, an order."""
    rows = draw(st.lists(st.lists(st.integers(0, 350), max_size=4), min_size=1, max_size=20))
    extra, filler, seed = (
        draw(st.integers(0, 3)),
        draw(st.integers(0, 350)),
        draw(st.integers(0, 1000)),
    )
    return rows, extra, filler, seed, draw(st.permutations(range(len(rows))))


@pytest.mark.parametrize("name", RUNTIMES)
@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batch=batches())
def test_towers_are_batch_invariant(
    cell_checkpoint: Checkpoint, name: str, batch: tuple[list[list[int]], int, int, int, list[int]]
) -> None:
    """A row's state and outputs are bit for bit the same alone and in any batch, order and padding."""
    rows, extra, filler, seed, order = batch
    runtime, network = opened(name, cell_checkpoint.directory), cell_checkpoint.network
    width = max(map(len, rows)) + extra
    for tower in ("forward", "backward"):
        states = (
            np.random.default_rng(seed)
            .normal(size=(len(rows), network.state_size(tower)))
            .astype(np.float32)
        )
        states[::3] = 0
        lengths = np.array([len(row) for row in rows])
        together = runtime.advance(
            tower, states[order], padded([rows[i] for i in order], width, filler), lengths[order]
        )
        for place, row in enumerate(order):
            alone = runtime.advance(
                tower, states[row : row + 1], padded([rows[row]], len(rows[row]), 0), lengths[[row]]
            )
            assert np.array_equal(together[0][place], alone[0][0])
            assert np.array_equal(together[1][place, : lengths[row]], alone[1][0])


@pytest.mark.parametrize("name", RUNTIMES)
@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 1000), count=st.integers(1, 40), start=st.integers(0, 39))
def test_heads_are_batch_invariant(
    cell_checkpoint: Checkpoint, name: str, seed: int, count: int, start: int
) -> None:
    """A row's log-probabilities are bit for bit the same in any slice of a batch, from every head."""
    runtime, network = opened(name, cell_checkpoint.directory), cell_checkpoint.network
    generator = np.random.default_rng(seed)
    forward, backward = (
        generator.normal(size=(count, network.hidden_size)).astype(np.float32)
        * generator.choice([0, 0.1, 1, 3], (count, 1))
        for _ in range(2)
    )
    forward, backward = forward.astype(np.float32), backward.astype(np.float32)
    known, positions, kinds = (
        generator.random(count) < 0.5,
        generator.integers(0, 12, count),
        generator.integers(0, 3, count),
    )
    part = slice(min(start, count - 1), None)
    for head, inputs in (
        (runtime.next_log_probabilities, (forward,)),
        (runtime.previous_log_probabilities, (backward,)),
        (runtime.gap_log_probabilities, (forward, backward, known, positions, kinds)),
    ):
        together = head(*inputs)
        assert np.array_equal(together[part], head(*(value[part] for value in inputs)))
        first = part.start
        assert np.array_equal(
            together[first], head(*(value[first : first + 1] for value in inputs))[0]
        )


@pytest.mark.parametrize("name", RUNTIMES)
def test_reading_in_one_call_or_in_several_is_the_same(
    cell_checkpoint: Checkpoint, name: str
) -> None:
    """A state kept after a prefix and advanced later is bit for bit the state of the whole text."""
    runtime, network = opened(name, cell_checkpoint.directory), cell_checkpoint.network
    tokens = np.array([[1, 300, 12, 280, 299, 7]])
    whole, outputs = runtime.advance(
        "forward", initial_states(network, "forward", 1), tokens, np.array([6])
    )
    for cut in range(1, 6):
        state, _ = runtime.advance(
            "forward", initial_states(network, "forward", 1), tokens[:, :cut], np.array([cut])
        )
        state, rest = runtime.advance("forward", state, tokens[:, cut:], np.array([6 - cut]))
        assert np.array_equal(state, whole)
        assert np.array_equal(rest, outputs[:, cut:])


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_real_sizes_and_threads_change_no_bit(
    tmp_path: Path, precision: Literal["int8", "fp32"]
) -> None:
    """At the widths of the bundled network, a row alone on one thread equals the same row among 33 on two."""
    checkpoint = build_tiny_checkpoint(
        tmp_path / "wide", embedding_size=256, hidden_size=480, gap_hidden_size=384
    )
    network = checkpoint.network
    single, double = (
        OnnxRuntime(checkpoint.directory, network, threads=threads, precision=precision)
        for threads in (1, 2)
    )
    generator = np.random.default_rng(3)
    states = generator.normal(size=(33, network.state_size("forward"))).astype(np.float32)
    tokens, lengths = (
        generator.integers(5, network.vocabulary_size, (33, 3)),
        generator.integers(0, 4, 33),
    )
    together, _ = double.advance("forward", states, tokens, lengths)
    tops = output_of(network, "forward", together)
    followed = double.next_log_probabilities(tops)
    filled = double.gap_log_probabilities(
        tops, tops, lengths > 1, lengths, np.zeros(33, dtype=np.int64)
    )
    for row in range(33):
        one = slice(row, row + 1)
        alone, _ = single.advance("forward", states[one], tokens[one], lengths[one])
        assert np.array_equal(alone[0], together[row])
        assert np.array_equal(single.next_log_probabilities(tops[one])[0], followed[row])
        gap = single.gap_log_probabilities(
            tops[one], tops[one], lengths[one] > 1, lengths[one], np.zeros(1, dtype=np.int64)
        )
        assert np.array_equal(gap[0], filled[row])


@pytest.mark.parametrize("name", RUNTIMES)
def test_no_rows_and_no_steps(cell_checkpoint: Checkpoint, name: str) -> None:
    """Empty batches and batches of empty rows are answered, with empty arrays and unchanged states."""
    runtime, network = opened(name, cell_checkpoint.directory), cell_checkpoint.network
    none = np.zeros((0, network.hidden_size), dtype=np.float32)
    no_ids, no_flags = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.bool_)
    assert runtime.next_log_probabilities(none).shape == (0, network.vocabulary_size)
    assert runtime.previous_log_probabilities(none).shape == (0, network.vocabulary_size)
    assert runtime.gap_log_probabilities(none, none, no_flags, no_ids, no_ids).shape == (
        0,
        network.vocabulary_size,
    )
    states, outputs = runtime.advance(
        "forward", initial_states(network, "forward", 0), np.zeros((0, 3), int), no_ids
    )
    assert states.shape == (0, network.state_size("forward"))
    assert outputs.shape == (0, 3, network.hidden_size)
    before = np.full((2, network.state_size("forward")), 0.25, dtype=np.float32)
    states, outputs = runtime.advance("forward", before, np.zeros((2, 0), int), np.zeros(2, int))
    assert np.array_equal(states, before)
    assert outputs.shape == (2, 0, network.hidden_size)


@pytest.mark.parametrize("cell", CELLS)
def test_a_forward_network_answers_only_forward_questions(tmp_path: Path, cell: Cell) -> None:
    """One tower of one layer predicts as the formulas say, and refuses the backward tower and its heads by name."""
    checkpoint = build_tiny_checkpoint(
        tmp_path / "forward", architecture="forward", cell=cell, forward_layers=1
    )
    network = checkpoint.network
    outputs = np.zeros((1, network.hidden_size), dtype=np.float32)
    one = np.ones(1, dtype=np.int64)
    for name in RUNTIMES:
        runtime = opened(name, checkpoint.directory)
        state, _ = runtime.advance(
            "forward", initial_states(network, "forward", 1), np.array([[1, 300]]), np.array([2])
        )
        expected, _ = reference(checkpoint).advance(
            "forward", np.zeros(network.state_size("forward")), [1, 300]
        )
        assert difference(state[0], expected) < QUANTISED
        assert (
            difference(
                runtime.next_log_probabilities(outputs)[0], reference(checkpoint).next(outputs[0])
            )
            < QUANTISED
        )
        with pytest.raises(UnsupportedError, match="two towers"):
            runtime.advance("backward", state, np.array([[2]]), np.array([1]))
        with pytest.raises(UnsupportedError, match="two towers"):
            runtime.previous_log_probabilities(outputs)
        with pytest.raises(UnsupportedError, match="two towers"):
            runtime.gap_log_probabilities(outputs, outputs, one > 0, one, one)


def test_weights_in_half_precision_are_read(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """The torch runtime reads float16 weights and computes in float32, within float16's rounding of the weights."""
    directory = tmp_path / "half"
    shutil.copytree(tiny_checkpoint, directory)
    weights = load_file(directory / "weights.safetensors")
    save_file(
        {name: value.astype(np.float16) for name, value in weights.items()},
        directory / "weights.safetensors",
    )
    config = load_checkpoint(tiny_checkpoint).network
    half, full = (
        open_torch_runtime(directory, config, "cpu"),
        open_torch_runtime(tiny_checkpoint, config, "cpu"),
    )
    outputs = np.random.default_rng(0).normal(size=(3, config.hidden_size)).astype(np.float32)
    gap = difference(half.next_log_probabilities(outputs), full.next_log_probabilities(outputs))
    assert 0 < gap < 0.01


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "saturates"),
    [
        ("x86_64", "flags\t\t: fpu avx2 avx512f avx512_vnni\n", False),
        ("AMD64", "flags\t\t: fpu avx2 avx_vnni\n", False),
        ("x86_64", "flags\t\t: fpu avx2 avx512f avx512_vnnix\n", True),
        ("x86_64", None, True),
        ("aarch64", None, False),
    ],
)
def test_slow_exact_kernels_are_for_processors_without_vnni(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    cpuinfo: str | None,
    saturates: bool,
) -> None:
    """x86 needs VNNI for exact sums of fast products; where nothing tells, the exact kernels are taken."""
    monkeypatch.setattr("platform.machine", lambda: machine)
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo, encoding="utf-8")
    assert products_saturate(tmp_path / "cpuinfo") is saturates


def test_graphs_that_cannot_be_opened_are_named(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """A missing graph, a torn one and one of other sizes are each a CheckpointError with the path."""
    directory = tmp_path / "torn"
    shutil.copytree(tiny_checkpoint, directory)
    config = load_checkpoint(tiny_checkpoint).network
    with pytest.raises(CheckpointError, match=r"forward\.onnx has width 96, config\.json says 144"):
        OnnxRuntime(directory, dataclasses.replace(config, forward_layers=3))
    graph = directory / "onnx" / "next.onnx"
    graph.write_bytes(graph.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"next\.onnx: onnxruntime cannot open it"):
        OnnxRuntime(directory, config)
    graph.unlink()
    with pytest.raises(CheckpointError, match=r"next\.onnx is missing"):
        OnnxRuntime(directory, config)


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_runtime_passes_its_check(cell_checkpoint: Checkpoint, name: str) -> None:
    """Networks of every cell, on all runtimes, say what a network can say."""
    check_runtime(opened(name, cell_checkpoint.directory))


@pytest.mark.parametrize("architecture", ["forward", "stacked_bidirectional"])
def test_every_architecture_passes_its_check(tmp_path: Path, architecture: str) -> None:
    """So do those without a gap head, and those without towers."""
    layers = {"forward_layers": 2} if architecture == "forward" else {"forward_layers": 3}
    open_runtime(
        build_tiny_checkpoint(tmp_path / "new", architecture=architecture, fp32=False, **layers)
    )


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("forward", "forward_tower.0.weight_hh.scale"),
        ("backward", "backward_tower.0.weight_hh.scale"),
        ("next", "number.1e-30"),
        ("previous", "number.1e-30"),
        ("gap", "number.1e-30"),
    ],
)
def test_numbers_that_are_none_are_refused(
    tmp_path: Path, tiny_checkpoint: Path, name: str, tensor: str, number: float
) -> None:
    """One NaN or infinity that makes answers no numbers: a CheckpointError, though every sum be right."""
    checkpoint = dataclasses.replace(load_checkpoint(tiny_checkpoint), directory=tmp_path)
    shutil.copytree(tiny_checkpoint / "onnx", tmp_path / "onnx")
    graph = onnx.load(tmp_path / "onnx" / f"{name}.onnx", load_external_data=False)
    (found,) = [stored for stored in graph.graph.initializer if stored.name == tensor]
    values = np.frombuffer(found.raw_data, dtype="<f4").copy()
    values[-1] = number
    found.raw_data = values.tobytes()
    (tmp_path / "onnx" / f"{name}.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(CheckpointError, match=r"its network cannot be run: the .* (head|tower)"):
        open_runtime(checkpoint)


def test_a_graph_in_the_place_of_another_is_named(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """A head of another form cannot be run, and that is said when it is opened, not when it is asked."""
    checkpoint = dataclasses.replace(load_checkpoint(tiny_checkpoint), directory=tmp_path)
    shutil.copytree(tiny_checkpoint / "onnx", tmp_path / "onnx")
    shutil.copy(tiny_checkpoint / "onnx" / "next.onnx", tmp_path / "onnx" / "gap.onnx")
    with pytest.raises(
        CheckpointError, match=r"its network cannot be run: .*; export the checkpoint again"
    ):
        open_runtime(checkpoint)


def test_weights_that_do_not_fit_are_named(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Torch is given the weights of exactly the configured network, or the path and the reason are reported."""
    config = load_checkpoint(tiny_checkpoint).network
    with pytest.raises(CheckpointError, match=r"weights\.safetensors does not fit"):
        open_torch_runtime(tiny_checkpoint, dataclasses.replace(config, forward_layers=3), "cpu")
    (tmp_path / "weights.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0not json")
    with pytest.raises(CheckpointError, match=r"weights\.safetensors does not fit"):
        open_torch_runtime(tmp_path, config, "cpu")


def test_a_gpu_that_is_not_there_is_named(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking for a GPU where there is none is a CheckpointError that says what to choose."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CheckpointError, match="choose cpu"):
        open_runtime(load_checkpoint(tiny_checkpoint), device="cuda")


def test_serving_on_a_cpu_loads_no_training_packages(tiny_checkpoint: Path) -> None:
    """Loading a checkpoint and running every graph imports neither torch nor onnx nor safetensors."""
    program = """
import sys
from pathlib import Path
import numpy as np
from model.checkpoint import load_checkpoint
from model.runtime import initial_states, open_runtime, output_of
checkpoint = load_checkpoint(Path(sys.argv[1]))
runtime, network = open_runtime(checkpoint), checkpoint.network
one = np.ones(1, dtype=np.int64)
forward, _ = runtime.advance("forward", initial_states(network, "forward", 1), one[None], one)
backward, _ = runtime.advance("backward", initial_states(network, "backward", 1), one[None], one)
tops = output_of(network, "forward", forward), output_of(network, "backward", backward)
runtime.next_log_probabilities(tops[0])
runtime.previous_log_probabilities(tops[1])
runtime.gap_log_probabilities(*tops, one > 0, one, one)
print(sorted({"torch", "onnx", "safetensors"} & sys.modules.keys()))
"""
    command = [sys.executable, "-c", program, str(tiny_checkpoint)]
    result = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert result.stdout.strip() == "[]"
    assert result.stderr == ""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore:RNN module weights are not part of")
def test_gpu_agrees_and_is_batch_invariant(cell_checkpoint: Checkpoint) -> None:
    """On a GPU a row is bit for bit the same alone and among 300, and close to the CPU's."""
    network = cell_checkpoint.network
    runtime, oracle = (
        open_torch_runtime(cell_checkpoint.directory, network, "cuda"),
        opened("torch", cell_checkpoint.directory),
    )
    generator = np.random.default_rng(0)
    states = generator.normal(size=(300, network.state_size("forward"))).astype(np.float32)
    tokens, lengths = generator.integers(0, 350, (300, 4)), generator.integers(0, 5, 300)
    together, _ = runtime.advance("forward", states, tokens, lengths)
    followed = runtime.next_log_probabilities(output_of(network, "forward", together))
    expected, _ = oracle.advance("forward", states, tokens, lengths)
    assert difference(together, expected) < 1e-3
    for row in (0, 100, 255, 256, 299):
        one = slice(row, row + 1)
        alone, _ = runtime.advance("forward", states[one], tokens[one], lengths[one])
        assert np.array_equal(alone[0], together[row])
        log_probabilities = runtime.next_log_probabilities(output_of(network, "forward", alone))
        assert np.array_equal(log_probabilities[0], followed[row])
