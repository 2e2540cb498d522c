"""Attacks by reloading, and by checkpoints of a hostile provider. See `benchmarks.target`."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks.target import FellError, Target

# A refusal may take so long; it is to name the file.
REFUSED_SECONDS = 10.0
_SECRET_BYTES = 48_611
_QUESTION = {"text": ["How are you doing?", "我的手机坏了"]}
_WEIGHTS, _CONFIG, _SUMS, _CARD = (
    "weights.safetensors",
    "config.json",
    "SHA256SUMS",
    "MODEL_CARD.md",
)
_NEXT, _FORWARD, _SHARED = "onnx/next.onnx", "onnx/forward.onnx", "onnx/int8.weights"


def reload_without_right(target: Target) -> None:
    """Reload without a key and with a tenant's key."""
    for key, allowed in (("", (401, 403)), ("honest", (403,))):
        if (status := target.ask("/admin/reload", b"", key)[0]) not in allowed:
            raise FellError(f"the key {key or 'of nobody'} got {status}")


def reload_anonymously(target: Target) -> None:
    """Reload as a local user, with keys waived."""
    if (status := target.ask("/admin/reload", b"")[0]) not in (401, 403):
        raise FellError(f"a local user without a key got {status}")


def hostile_directories(target: Target) -> None:
    """Reload from hostile directories, whose sums are right if the file can be read."""
    secret = target.folder / "secret"
    secret.write_bytes(os.urandom(_SECRET_BYTES))
    signs = hashlib.sha256(secret.read_bytes()).hexdigest().encode(), str(_SECRET_BYTES).encode()
    findings = []
    for number, (name, file, spoil) in enumerate(HOSTILE):
        directory = _copy(target, f"hostile-{number}")
        spoil(directory / file, secret)
        if file not in (_SUMS, "."):
            _correct_sum(directory, file)
        status, answer, seconds = _reload_from(target, directory)
        if status == 0 or seconds > REFUSED_SECONDS:
            findings.append(f"{name}: no answer within {REFUSED_SECONDS:g} s")
            break  # later reloads would wait for this one
        if status != 422 or os.fsencode(directory) not in answer:
            findings.append(f"{name}: status {status}: {answer[:300]!r}")
        if any(sign in answer for sign in signs):
            findings.append(f"{name}: the answer has size or digest of a foreign file")
        shutil.rmtree(directory)
    if not findings and (status := _reload_from(target, _copy(target, "good"))[0]) != 200:
        findings.append(f"a good checkpoint afterwards: status {status}")
    if findings:
        raise FellError("; ".join(findings))


def strange_name(target: Target) -> None:
    """Reload from a directory whose name is not UTF-8."""
    directory = _copy(target, os.fsdecode(b"caf\xe9"))
    if (status := _reload_from(target, directory)[0]) not in (200, 422):
        raise FellError(f"status {status}")


def repointed_weights(target: Target) -> None:
    """Point a graph to an unlisted file of weights, reload, change the file and reload again."""
    _swap_unlisted(target, _repoint_graph, "onnx/other.weights")


def repointed_constant(target: Target) -> None:
    """The same with a constant inside a node, which the graph does not list as a weight."""
    _swap_unlisted(target, _add_external_constant, "onnx/other.weights")


def stray_ngram(target: Target) -> None:
    """Put the arrays of an n-gram, of which nothing is listed, into a checkpoint."""
    before = _identity(target)
    directory = _copy(target, "stray")
    _write_ngram(directory)
    _must_not_change(target, before, directory)


