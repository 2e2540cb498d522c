"""The native library next to the graphs: the same states, bit for bit, and probabilities."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from model.checkpoint import DEFAULT_CHECKPOINT, WEIGHTS, load_checkpoint
from model.config import NetworkConfig, Tower
from model.errors import CheckpointError
from model.native import library as native
from model.native_runtime import NativeRuntime, suits
from model.onnx_graphs import build_graphs, read_tensors
from model.onnx_runtime import OnnxRuntime
from model.runtime import check_runtime, open_runtime
from tests.fixtures_checkpoint import random_weights

SIZES = NetworkConfig(
    320, "two_towers", "lstm", embedding_size=32, hidden_size=48, gap_hidden_size=16
)

LEVEL = native.network_library().lacuna_network_supported()
needs_amx = pytest.mark.skipif(LEVEL < 2, reason="needs a CPU with AMX")
needs_vnni = pytest.mark.skipif(not suits(SIZES), reason="needs a CPU with AVX-512 VNNI")


def written(folder: Path, sizes: NetworkConfig) -> Path:
    """The graphs of random weights."""
    (folder / "onnx").mkdir(parents=True)
    for path, content in build_graphs(sizes, random_weights(sizes)).items():
        (folder / path).write_bytes(content)
    return folder


@pytest.fixture(scope="module", params=["vnni", pytest.param("amx", marks=needs_amx)])
def runtimes(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[NativeRuntime, OnnxRuntime]:
    """Both, with the same weights."""
    folder = written(tmp_path_factory.mktemp("graphs"), SIZES)
    return NativeRuntime(folder, SIZES, request.param == "amx"), OnnxRuntime(folder, SIZES)


def questions(count: int, seed: int) -> dict[str, tuple[Any, ...]]:
    """Inputs of each call, the next head's first."""
    generator = np.random.default_rng(seed)
    left, right = (
        generator.normal(size=(count, SIZES.hidden_size)).astype(np.float32) for _ in range(2)
    )
    known, positions = generator.random(count) > 0.3, generator.integers(0, 9, count)
    kinds = generator.integers(0, 3, count)
    return {"next": (left,), "previous": (right,), "gap": (left, right, known, positions, kinds)}


@needs_vnni
@pytest.mark.parametrize("tower", get_args(Tower))
def test_states_are_those_of_the_graphs(
    runtimes: tuple[NativeRuntime, OnnxRuntime], tower: Tower
) -> None:
    """New states and outputs are bit for bit the same, for rows of any lengths."""
    generator = np.random.default_rng(1)
    for count, steps in ((1, 1), (2, 5), (7, 13), (9, 0), (33, 4)):
        states = generator.normal(size=(count, SIZES.state_size(tower))).astype(np.float32)
        tokens = generator.integers(0, SIZES.vocabulary_size, (count, steps))
        lengths = generator.integers(0, steps + 1, count)
        before = states.copy()
        new, outputs = runtimes[0].run_tower(tower, states, tokens, lengths)
        assert np.array_equal(states, before)
        if not steps:
            assert np.array_equal(new, states)
            continue
        expected, expected_outputs = runtimes[1].run_tower(tower, states, tokens, lengths)
        read = np.arange(steps) < lengths[:, None]
        assert np.array_equal(new, expected)
        assert np.array_equal(outputs[read], expected_outputs[read])


@needs_vnni
@pytest.mark.parametrize("head", ["next", "previous", "gap"])
def test_scores_are_those_of_the_graphs(
    runtimes: tuple[NativeRuntime, OnnxRuntime], head: Any
) -> None:
    """They agree to rounding; each row of a batch is bit for bit the row alone."""
    check_runtime(runtimes[0])
    for count in (1, 2, 3, 7, 18):
        inputs = questions(count, count)[head]
        rows, expected = (runtime.score(head, *inputs) for runtime in runtimes)
        np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-6)
        for n in range(count):
            alone = runtimes[0].score(head, *(each[[n]] for each in inputs))
            assert np.array_equal(alone[0], rows[n])


