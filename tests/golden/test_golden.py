"""Golden answers: the service and training give what commit 21d02d4 gave.

Words, order, counts and statuses must be equal; probabilities within 1e-6 of their size, or, on
a CPU with other vector instructions than the recording one, within 2e-3.
Exceptions:

- Usage is recorded as `tokens` and `cached_tokens`, which were `pieces` and `cached_pieces` then.
- No request asks for `sources`, which is removed.
- The wording of errors is free: `detail` is not recorded.
- `model.json` holds digests of graphs apart from those of weights: graphs name their inputs, and a
  new name may change the digest of a graph, with a stated reason, but never that of weights.
- Digests of what 50 steps trained are compared only on a CPU and torch like the recording ones.

`tests/golden/record.py` rewrites the files, or compares them bit for bit.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentencepiece import SentencePieceProcessor

from model.checkpoint import load_checkpoint
from model.config import Tower
from model.onnx_runtime import OnnxRuntime
from model.runtime import Runtime, log_of
from tests.service.bad_inputs import INPUTS, Input
from tests.service.server_process import REAL, ServerProcess, exchange, serving
from training.__main__ import main

HERE = Path(__file__).parent
MODE = os.environ.get("GOLDEN", "compare")  # or "exact" or "write"; set by record.py
NAMES = {"tokens": "tokens", "cached_tokens": "cached_tokens"}  # name then -> neutral name
PROBABILITY, OTHER_CPU, LOGIT, LOSS = 1e-6, 2e-3, 1e-5, 1e-4  # relative tolerances
KEY = "golden-key-0123456789"  # without a key, answers do not count cached tokens
BEARER = {"Authorization": f"Bearer {KEY}"}
RUN = """
name = "golden"
seed = 7
steps = 50
threads = 1
precision = "fp32"
log_every_steps = 1
evaluate_every_steps = 0
data = {prepared = "%s", rows = 4}
loss = {sampled_negatives = 40}
optimizer = {learning_rate = 1e-2, warmup_steps = 5, decay_steps = 10}
network = {vocabulary_size = %d, embedding_size = 16, hidden_size = 24, gap_hidden_size = 12}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """A service with the bundled checkpoint and an empty cache."""
    options, environment = ("--threads", "1", "--deadline-seconds", "60"), {"LACUNA_KEYS": KEY}
    with serving(REAL, *options, environment=environment) as running:
        yield running


