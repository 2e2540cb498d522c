"""Attacks by reloading, and by checkpoints of a hostile provider. See `benchmarks.target`."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks.target import FellError, Target
from tests.end_to_end.test_hostile_checkpoints import CASES, link, moved_weights, within
from tests.fixtures_checkpoint import sums_of

# A refusal may take so long; it is to name the file.
REFUSED_SECONDS = 10.0
_SECRET_BYTES = 48_611
_QUESTION = {"text": ["How are you doing?", "我的手机坏了"]}
_CONFIG, _SUMS, _CARD = "config.json", "SHA256SUMS", "MODEL_CARD.md"
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
    """Reload from hostile directories: those of the tests, and one with a link to a secret."""
    secret = target.folder / "secret"
    secret.write_bytes(os.urandom(_SECRET_BYTES))
    signs = hashlib.sha256(secret.read_bytes()).hexdigest().encode(), str(_SECRET_BYTES).encode()
    harms = {"link to a secret": link("tokenizer.model", str(secret))}
    harms |= {name: harm for name, (harm, _) in CASES.items()}
    findings = []
    for number, (name, harm) in enumerate(harms.items()):
        with within(_copy(target, f"hostile-{number}")) as directory:
            harm(directory)
        status, answer, seconds = _reload_from(target, directory)
        if status == 0 or seconds > REFUSED_SECONDS:
            findings.append(f"{name}: no answer within {REFUSED_SECONDS:g} s")
            break  # later reloads would wait for this one
        if status != 422 or os.fsencode(directory) not in answer:
            findings.append(f"{name}: status {status}: {answer[:100]!r}")
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
    _swap_unlisted(target, moved_weights("other.weights"), "onnx/other.weights")


def repointed_constant(target: Target) -> None:
    """The same with a constant inside a node, which the graph does not list as a weight."""
    _swap_unlisted(target, _add_external_constant, "onnx/other.weights")


def _swap_unlisted(target: Target, spoil: Callable[[Path], object], file: str) -> None:
    directory = _copy(target, "unlisted")
    sums = (directory / _SUMS).read_text()
    shutil.copy(directory / _SHARED, directory / file)
    spoil(directory)
    right = {line[66:]: line for line in sums_of(directory).splitlines()}
    (directory / _SUMS).write_text("".join(f"{right[each[66:]]}\n" for each in sums.splitlines()))
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


def _add_external_constant(directory: Path) -> None:
    """Scale the new states of the tower by a constant that is in a file of its own."""
    path = directory / _FORWARD
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
