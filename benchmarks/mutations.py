"""``python -m benchmarks.mutations``: a checkpoint altered in hundreds of ways, and what becomes of each.

Half of the kinds leave SHA256SUMS as it was, as accidents do; the others write it anew (``sealed``), as somebody does
who alters a checkpoint on purpose, so that whatever else is wrong must be found by looking.

The digest is the SHA-256 of SHA256SUMS: a sealed checkpoint is another one, and may answer otherwise. So a mutation is

    refused   by a CheckpointError: always right
    same      accepted, and it answers exactly as the original does
    told      accepted, answers otherwise, and has another digest; all probabilities are probabilities
    wrong     accepted, and answers otherwise under the original's digest, or with what no network could say
              (a probability that is NaN, above 1 or out of order; a log-probability that is not finite)
    broken    another exception, a crash, no end within a minute, or memory far beyond the original's

`wrong` are those wrongly accepted; neither `wrong` nor `broken` may ever be.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from benchmarks.contestants import ROOT
from benchmarks.trial import Trials
from model.checkpoint import CARD, CONFIG, SUMS, TOKENIZER, WEIGHTS, WORD_END_PROBS

Verdict = Literal["refused", "same", "told", "wrong", "broken"]
BAD: tuple[Verdict, ...] = ("wrong", "broken")
# Above the original's peak; to read any file of a checkpoint whole takes less.
MAX_MORE_MIB = 512

# What JSON may hold where something else is expected, as it is written.
_HOSTILE = (
    "null", "true", "0", "1", "2", "-1", "1.5", "1e12", "1000000000000", "1" + "0" * 400, "1" + "0" * 5000, "1e308",
    "1e-308", "5e-324", "-1e-9", "1e999", "NaN", "-Infinity", '""', '"x"', '"\\ud800"', '"a\\u0000b"', "[]", "{}",
    "[" * 200 + "]" * 200, '{"a":' * 900 + "1" + "}" * 900, "[" * 5000 + "]" * 5000, '"' + "a" * 1_000_000 + '"',
    "[1, 2]", '{"zh": 1}', '{"zh": 1e300, "en": 1e-300}', '{"": 1}', '{"\\udfff": 1}',
)  # fmt: skip
_NUMBERS = (float("nan"), float("inf"), float("-inf"), 3e38, -3e38, 1e-45)
_PLACEHOLDER = "\x01"


@dataclass(frozen=True, slots=True)
class Trial:
    """One mutation and what came of it.

    Attributes:
        kind: key of `KINDS`.
        detail: which file, where, what.
        verdict: see the module.
        message: of the refusal or failure.
    """

    kind: str
    detail: str
    verdict: Verdict
    message: str


def run(checkpoint: Path, count: int, seed: int) -> Iterator[Trial]:
    """Try *count* mutations, kinds in turn.

    Args:
        checkpoint: the original, which is only read.
        count: of mutations.
        seed: of all choices; the same seed makes the same mutations.
    """
    kinds = list(KINDS.items())
    with Trials() as trials, tempfile.TemporaryDirectory() as folder:
        original = trials.attempt(checkpoint)
        if original["outcome"] != "answered" or not original["sane"]:
            raise ValueError(f"the original cannot be served: {original}")
        for number in range(count):
            kind, mutate = kinds[number % len(kinds)]
            copy = Path(folder) / str(number)
            link_copy(checkpoint, copy)
            detail = mutate(copy, random.Random(f"{seed}/{number}"))  # noqa: S311 - mutations are no secret
            found = trials.attempt(copy)
            yield Trial(
                kind,
                detail,
                judge(original, found),
                str(found.get("message", found.get("signal", ""))),
            )
            shutil.rmtree(copy)


def judge(original: dict[str, Any], found: dict[str, Any]) -> Verdict:
    """The verdict on what a trial *found*, beside what the *original* did (`benchmarks.trial.Trials.attempt`)."""
    if (
        found["outcome"] in ("failed", "ended")
        or found["peak_mib"] > original["peak_mib"] + MAX_MORE_MIB
    ):
        return "broken"
    if found["outcome"] == "refused":
        return "refused"
    if found["answers"] == original["answers"]:
        return "same"
    return "told" if found["sane"] and found["digest"] != original["digest"] else "wrong"


def link_copy(checkpoint: Path, copy: Path) -> None:
    """A copy whose files are links to the same data, to be replaced and never written into."""
    for path in checkpoint.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(checkpoint)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path.resolve(), target)
            except OSError:  # another file system
                shutil.copyfile(path, target)


def seal(directory: Path) -> None:
    """Write SHA256SUMS anew for the files that it lists."""
    names = [line[66:] for line in (directory / SUMS).read_text("utf-8").splitlines()]
    sums = [
        f"{hashlib.sha256((directory / name).read_bytes()).hexdigest()}  {name}\n" for name in names
    ]
    _write(directory / SUMS, "".join(sums).encode())


def report(trials: Sequence[Trial]) -> dict[str, Any]:
    """Counts of all verdicts, and of each kind's; what was bad in full."""
    kinds: dict[str, Counter[str]] = {}
    for trial in trials:
        kinds.setdefault(trial.kind, Counter())[trial.verdict] += 1
    verdicts = Counter(trial.verdict for trial in trials)
    return {
        "mutations": len(trials),
        **{verdict: verdicts[verdict] for verdict in ("refused", "same", "told", *BAD)},
        "kinds": {kind: dict(counts) for kind, counts in kinds.items()},
        "bad": [
            f"{t.verdict}: {t.kind}: {t.detail}: {t.message}" for t in trials if t.verdict in BAD
        ],
    }