@pytest.fixture(scope="module")
def trained(tiny_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory: `run`, 50 steps on the tiny prepared data, and `checkpoint`, its export."""
    root = tmp_path_factory.mktemp("golden")
    model = next(tiny_prepared.glob("*.model"))
    size = SentencePieceProcessor(model_file=str(model)).vocab_size()
    (root / "run.toml").write_text(RUN % (tiny_prepared, size), encoding="utf-8")
    assert main(["train", str(root / "run.toml"), "--output", str(root / "run")]) == 0
    assert main(["export", str(root / "run"), "--output", str(root / "checkpoint")]) == 0
    return root


def test_requests_get_the_golden_answers(server: ServerProcess) -> None:
    """Requests, asked one after the other, get the recorded words, probabilities and usage."""
    lines = (HERE / "requests.jsonl").read_text(encoding="utf-8").splitlines()
    found, connection = {}, server.connect()
    for number, request in enumerate(map(json.loads, lines), 1):
        answer = exchange(connection, "POST", request["path"], request["body"], BEARER)
        body = neutral(answer.json())
        body.pop("model", None)
        found[f"line {number}"] = {"status": answer.status, **body}
    connection.close()
    same_cpu = torch.backends.cpu.get_cpu_capability() in read("model")["machine"]
    check("answers", found, PROBABILITY if same_cpu else OTHER_CPU)


def test_bad_inputs_get_the_golden_problems(server: ServerProcess) -> None:
    """Bad inputs get the recorded status, type, title and pointers, whatever they are called."""
    found = {}
    for item in INPUTS:
        if item.status >= 400 and b'"sources"' not in item.body:
            found[fingerprint(item)] = send(server, item)
    check("bad_inputs", found, PROBABILITY)


def test_tiny_network_gives_the_golden_logits(tiny_checkpoint: Path) -> None:
    """The heads of the tiny checkpoint give the recorded log-probabilities for fixed rows."""
    network = load_checkpoint(tiny_checkpoint).required_network()
    check("model", heads(OnnxRuntime(tiny_checkpoint, network)), LOGIT, "logits")


def test_tiny_export_has_the_golden_digests(tiny_checkpoint: Path) -> None:
    """Graphs and quantised weights built from fixed weights have the recorded digests."""
    check("model", digests(tiny_checkpoint), 0, "export_of_fixed_weights")


def test_training_gives_the_golden_losses(trained: Path) -> None:
    """Losses of 50 steps, in fp32 on one thread, are the recorded ones."""
    lines = (trained / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for line in lines if "loss_next" in (record := json.loads(line))]
    names = ("loss_next", "loss_previous", "loss_gap")
    found = {name: [record.get(name) for record in records] for name in names}
    assert len(records) == 50
    check("model", found, LOSS, "losses")


def test_trained_export_has_the_golden_digests(trained: Path) -> None:
    """Weights and graphs after 50 steps have the recorded digests, if the machine is alike."""
    if MODE == "compare" and (recorded := read("model")["machine"]) != machine():
        pytest.skip(f"recorded on {recorded}, this is {machine()}")
    check("model", machine(), 0, "machine")
    check("model", digests(trained / "checkpoint"), 0, "export_of_trained_weights")


def neutral(value: Any) -> Any:
    """Return an answer with neutral names of usage fields."""
    if isinstance(value, dict):
        return {NAMES.get(key, key): neutral(each) for key, each in value.items()}
    return [neutral(each) for each in value] if isinstance(value, list) else value


def send(server: ServerProcess, item: Input) -> dict[str, Any]:
    """Send a bad input; return its problem document without wording."""
    connection = server.connect()
    parts = [item.body[start : start + 65536] for start in range(0, len(item.body), 65536)]
    body: Any = iter(parts) if item.chunked else item.body
    headers = item.headers | BEARER
    connection.request(item.method, item.path, body, headers, encode_chunked=item.chunked)
    response = connection.getresponse()
    problem = json.loads(response.read())
    connection.close()
    assert problem["status"] == response.status
    pointers = [each["pointer"] for each in problem.pop("errors", [])]
    return {key: problem[key] for key in ("type", "title", "status")} | {"pointers": pointers}


def fingerprint(item: Input) -> str:
    """Name an input by its request, so that the words of its kind stay free."""
    content = json.dumps([item.method, item.path, sorted(item.headers.items()), item.chunked])
    digest = hashlib.sha256(content.encode() + item.body).hexdigest()[:12]
    return f"{item.method} {item.path} {item.body[:60]!r} {digest}"


def heads(runtime: Runtime) -> dict[str, Any]:
    """Run towers and heads on fixed rows."""
    tokens = np.array([[1, 30, 90, 200, 41], [1, 120, 121, 7, 260], [1, 44, 5, 299, 300]])
    outputs = {}
    towers: dict[Tower, int] = {"forward": 2, "backward": 1}  # layers
    for tower, layers in towers.items():
        states = np.zeros((3, layers * 2 * 24), dtype=np.float32)  # h and c of each layer
        outputs[tower] = runtime.run_tower(tower, states, tokens, np.array([5, 5, 5]))[1][:, -1]
    left, right = outputs["forward"], outputs["backward"]
    known, codes = np.array([True, True, False]), np.array([0, 1, 2])  # codes: positions and kinds
    rows_by_head = {
        "next": log_of(runtime.score("next", left)),
        "previous": runtime.score("previous", right),
        "gap": runtime.score("gap", left, right, known, codes, codes),
    }
    found = {}
    for head, rows in rows_by_head.items():
        columns = np.linspace(10, rows.shape[1] - 1, 8).astype(int)
        weighted = np.where(np.isfinite(rows), rows, 0.0) * np.arange(1, rows.shape[1] + 1)
        values = rows[:, columns].astype(float).tolist()
        found[head] = {"values": values, "checksum": float(weighted.sum())}
    return found


def digests(checkpoint: Path) -> dict[str, dict[str, str]]:
    """Return the SHA-256 of weights and, apart from them, of graphs."""
    files = {path.name: path for path in sorted((checkpoint / "onnx").iterdir())}
    sums = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    graphs = {name: each for name, each in sums.items() if name.endswith(".onnx")}
    return {"weights": {name: sums[name] for name in sums if name not in graphs}, "graphs": graphs}


def machine() -> str:
    """Describe everything that may change the last bits of training."""
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    cpu = f"{names[:1]} {torch.backends.cpu.get_cpu_capability()}"
    return f"{cpu}, torch {torch.__version__}, numpy {np.__version__}"


def read(name: str) -> Any:
    """Return what a file records."""
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


def check(name: str, found: Any, tolerance: float, key: str = "") -> None:
    """Compare with the recorded values, or record them."""
    if MODE == "write":
        new = read(name) | {key: found} if key else found
        lines = [f"{json.dumps(k)}: {json.dumps(new[k], ensure_ascii=False)}" for k in new]
        (HERE / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        return
    recorded = read(name)[key] if key else read(name)
    differences = list(compare(found, recorded, tolerance, key or name))
    assert not differences, "\n".join([f"{len(differences)} differences", *differences[:20]])


def compare(found: Any, expected: Any, tolerance: float, where: str) -> Iterator[str]:
    """Yield a line for each value that differs."""
    if isinstance(found, dict) and isinstance(expected, dict):
        yield from (f"{where}: new or missing {key!r}" for key in found.keys() ^ expected.keys())
        for key in found.keys() & expected.keys():
            yield from compare(found[key], expected[key], tolerance, f"{where}/{key}")
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            yield from compare(one, other, tolerance, f"{where}/{number}")
    elif isinstance(found, float) and isinstance(expected, float) and MODE == "compare":
        rounded = 1.1e-4 if "/origins/" in where else 1e-9  # shares have four digits
        if not math.isclose(found, expected, rel_tol=tolerance, abs_tol=rounded):
            yield f"{where}: {found!r}, recorded {expected!r}"
    elif found != expected or type(found) is not type(expected):
        yield f"{where}: {found!r}, recorded {expected!r}"[:500]
