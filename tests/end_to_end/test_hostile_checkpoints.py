"""Directories made to do harm, with right sums: each is refused by name, at once, in little memory.

A child process with limits on memory and CPU time tries all of them. Random damage:
tests/end_to_end/test_altered_checkpoints.py.
"""

import hashlib
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from model.errors import CheckpointError
from model.predictor import open_model, size_of
from tests.fixtures_checkpoint import put, sums_of
from tests.service.client import key_entry
from tests.service.server_process import REAL, ROOT, serving

# For all cases together. Python and ONNX Runtime alone take a second and 1 GiB of addresses.
CPU_SECONDS, ADDRESS_BYTES = 30, 3 << 30
HUGE = 1 << 40
Harm = Callable[[Path], object]


def replaced(name: str, make: Callable[[Path], object]) -> Harm:
    """Put something else in the place of a file, which stays listed."""

    def harm(directory: Path) -> None:
        (directory / name).unlink()
        make(directory / name)

    return harm


def link(name: str, target: str) -> Harm:
    """Put a link in the place of a file."""
    return replaced(name, lambda path: path.symlink_to(target))


def sparse(name: str) -> Harm:
    """Put a terabyte of nothing in the place of a file."""

    def make(path: Path) -> None:
        path.touch()
        os.truncate(path, HUGE)

    return replaced(name, make)


def outside(name: str) -> Harm:
    """Move a file or folder out of the directory and link to it."""

    def harm(directory: Path) -> None:
        elsewhere = directory.with_name(f"{directory.name}.outside")
        (directory / name).rename(elsewhere)
        (directory / name).symlink_to(elsewhere)

    return harm


def config(**changes: Any) -> Harm:
    """Change fields of config.json."""

    def harm(directory: Path) -> None:
        values = json.loads((directory / "config.json").read_text())
        network = values["network"] | changes.get("network", {})
        put(directory, "config.json", json.dumps(values | changes | {"network": network}))

    return harm


def listed(*names: str) -> Harm:
    """List more paths, with the sum of nothing."""
    lines = [f"{hashlib.sha256().hexdigest()}  {name}\n" for name in names]
    more = "".join(lines).encode(errors="surrogateescape")

    def harm(directory: Path) -> None:
        sums = (directory / "SHA256SUMS").read_bytes()
        (directory / "SHA256SUMS").write_bytes(sums + more)

    return harm


def socket_at(path: Path) -> None:
    """Put a socket there."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)


def graph(change: Callable[[Any], object], name: str = "next") -> Harm:
    """Change a graph."""

    def harm(directory: Path) -> None:
        path = directory / "onnx" / f"{name}.onnx"
        model = onnx.load(path, load_external_data=False)
        change(model)
        put(directory, f"onnx/{name}.onnx", model.SerializeToString())

    return harm


def moved_weights(location: str) -> Harm:
    """Point a graph's tensors to another file."""

    def change(model: Any) -> None:
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location

    return graph(change)


def node(kind: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Harm:
    """Add a node to a graph."""
    names = [f"more{number}" for number in range(outputs)]
    made = helper.make_node(kind, ["outputs"], names, domain=domain, **attributes)
    return graph(lambda model: model.graph.node.append(made))


def loop(kind: str) -> Harm:
    """Let a valid graph's inputs pass through the body of a node, up to 2**62 times."""
    step = helper.make_tensor_value_info("step", TensorProto.INT64, [])
    again, same = (
        helper.make_tensor_value_info(n, TensorProto.BOOL, []) for n in ("again", "same")
    )
    rows, kept = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("rows", "kept")
    )
    keep = helper.make_node("Identity", ["outputs" if kind == "If" else "rows"], ["kept"])
    more = [helper.make_node("Identity", ["again"], ["same"])] if kind == "Loop" else []
    before = {"Loop": [step, again, rows], "Scan": [rows], "If": []}[kind]
    body = helper.make_graph([*more, keep], "body", before, [same, kept] if more else [kept])
    inputs = {"Loop": ["times", "yes", "outputs"], "Scan": ["outputs"], "If": ["yes"]}[kind]
    attributes: dict[str, Any] = {"body": body}
    if kind == "If":
        attributes = {"then_branch": body, "else_branch": body}
    elif kind == "Scan":
        attributes["num_scan_inputs"] = 1
    made = helper.make_node(kind, inputs, ["passed"], **attributes)

    def change(model: Any) -> None:
        for each in model.graph.node:
            each.input[:] = ["passed" if name == "outputs" else name for name in each.input]
        model.graph.node.insert(0, made)
        times = helper.make_tensor("times", TensorProto.INT64, [], [1 << 62])
        yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
        model.graph.initializer.extend([times, yes])

    return graph(change)