@needs_vnni
def test_a_networks_rows_do_not_depend_on_the_batch(
    runtimes: tuple[NativeRuntime, OnnxRuntime],
) -> None:
    """A row that is read among others, and in two parts, has the same state."""
    generator = np.random.default_rng(3)
    states = generator.normal(size=(11, SIZES.state_size("forward"))).astype(np.float32)
    tokens, lengths = generator.integers(0, 300, (11, 8)), generator.integers(2, 9, 11)
    together, _ = runtimes[0].run_tower("forward", states, tokens, lengths)
    for n, length in enumerate(lengths.tolist()):
        state = states[[n]]
        for part in (tokens[[n], :2], tokens[[n], 2:length]):
            state, _ = runtimes[0].run_tower("forward", state, part, np.array([part.shape[1]]))
        assert np.array_equal(state[0], together[n])


@needs_amx
@pytest.mark.parametrize("size", [48, 272, 480])
def test_amx_computes_what_vnni_computes(tmp_path: Path, size: int) -> None:
    """States and scores are bit for bit the same, for any number of rows.

    Sizes give tiles of 12, 4 and 15 fours of inputs.
    """
    sizes = replace(SIZES, hidden_size=size)
    folder, generator = written(tmp_path, sizes), np.random.default_rng(size)
    amx, vnni = (NativeRuntime(folder, sizes, use_amx) for use_amx in (True, False))
    for count in range(1, 41):
        states = generator.normal(size=(count, sizes.state_size("forward"))).astype(np.float32)
        tokens, lengths = generator.integers(0, 320, (count, 2)), np.full(count, 2)
        ours, theirs = (
            runtime.run_tower("forward", states, tokens, lengths) for runtime in (amx, vnni)
        )
        assert all(map(np.array_equal, ours, theirs))
        tops = ours[1][:, 1]
        assert np.array_equal(amx.score("next", tops), vnni.score("next", tops))


@pytest.mark.parametrize("name", ["forward_tower.0.bias", "next.scale", "gap.kind"])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, name: str) -> None:
    """The native gates hide NaN, so no question would show it."""
    folder = written(tmp_path, SIZES)
    values = read_tensors(folder, SIZES)[0][name]
    damaged = values.copy()
    damaged.flat[1] = np.nan
    content = (folder / WEIGHTS).read_bytes().replace(values.tobytes(), damaged.tobytes())
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} is not finite"):
        NativeRuntime(folder, SIZES)


@needs_vnni
def test_rows_that_do_not_fit_are_refused(runtimes: tuple[NativeRuntime, OnnxRuntime]) -> None:
    """The library would read or write beyond an array."""
    runtime = runtimes[0]
    states = np.zeros((2, SIZES.state_size("forward")), dtype=np.float32)
    tokens, lengths = np.full((2, 3), 5), np.array([3, 1])
    for wrong, message in (
        ((states[:1], tokens, lengths), "different rows"),
        ((states[:, 1:], tokens, lengths), "different rows"),
        ((states, tokens + 400, lengths), "not in the vocabulary"),
        ((states, tokens - 9, lengths), "not in the vocabulary"),
        ((states, tokens, lengths + 1), "exceeds 3 steps"),
    ):
        with pytest.raises(ValueError, match=message):
            runtime.run_tower("forward", *wrong)
    left, right, *rest = questions(3, 1)["gap"]
    for inputs in ((left[:, 1:], right, *rest), (left, right[:2], *rest)):
        with pytest.raises(ValueError, match="different rows"):
            runtime.score("gap", *inputs)


def test_other_networks_are_left_to_onnx_runtime() -> None:
    """Sizes must be multiples of 16; other cells and stacked networks do not suit."""
    odd: tuple[dict[str, Any], ...] = (
        {"hidden_size": 40},
        {"vocabulary_size": 321},
        {"gap_hidden_size": 12},
        {"cell": "gru"},
        {"architecture": "stacked_bidirectional", "backward_layers": 0, "gap_hidden_size": 0},
    )
    assert not any(suits(replace(SIZES, **change)) for change in odd)


def test_the_bundled_network_suits_this_cpu_or_is_run_by_onnx_runtime() -> None:
    """The runtime that answers is named, so that a benchmark can record it."""
    checkpoint = load_checkpoint(DEFAULT_CHECKPOINT)
    fits = suits(checkpoint.required_network())
    assert open_runtime(checkpoint).name == ("native" if fits else "onnxruntime")
    assert open_runtime(checkpoint, threads=2).name == "onnxruntime"