# What is done to the bytes of one file.


def _flip(content: bytes, source: random.Random) -> tuple[bytes, str]:
    changed = bytearray(content)
    bits = source.choice((1, 1, 1, 8, 64))
    for _ in range(bits if changed else 0):
        changed[source.randrange(len(changed))] ^= 1 << source.randrange(8)
    return bytes(changed), f"{bits} bits"


def _truncate(content: bytes, source: random.Random) -> tuple[bytes, str]:
    length = source.choice(
        (0, 1, len(content) // 2, source.randrange(len(content) or 1), max(0, len(content) - 1))
    )
    return content[:length], f"cut to {length} bytes"


def _lengthen(content: bytes, source: random.Random) -> tuple[bytes, str]:
    more = source.choice((b"\0", b"\n", source.randbytes(100), content))
    return content + more, f"{len(more)} bytes more"


def _blank(content: bytes, source: random.Random) -> tuple[bytes, str]:
    start = source.randrange(len(content) or 1)
    filling = source.choice((b"\0", b"\xff", b"\x7f"))
    length = min(source.choice((16, 4096, 1 << 20)), len(content) - start)
    return content[:start] + filling * length + content[
        start + length :
    ], f"{length} bytes of {filling[0]} at {start}"


def _spoil(
    change: Callable[[bytes, random.Random], tuple[bytes, str]], sealed: bool
) -> Callable[[Path, random.Random], str]:
    def mutate(directory: Path, source: random.Random) -> str:
        names = _files(directory)
        # Of graphs there are many, and of the rest one each: choose among kinds of files first.
        name = source.choice(
            [source.choice([n for n in names if n.endswith(".onnx")]), *_other(names)]
        )
        if not sealed and source.random() < 0.2:
            name = SUMS
        content, detail = change((directory / name).read_bytes(), source)
        _write(directory / name, content)
        if sealed:
            seal(directory)
        return f"{name}, {detail}"

    return mutate


def _swap(sealed: bool) -> Callable[[Path, random.Random], str]:
    def mutate(directory: Path, source: random.Random) -> str:
        one, other = source.sample(_files(directory), 2)
        first, second = (directory / one).read_bytes(), (directory / other).read_bytes()
        _write(directory / one, second)
        _write(directory / other, first)
        if sealed:
            seal(directory)
        return f"{one} and {other}"

    return mutate


def _replace_file(directory: Path, source: random.Random) -> str:
    """Nothing, a folder, a pipe, a device or a link to nowhere in a file's place."""
    name = source.choice([*_files(directory), SUMS])
    path = directory / name
    path.unlink()
    kind = source.choice(("nothing", "folder", "pipe", "device", "link to itself", "empty file"))
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "link to itself":
            path.symlink_to(path)
        case "empty file":
            path.touch()
    return f"{kind} for {name}"


def _edit_sums(directory: Path, source: random.Random) -> str:
    path = directory / SUMS
    lines = path.read_text("utf-8").splitlines()
    place = source.randrange(len(lines))
    total, name = lines[place][:64], lines[place][66:]
    edits: dict[str, list[str]] = {
        "as binary": [f"{total} *{name}"],
        "left out": [],
        "twice": [lines[place]] * 2,
        "ten thousand times": [lines[place]] * 10_000,
        "capitals": [f"{total.upper()}  {name}"],
        "another path": [f"{total}  ./{name}"],
        "a path upwards": [f"{total}  ../{name}"],
        "an absolute path": [f"{total}  {directory / name}"],
        "a long path": [lines[place], f"{total}  {'a' * 5000}"],
        "a device": [lines[place], f"{total}  ../../../../../../dev/zero"],
        "carriage return": [lines[place] + "\r"],
        "another order": [],
    }
    edit = source.choice(list(edits))
    lines[place : place + 1] = edits[edit]
    if edit == "another order":
        lines.insert(0, f"{total}  {name}")
    _write(path, "".join(f"{line}\n" for line in lines).encode())
    return f"{name}: {edit}"


# Sealed changes of what the files say.


def _edit_config(directory: Path, source: random.Random) -> str:
    values = json.loads((directory / CONFIG).read_text("utf-8"))
    parents = list(_objects(values))
    # Not one of the thousand scores: one of a section that is chosen first.
    chosen = source.choice(
        [values, values["network"], values["calibration"], source.choice(parents)]
    )
    key = source.choice(list(chosen) or ["new"])
    kind = source.choice(("hostile", "hostile", "hostile", "near", "deleted", "renamed"))
    detail = f"{key}: {kind}"
    token = ""
    match kind:
        case "deleted":
            chosen.pop(key, None)
        case "renamed":
            chosen[source.choice(("", "new", "\ud800", key + " "))] = chosen.pop(key, 0)
        case "near" if type(chosen.get(key)) in (int, float):
            chosen[key] = source.choice(
                (chosen[key] * 2, chosen[key] + 1, -chosen[key], chosen[key] // 2)
            )
            detail = f"{key}: {chosen[key]}"
        case _:
            token = source.choice(_HOSTILE)
            chosen[key] = _PLACEHOLDER
            detail = f"{key}: {token[:40]}"
    text = json.dumps(values).replace(json.dumps(_PLACEHOLDER), token)
    _write(directory / CONFIG, text.encode())
    seal(directory)
    return detail


def _edit_numbers(directory: Path, source: random.Random) -> str:
    """A number that is none, or far too large, in a tensor of floats of a graph; or in all of it."""
    name = source.choice([name for name in _files(directory) if name.endswith(".onnx")])
    graph = onnx.load(directory / name, load_external_data=False)
    tensors = [t for t in _tensors(graph) if t.data_type == onnx.TensorProto.FLOAT]
    tensor, number = source.choice(tensors), source.choice(_NUMBERS)
    outside = {entry.key: entry.value for entry in tensor.external_data}
    if outside:
        path = (directory / name).with_name(outside["location"])
        start, length = int(outside["offset"]), int(outside["length"])
        content = path.read_bytes()
        changed, where = _place(content[start : start + length], number, source)
        _write(path, content[:start] + changed + content[start + length :])
    else:
        tensor.raw_data, where = _place(tensor.raw_data, number, source)
        _write(directory / name, graph.SerializeToString())
    seal(directory)
    return f"{name} {tensor.name}: {number} {where}"


def _place(content: bytes, number: float, source: random.Random) -> tuple[bytes, str]:
    values = np.frombuffer(content, dtype="<f4").copy()
    place = source.randrange(len(values))
    everywhere = source.random() < 0.5
    values[slice(None) if everywhere else place] = number
    return values.tobytes(), "everywhere" if everywhere else f"at {place}"


def _edit_tensor(directory: Path, source: random.Random) -> str:
    """A tensor of another shape or type, or said to lie elsewhere."""
    name = source.choice([name for name in _files(directory) if name.endswith(".onnx")])
    graph = onnx.load(directory / name, load_external_data=False)
    tensor = source.choice(list(_tensors(graph)))
    kind = source.choice(("shape", "type", "place"))
    detail = f"{name} {tensor.name}: {kind}"
    if kind == "shape" and tensor.dims:
        place, size = (
            source.randrange(len(tensor.dims)),
            source.choice((0, -1, 1, 7, 1 << 20, 1 << 40, (1 << 63) - 1)),
        )
        detail += f" {size} for {tensor.dims[place]}"
        tensor.dims[place] = size
    elif kind == "place" and tensor.external_data:
        entry = source.choice(list(tensor.external_data))
        entry.value = source.choice(
            ("0", "-1", "4096", "1000000000000000", "forward.onnx", "../config.json", "/dev/zero")
        )
        detail += f" {entry.key} {entry.value}"
    else:
        tensor.data_type = source.choice([kind for kind in range(23) if kind != tensor.data_type])
        detail += f" type {tensor.data_type}"
    _write(directory / name, graph.SerializeToString())
    seal(directory)
    return detail


def _edit_graph(directory: Path, source: random.Random) -> str:
    """Nodes left out, with another operation, or with inputs in another order; inputs and outputs renamed."""
    name = source.choice([name for name in _files(directory) if name.endswith(".onnx")])
    model = onnx.load(directory / name, load_external_data=False)
    node = source.choice(model.graph.node)
    kind = source.choice(
        ("operation", "inputs", "input of the graph", "output of the graph", "left out")
    )
    match kind:
        case "operation":
            node.op_type = source.choice(("Add", "Mul", "Exp", "Identity", "Loop", "NoSuch"))
        case "inputs":
            node.input[:] = list(reversed(node.input))
        case "left out":
            model.graph.node.remove(node)
        case _:
            ends = model.graph.input if kind.startswith("input") else model.graph.output
            end = source.choice(ends)
            end.type.tensor_type.elem_type = source.choice((1, 6, 7, 11))
            for dimension in end.type.tensor_type.shape.dim[1:]:
                dimension.dim_value = source.choice((1, 1 << 40))
    _write(directory / name, model.SerializeToString())
    seal(directory)
    return f"{name} {node.name or node.op_type}: {kind}"


def _edit_tokenizer(directory: Path, source: random.Random) -> str:
    """Tokens left out, twice, in another order, of another type or with another score."""
    content = (directory / TOKENIZER).read_bytes()
    tokens, rest = _tokens(content)
    place = (
        source.randrange(261, len(tokens))
        if source.random() < 0.8
        else source.randrange(len(tokens))
    )
    kind = source.choice(("left out", "twice", "another order", "score", "type", "empty"))
    match kind:
        case "left out":
            del tokens[place]
        case "twice":
            tokens.insert(place, tokens[place])
        case "another order":
            tokens[place], tokens[-1] = tokens[-1], tokens[place]
        case "score":  # field 2, a float
            number = np.float32(source.choice(_NUMBERS)).tobytes()
            tokens = (
                [token + b"\x15" + number for token in tokens] if source.random() < 0.5 else tokens
            )
            tokens[place] += b"\x15" + number
        case "type":  # field 3: normal, unknown, control, user defined, unused, byte
            tokens[place] += bytes((0x18, source.randrange(8)))
        case "empty":  # field 1, the token itself
            tokens[place] += b"\x0a\x00"
    _write(
        directory / TOKENIZER,
        b"".join(b"\x0a" + _varint(len(token)) + token for token in tokens) + rest,
    )
    seal(directory)
    return f"token {place}: {kind}"


def _edit_header(directory: Path, source: random.Random) -> str:
    """The header of the weights: shapes, types and places that are none."""
    content = (directory / WEIGHTS).read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    name = source.choice([name for name in header if name != "__metadata__"])
    field = source.choice(("shape", "dtype", "data_offsets", "size"))
    token = source.choice(
        (*_HOSTILE, "[-1, 5]", "[1e999]", "[1e9, 1e9]", f"[{'9' * 4000}]", '["a", "b"]')
    )
    length: int | None = None
    if field == "size":
        length = source.choice((0, 1, size - 1, size + 1, 1 << 40, (1 << 64) - 1))
        token = str(length)
    else:
        header[name][field] = _PLACEHOLDER
    text = json.dumps(header).replace(json.dumps(_PLACEHOLDER), token).encode()
    _write(
        directory / WEIGHTS,
        (len(text) if length is None else length).to_bytes(8, "little") + text + data,
    )
    seal(directory)
    return f"{name} {field}: {token[:40]}"


def _edit_word_ends(directory: Path, source: random.Random) -> str:
    path = directory / WORD_END_PROBS
    if not path.exists():
        return _edit_card(directory, source)
    shares = np.frombuffer(path.read_bytes(), dtype="<f2").copy()
    place, number = (
        source.randrange(len(shares)),
        source.choice((np.nan, np.inf, -1.0, 1.001, 6e4, 0.5)),
    )
    shares[place] = number
    _write(path, shares.tobytes())
    seal(directory)
    return f"{WORD_END_PROBS}: {number} at {place}"


def _edit_card(directory: Path, source: random.Random) -> str:
    content, detail = _flip((directory / CARD).read_bytes(), source)
    _write(directory / CARD, content)
    seal(directory)
    return f"{CARD}, {detail}"


KINDS: dict[str, Callable[[Path, random.Random], str]] = {
    "bits flipped": _spoil(_flip, sealed=False),
    "cut short": _spoil(_truncate, sealed=False),
    "made longer": _spoil(_lengthen, sealed=False),
    "overwritten": _spoil(_blank, sealed=False),
    "files swapped": _swap(sealed=False),
    "no file": _replace_file,
    "sums edited": _edit_sums,
    "bits flipped, sealed": _spoil(_flip, sealed=True),
    "cut short, sealed": _spoil(_truncate, sealed=True),
    "made longer, sealed": _spoil(_lengthen, sealed=True),
    "overwritten, sealed": _spoil(_blank, sealed=True),
    "files swapped, sealed": _swap(sealed=True),
    "config.json, sealed": _edit_config,
    "config.json again, sealed": _edit_config,
    "numbers, sealed": _edit_numbers,
    "tensors, sealed": _edit_tensor,
    "nodes, sealed": _edit_graph,
    "vocabulary, sealed": _edit_tokenizer,
    "header of the weights, sealed": _edit_header,
    "word ends, sealed": _edit_word_ends,
    "model card, sealed": _edit_card,
}


def _files(directory: Path) -> list[str]:
    """What is read for serving: listed files without the fp32 graphs, which nothing serves."""
    lines = (directory / SUMS).read_text("utf-8").splitlines()
    return sorted(line[66:] for line in lines if not line[66:].startswith("onnx-fp32"))


def _other(names: Sequence[str]) -> list[str]:
    return [name for name in names if not name.endswith(".onnx")]


def _write(path: Path, content: bytes) -> None:
    """Replace a file, which may be a link to the original's data."""
    path.unlink()
    path.write_bytes(content)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _objects(inner)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All stored tensors of a graph, those of bodies inside it too."""
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        yield from graph.initializer
        for node in graph.node:
            yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def _tokens(content: bytes) -> tuple[list[bytes], bytes]:
    """The tokens of a SentencePiece model, field 1 of its message, and the bytes after them."""
    tokens, place = [], 0
    while content[place : place + 1] == b"\x0a":
        length, shift = 0, 0
        while True:
            place += 1
            length |= (content[place] & 0x7F) << shift
            shift += 7
            if content[place] < 0x80:
                break
        tokens.append(content[place + 1 : place + 1 + length])
        place += 1 + length
    return tokens, content[place:]


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def main(arguments: Sequence[str] | None = None) -> int:
    """Mutate, and say what came of it.

    Returns:
        0; 1 where something was wrongly accepted or broke.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mutations", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--checkpoint", type=Path, default=ROOT / "model" / "pretrained" / "default", metavar="DIR"
    )
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    trials = []
    for trial in run(options.checkpoint.resolve(), options.count, options.seed):
        trials.append(trial)
        if trial.verdict in BAD:
            print(f"{trial.verdict}: {trial.kind}: {trial.detail}: {trial.message}", flush=True)
    print(json.dumps(report(trials), indent=1))
    return int(any(trial.verdict in BAD for trial in trials))


if __name__ == "__main__":
    sys.exit(main())