def tensor(**fields: Any) -> Harm:
    """Add a tensor to a graph."""
    made = TensorProto(name="more", data_type=TensorProto.FLOAT, **fields)
    return graph(lambda model: model.graph.initializer.append(made))


def deep(depth: int) -> str:
    """Nested JSON."""
    return '{"a":' * depth + "1" + "}" * depth


CASES: dict[str, tuple[Harm, str]] = {
    # files
    "link to a file outside": (outside("words"), "words is a link that leads"),
    "link to a folder outside": (outside("onnx"), r"onnx/.* is a link that leads out"),
    "link to sums outside": (outside("SHA256SUMS"), "SUMS is a link that leads out"),
    "relative link outside": (link("MODEL_CARD.md", "../../x"), "CARD.md is a link that leads out"),
    "link to a device": (link("MODEL_CARD.md", "/dev/zero"), "CARD.md is a link that leads out"),
    "link to a descriptor": (link("config.json", "/dev/stdin"), "json is a link that leads out"),
    "link to itself": (link("config.json", "config.json"), r"config\.json cannot be read"),
    "pipe": (replaced("config.json", os.mkfifo), r"config\.json is not a regular file"),
    "pipe for sums": (replaced("SHA256SUMS", os.mkfifo), "SUMS is not a regular file"),
    "folder": (replaced("config.json", os.mkdir), r"config\.json cannot be read: Is a directory"),
    "socket": (replaced("config.json", socket_at), r"config\.json cannot be read"),
    "sparse card": (sparse("MODEL_CARD.md"), "MODEL_CARD.md has more than 1048576 bytes"),
    "sparse sums": (sparse("SHA256SUMS"), "SHA256SUMS has more than 1048576 bytes"),
    "sparse weights": (sparse("onnx/int8.weights"), r"int8\.weights has more than 4294967296"),
    # sums
    "100,000 files": (listed(*map(str, range(100_000))), "SHA256SUMS has more than 1048576 bytes"),
    "100 files": (listed(*map(str, range(100))), r"SHA256SUMS lists 1\d\d files; at most 64"),
    "a path twice": (
        lambda d: (d / "SHA256SUMS").write_text((d / "SHA256SUMS").read_text() * 2),
        "that comes once",
    ),
    "path to above": (listed("../x"), "with a path inside"),
    "path to above, inside": (listed("onnx/../../x"), "with a path inside"),
    "absolute path": (listed("/etc/hostname"), "with a path inside"),
    "path of dots": (listed("."), "with a path inside"),
    "path with NUL": (listed("a\0b"), "with a path inside"),
    "path in Chinese": (listed("权重"), "with a path inside"),
    "path that is no UTF-8": (listed("a\udcff"), "with a path inside"),
    "path with a return": (listed("a\rb"), "with a path inside"),
    "path of 5,000 letters": (listed("x" * 5000), "x cannot be read: File name too long"),
    # config.json
    "30 MB of JSON": (lambda d: put(d, "config.json", " " * 30_000_000), "more than 262144 bytes"),
    "nested scores": (
        lambda d: put(d, "config.json", deep(40_000)),
        r"config\.json: .*recursion limit exceeded",
    ),
    "number of 200,000 digits": (
        lambda d: put(d, "config.json", '{"scores":{"a":' + "9" * 200_000 + "}}"),
        r"config\.json: .*number out of range",
    ),
    "vocabulary without end": (config(network={"vocabulary_size": HUGE}), "vocabulary_size: Input"),
    "layers without end": (config(network={"forward_layers": HUGE}), "forward_layers: Input"),
    "width without end": (config(network={"hidden_size": HUGE}), "hidden_size: Input"),
    "widest network": (
        config(network={"hidden_size": 8192, "forward_layers": 16, "backward_layers": 16}),
        r"forward\.onnx is not the graph of the network in config\.json",
    ),
    "tokenizer of 30 MB": (
        lambda d: put(d, "tokenizer.model", bytes(30_000_000)),
        r"tokenizer\.model has more than 4194304 bytes",
    ),
    "30 MB of words": (
        lambda d: put(d, "words", bytes(30_000_000)),
        "/words has more than 1048576",
    ),
    "a million blank words": (lambda d: put(d, "words", "\n" * (1 << 20)), "/words: a line is"),
    "words that are no text": (lambda d: put(d, "words", b"\xff\n"), "/words: words are not UTF"),
    # graphs
    "external data in another file": (
        lambda d: (
            shutil.copy(d / "onnx/int8.weights", d / "onnx/other.weights"),
            moved_weights("other.weights")(d),
            (d / "SHA256SUMS").write_text(
                "".join(s for s in sums_of(d).splitlines(True) if "other" not in s)
            ),
        ),
        "next.onnx is not the graph",
    ),
    "external data above": (moved_weights("../words"), "next.onnx is not the graph"),
    "external data anywhere": (moved_weights("/etc/passwd"), "next.onnx is not the graph"),
    "loop": (loop("Loop"), "next.onnx is not the graph"),
    "scan": (loop("Scan"), "next.onnx is not the graph"),
    "condition": (loop("If"), "next.onnx is not the graph"),
    "operator of another domain": (node("Gelu", 1, "com.microsoft"), "next.onnx is not the graph"),
    "100,000 outputs": (node("Split", 100_000), "next.onnx has more than 1048576 bytes"),
    "tensor of huge sizes": (tensor(dims=[HUGE, HUGE]), "next.onnx is not the graph"),
    "tensor of 40,000 sizes": (tensor(dims=[2] * 40_000), "next.onnx is not the graph"),
    "tensor twice": (
        graph(lambda model: model.graph.initializer.append(model.graph.initializer[0])),
        "next.onnx is not the graph",
    ),
    "function": (
        graph(
            lambda model: model.functions.append(
                helper.make_function("x", "f", [], [], [], [helper.make_opsetid("", 17)])
            )
        ),
        "next.onnx is not the graph",
    ),
    "another constant": (
        graph(lambda model: setattr(model.graph.initializer[-2], "raw_data", b"\xff" * 4)),
        "next.onnx is not the graph",
    ),
    "no graph": (lambda d: put(d, "onnx/gap.onnx", b""), "gap.onnx is not the graph"),
    "weights of a graph, longer": (
        lambda d: put(d, "onnx/int8.weights", (d / "onnx/int8.weights").read_bytes() + b"x"),
        r"int8\.weights has \d+ bytes, the network in config\.json needs",
    ),
}