def _swap_unlisted(target: Target, spoil: Callable[[Path], None], file: str) -> None:
    directory = _copy(target, "unlisted")
    shutil.copy(directory / _SHARED, directory / file)
    spoil(directory / _FORWARD)
    _correct_sum(directory, _FORWARD)
    if _reload_from(target, directory)[0] != 200:
        return
    before = _identity(target)
    content = bytearray((directory / file).read_bytes())
    content[:: len(content) // 100_000 or 1] = bytes(len(content[:: len(content) // 100_000 or 1]))
    (directory / file).write_bytes(content)
    _must_not_change(target, before, directory)


def _must_not_change(target: Target, before: tuple[str, bytes], directory: Path) -> None:
    status, _, _ = _reload_from(target, directory)
    after = _identity(target)
    if before != after:
        raise FellError(f"reload {status}: digests {before[0][:8]}, {after[0][:8]}; other answers")


def _identity(target: Target) -> tuple[str, bytes]:
    """Return digest and answer of the checkpoint that answers."""
    digest = json.loads(target.ask("/model", key="admin")[1])["digest"]
    answer = json.loads(target.ask("/score", _QUESTION, "admin")[1])
    return digest, json.dumps(answer["results"]).encode()


def _copy(target: Target, name: str) -> Path:
    source = target.system.checkpoint or target.system.directory / "model/pretrained/default"
    return shutil.copytree(source, target.folder / name)


def _reload_from(target: Target, directory: Path) -> tuple[int, bytes, float]:
    """Point the configured link to *directory* and reload; return status, answer and seconds."""
    link = target.folder / "link"
    link.symlink_to(directory)
    link.replace(target.checkpoint)
    began = time.monotonic()
    status, answer, _ = target.ask("/admin/reload", b"", "admin", REFUSED_SECONDS + 2)
    return status, answer, time.monotonic() - began


def _correct_sum(directory: Path, file: str) -> None:
    """Correct the listed sum, unless the file is not there to be read in reasonable time."""
    path = directory / file
    if path.is_symlink() or not path.is_file() or path.stat().st_size > 1 << 30:
        return
    lines = (directory / _SUMS).read_text().splitlines()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    corrected = [f"{digest}  {file}" if line.endswith(f"  {file}") else line for line in lines]
    (directory / _SUMS).write_text("\n".join(corrected) + "\n")


def _link_to_secret(path: Path, secret: Path) -> None:
    path.unlink()
    path.symlink_to(secret)


def _link_to_zero(path: Path, _: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _make_pipe(path: Path, _: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _make_sparse(path: Path, _: Path) -> None:
    path.write_bytes(b"")
    os.truncate(path, 1 << 40)


def _add_arrays(path: Path, _: Path) -> None:
    """List two more files, of almost 4 GiB each."""
    for name in ("a.npy", "b.npy"):
        _make_sparse(path.with_name(name), path)
        os.truncate(path.with_name(name), (4 << 30) - 1)
        path.write_text(f"{path.read_text()}{64 * '0'}  {name}\n")


def _link_to_itself(path: Path, _: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _enlarge_config(path: Path, _: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scores": {"a": "b" * 30_000_000}}))


def _nest_config(path: Path, _: Path) -> None:
    text = json.dumps(json.loads(path.read_text()) | {"scores": {"a": 1}})
    path.write_text(text.replace('{"a": 1}', '{"a": ' + 50_000 * "[" + 50_000 * "]" + "}"))


def _widen_header(shape: list[int]) -> Callable[[Path, Path], None]:
    def spoil(path: Path, _: Path) -> None:
        tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
        header = json.dumps({"a": tensor}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header)

    return spoil


def _lengthen_header(path: Path, _: Path) -> None:
    header = b'{"a": "' + b"b" * 90_000_000 + b'"}'
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def _loop_graph(path: Path, _: Path) -> None:
    """Add 2^62 rounds of a loop to the result."""
    keep = [
        helper.make_tensor_value_info(name, kind, [])
        for name, kind in (("round", TensorProto.INT64), ("on", TensorProto.BOOL))
    ]
    values = [helper.make_tensor_value_info(f"v_{end}", TensorProto.FLOAT, None) for end in "io"]
    goes_on = helper.make_tensor_value_info("goes_on", TensorProto.BOOL, [])
    steps = [
        helper.make_node("Identity", ["on"], ["goes_on"]),
        helper.make_node("Identity", ["v_i"], ["v_o"]),
    ]
    body = helper.make_graph(steps, "body", [*keep, values[0]], [goes_on, values[1]])
    rounds = helper.make_tensor("rounds", TensorProto.INT64, [], [1 << 62])
    start = helper.make_tensor("start", TensorProto.BOOL, [], [True])
    _append(
        path,
        [rounds, start],
        lambda old, new: [helper.make_node("Loop", ["rounds", "start", old], [new], body=body)],
    )


def _double_graph(path: Path, _: Path) -> None:
    """Let operators that any network needs make a tensor of 2^36 numbers."""
    nodes = 28

    def chain(old: str, new: str) -> list[onnx.NodeProto]:
        doubled = [
            helper.make_node("Concat", [f"d{n}" if n else old] * 2, [f"d{n + 1}"], axis=1)
            for n in range(nodes)
        ]
        mean = helper.make_node("ReduceMax", [f"d{nodes}"], ["most"], keepdims=1)
        return [*doubled, mean, helper.make_node("Add", [old, "most"], [new])]

    _append(path, [], chain)


def _append(
    path: Path, tensors: list[Any], nodes: Callable[[str, str], list[onnx.NodeProto]]
) -> None:
    """Put *nodes* between the result of a graph and its output."""
    model = onnx.load(str(path), load_external_data=False)
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["inner" if name == output else name for name in node.output]
    model.graph.initializer.extend(tensors)
    model.graph.node.extend(nodes("inner", output))
    path.write_bytes(model.SerializeToString())


def _repoint_graph(path: Path) -> None:
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "other.weights"
    path.write_bytes(model.SerializeToString())


def _add_external_constant(path: Path) -> None:
    """Scale the new states of the tower by a constant in a separate file."""
    model = onnx.load(str(path), load_external_data=False)
    output = model.graph.output[1].name
    for node in model.graph.node:
        node.output[:] = ["inner" if name == output else name for name in node.output]
        node.input[:] = ["inner" if name == output else name for name in node.input]
    np.ones(1, "<f4").tofile(path.with_name("other.weights"))
    tensor = TensorProto(name="scale", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "other.weights"), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["scale"], value=tensor))
    model.graph.node.append(helper.make_node("Mul", ["inner", "scale"], [output]))
    path.write_bytes(model.SerializeToString())


def _write_ngram(directory: Path) -> None:
    """Write a bigram that finds all tokens equally probable."""
    size = json.loads((directory / _CONFIG).read_text())["network"]["vocabulary_size"]
    calibration = json.loads((directory / _CONFIG).read_text())["calibration"]
    description = {"format_version": 1, "order": 2, "counts": [size, 0], "calibration": calibration}
    (directory / "ngram.json").write_text(json.dumps(description))
    np.save(directory / "unigram.npy", np.full(size, 1 / size, np.float32))
    np.save(directory / "children.1.npy", np.zeros(size + 1, np.uint32))
    np.save(directory / "backoff.1.npy", np.ones(size, np.float32))
    np.save(directory / "tokens.2.npy", np.zeros(0, np.uint16))
    np.save(directory / "discounted.2.npy", np.zeros(0, np.float32))


# Name, file and a function of its path and of a foreign file.
HOSTILE: tuple[tuple[str, str, Callable[[Path, Path], None]], ...] = (
    ("a link out", "tokenizer.model", _link_to_secret),
    ("sums behind a link out", _SUMS, _link_to_secret),
    ("a configuration behind a link out", _CONFIG, _link_to_secret),
    ("a link to itself", _CARD, _link_to_itself),
    ("a pipe", _NEXT, _make_pipe),
    ("sums in a pipe", _SUMS, _make_pipe),
    ("an endless device", _CARD, _link_to_zero),
    ("a configuration of 30 MB", _CONFIG, _enlarge_config),
    ("a nested configuration", _CONFIG, _nest_config),
    ("a tensor of 40,000 dimensions", _WEIGHTS, _widen_header([1 << 60] * 40_000)),
    ("a tensor of 2^300 numbers", _WEIGHTS, _widen_header([1 << 60] * 5)),
    ("a header of 90 MB", _WEIGHTS, _lengthen_header),
    ("a sparse file of 1 TiB", _WEIGHTS, _make_sparse),
    ("sparse sums of 1 TiB", _SUMS, _make_sparse),
    ("further files of 4 GiB", _SUMS, _add_arrays),
    ("a sparse graph of 1 TiB", _FORWARD, _make_sparse),
    ("a graph that doubles a tensor", _NEXT, _double_graph),
    ("a graph that loops", _NEXT, _loop_graph),
)