@pytest.fixture(scope="module")
def hostile(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a directory for each case."""
    folder = tmp_path_factory.mktemp("hostile")
    for number, (harm, _) in enumerate(CASES.values()):
        with within(shutil.copytree(tiny_checkpoint, folder / f"{number}")) as directory:
            harm(directory)
    return folder


@contextmanager
def within(directory: Path) -> Iterator[Path]:
    """Work inside a directory: the path of a socket must be short."""
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield directory
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def outcomes(hostile: Path) -> list[str]:
    """The outcome of each case, in one process with limits."""
    command = [sys.executable, "-m", "tests.end_to_end.test_hostile_checkpoints", str(hostile)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[str] = json.loads(done.stdout)
    assert len(found) == len(CASES)
    return found


@pytest.mark.parametrize("case", CASES)
def test_harm_is_refused_by_name(outcomes: list[str], hostile: Path, case: str) -> None:
    """The message has path and reason, no digest and no size of a file that is not the network."""
    number = list(CASES).index(case)
    message = outcomes[number]
    assert re.search(CASES[case][1], message), message[:300]
    assert str(hostile / f"{number}") in message
    assert not re.search(r"[0-9a-f]{64}", message)
    assert len(message) < 6000


def test_a_hostile_directory_leaves_the_service_alone(
    hostile: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """A reload is refused, also from a path that is not UTF-8, and the old checkpoint goes on."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    current = folder / "current"
    current.symlink_to(tiny_checkpoint)
    cases = ("link to a device", "pipe", "sparse weights", "loop")
    question = {"text": "I like the", "top_k": 3}
    keys, admin = tmp_path / "keys.toml", {"Authorization": "Bearer token of root"}
    keys.write_text(key_entry("root", "admin = true"))
    options = "--checkpoint", str(current), "--threads", "1", "--keys-file", str(keys)
    with serving(REAL, *options) as server:
        before = server.ask("POST", "/predict", question, admin).json()["results"]
        for case in cases:
            harmful = folder / case.replace(" ", "-")
            source = hostile / f"{list(CASES).index(case)}"
            harmful.symlink_to(source)
            current.unlink()
            current.symlink_to(harmful)
            refused = server.ask("POST", "/admin/reload", headers=admin)
            assert refused.status == 422, refused.body
            assert re.search(CASES[case][1], refused.json()["detail"])
            assert server.ask("GET", "/livez").status == 200
            assert server.ask("POST", "/predict", question, admin).json()["results"] == before
        metrics = server.ask("GET", "/metrics", headers=admin).body.decode()
        assert f'lacuna_reloads_total{{outcome="failure"}} {len(cases)}.0' in metrics
        current.unlink()
        current.symlink_to(folder / "missing")
        refused = server.ask("POST", "/admin/reload", headers=admin)
        assert (refused.status, "is not a directory" in refused.json()["detail"]) == (422, True)


def main(folder: Path) -> None:
    """Try every directory; print the outcomes as JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    found = []
    for number, case in enumerate(CASES):
        sys.stderr.write(f"{case}\n")
        try:
            checkpoint, _ = open_model(folder / f"{number}")
            found.append(f"opened, with {size_of(checkpoint)} parameters")
        except CheckpointError as error:
            found.append(str(error))
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
