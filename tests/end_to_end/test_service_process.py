"""The service as its users meet it: a process, a socket, a checkpoint on disk."""

import contextlib
import http.client
import json
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.bad_inputs import INPUTS, SECRET, Input
from tests.service.client import key_entry
from tests.service.server_process import (
    FAKE,
    METRICS_PORT,
    REAL,
    ROOT,
    Answer,
    ServerProcess,
    exchange,
    run_to_end,
    serving,
)

_HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
_KEY = "a-key-for-tests-0123456789"
_JSON = {"Content-Type": "application/json"}
_HOLD = json.dumps({"text": "hold"}).encode()
_GOOD: list[tuple[str, dict[str, Any]]] = [
    ("/predict", {"text": "I like the", "top_k": 3}),
    ("/predict", {"text": "I like the", "history": "I like the theatre."}),
    ("/cloze", {"text": "I like the __ and the mat.", "choices": ["mat", "cat"]}),
    ("/cloze", {"text": "我____一部新手机。", "choices": ["买", "卖"]}),
    ("/score", {"text": ["今天", "the cat"]}),
]

# A process that does not end when its server has ended.
_LINGERS = """
import sys, threading
from service.__main__ import serve
from service.settings import read_settings
from tests.service.fakes_service import FakeModel
serve(read_settings(sys.argv[1:]), FakeModel().load)
sys.stderr.write('{"event": "lingers"}\\n')
threading.Event().wait()
"""


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path) -> Iterator[ServerProcess]:
    """A service with the tiny checkpoint, started by its own command."""
    # The deadline is long: a busy machine would rightly refuse the largest good requests.
    options = ("--checkpoint", str(tiny_checkpoint), "--threads", "1", "--deadline-seconds", "60")
    with serving(REAL, *options, *METRICS_PORT) as running:
        yield running


@pytest.fixture(scope="module")
def bad_answers(server: ServerProcess) -> dict[str, Answer]:
    """The answers to bad input, while good requests get exactly what they get alone."""
    expected = [server.ask("POST", path, body).json()["results"] for path, body in _GOOD]
    stop, harm = threading.Event(), list[object]()

    def ask_on() -> None:
        connection = server.connect()
        while not stop.is_set():
            for (path, body), results in zip(_GOOD, expected, strict=True):
                answer = exchange(connection, "POST", path, body)
                if answer.status != 200 or answer.json()["results"] != results:
                    harm.append((answer.status, answer.body))
        connection.close()

    others = [threading.Thread(target=ask_on) for _ in range(2)]
    for other in others:
        other.start()
    try:
        answers = {item.kind: _send(server, item) for item in INPUTS}
    finally:
        stop.set()
        for other in others:
            other.join()
    assert not harm
    return answers


@pytest.mark.fault
@pytest.mark.parametrize("item", INPUTS, ids=lambda item: item.kind)
def test_bad_input_gets_its_status(bad_answers: dict[str, Answer], item: Input) -> None:
    """An error is a problem document with the request's id, and repeats no text."""
    answer = bad_answers[item.kind]
    assert answer.status == item.status, answer.body
    assert answer.headers["x-request-id"]
    if item.status != 200:
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["status"] == item.status
        assert problem["request_id"] == answer.headers["x-request-id"]
        assert SECRET.encode() not in answer.body
        assert problem["detail"]


def test_documented_examples_are_real(bad_answers: dict[str, Answer]) -> None:
    """The examples in docs/http.md have the status and detail of real answers."""
    document = (ROOT / "docs" / "http.md").read_text("utf-8").partition("| input |")[2]
    rows = re.findall(r"^\| (.+) \| (\d{3}) \| (.+) \|$", document, re.MULTILINE)
    assert len(rows) > 4
    for kind, status, detail in rows:
        problem = bad_answers[kind].json()
        assert (problem["status"], problem["detail"]) == (int(status), detail)


@pytest.mark.usefixtures("bad_answers")
def test_no_text_is_logged_or_measured(server: ServerProcess) -> None:
    """After these requests neither log nor metrics know a character of a text, or another route."""
    server.logged(request_id=server.ask("GET", "/livez").headers["x-request-id"])
    log = "".join(server.lines)
    assert log.count('"request_id"') > len(INPUTS)
    assert not [text for text in (SECRET, SECRET[-1], "手机") if text in log]
    metrics = server.metrics()
    assert 'route="unmatched"' in metrics
    assert not [text for text in (SECRET[:4], "aaa", "passwd") if text in metrics]
    assert 'lacuna_requests_total{route="/predict",status="500"} 0.0' in metrics


def test_another_process_answers_alike_without_torch(
    server: ServerProcess, tiny_checkpoint: Path
) -> None:
    """Nothing that a client relies on lives in a process, and a CPU service imports no torch."""
    block = "import sys; sys.modules.update(torch=None, onnx=None, safetensors=None); "
    run = "import runpy; sys.argv[0] = 'service'; runpy.run_module('service', run_name='__main__')"
    with serving(("-c", block + run), "--checkpoint", str(tiny_checkpoint)) as other:
        for path, body in _GOOD:
            first, second = (process.ask("POST", path, body).json() for process in (server, other))
            assert first["results"] == second["results"]


@pytest.mark.fault
def test_bad_checkpoint_ends_the_process(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The process ends with status 1 and a message that names path and remedy."""
    directory = tmp_path / "tiny"
    shutil.copytree(tiny_checkpoint, directory)
    weights = directory / "onnx" / "int8.weights"
    weights.write_bytes(weights.read_bytes()[:-100])
    status, errors = run_to_end(REAL, "--port", "0", "--checkpoint", str(directory))
    assert status == 1
    message = errors.strip().splitlines()[-1]
    assert message.startswith(f"lacuna: cannot serve {directory}: {directory}")
    assert "cut short or altered" in message


def _send(server: ServerProcess, item: Input) -> Answer:
    parts = [item.body[start : start + 65536] for start in range(0, len(item.body), 65536)]
    body: Any = iter(parts) if item.chunked else item.body
    connection = server.connect()
    try:
        connection.request(item.method, item.path, body, item.headers, encode_chunked=item.chunked)
        response = connection.getresponse()
        headers = {key.lower(): value for key, value in response.getheaders()}
        return Answer(response.status, headers, response.read())
    finally:
        connection.close()


# Life and death of the process, with the fake model.


def test_sigterm_drains() -> None:
    """The request in flight is finished, new ones get 503 with Retry-After, and the status is 0.

    An idle connection does not hold it up. At level error, the log still has the events of the
    service, and no request.
    """
    options = "--drain-seconds", "1", "--log-level", "error"
    with serving(FAKE, *options) as server, contextlib.closing(server.connect()) as idle:
        assert exchange(idle, "POST", "/predict", {"text": "a"}).status == 200
        with _holding(server) as held:
            server.send_signal(signal.SIGTERM)
            server.logged(event="draining")
            refused = server.ask("POST", "/predict", {"text": "a"})
            assert (refused.status, refused.headers["retry-after"]) == (503, "2")
            assert "shutting down" in refused.json()["detail"]
            assert [server.ask("GET", path).status for path in ("/readyz", "/livez")] == [503, 200]
            server.send_signal(signal.SIGUSR1)
            assert held.getresponse().status == 200
        assert server.wait() == 0
    events = [json.loads(line)["event"] for line in server.lines]
    assert events == ["listening", "metrics", "ready", "draining"]


def test_second_signal_ends_the_process_at_once() -> None:
    """It waits neither for the drain nor for requests in flight; the status is 0."""
    with serving(FAKE, "--drain-seconds", "600") as server, _holding(server):
        server.send_signal(signal.SIGINT)
        server.logged(event="draining")
        server.send_signal(signal.SIGINT)
        assert server.wait() == 0
        server.logged(event="stopped without waiting for requests")


@pytest.mark.fault
def test_requests_are_not_waited_for_beyond_the_grace_period() -> None:
    """A request that is still in flight after the grace period gets 503."""
    with serving(FAKE, "--grace-seconds", "1") as server, _holding(server) as held:
        server.send_signal(signal.SIGTERM)
        response = held.getresponse()
        assert (response.status, response.headers["retry-after"]) == (503, "2")
        assert json.loads(response.read())["detail"] == "the service has shut down; ask another one"
        assert server.wait() == 0


def test_a_process_that_was_stopped_is_not_slow_afterwards() -> None:
    """SIGSTOP amid a text and SIGCONT a second later: large requests are admitted as before."""
    large = {"text": "____ " * 64}
    with serving(FAKE) as server, contextlib.closing(server.connect()) as paused:
        paused.request("POST", "/predict", b'{"text": "pause"}', _JSON)
        server.wait_until_stopped()
        time.sleep(1.0)  # the pause itself
        server.send_signal(signal.SIGCONT)
        assert paused.getresponse().status == 200
        assert server.ask("POST", "/cloze", large).status == 200


def test_keys_rotate_without_a_restart(tmp_path: Path) -> None:
    """Off loopback the keys file is watched, and no key is logged."""
    file = tmp_path / "keys.toml"

    def statuses(*keys: dict[str, str]) -> list[int]:
        return [server.ask("POST", "/predict", {"text": "a"}, key).status for key in keys]

    first, second = (_bearer(f"token of keyboard-{number}") for number in (1, 2))
    file.write_text(key_entry("keyboard-1"))
    options = ("--host", "0.0.0.0", "--keys-file", str(file))
    with serving(FAKE, *options, environment={"LACUNA_KEYS": f"{_KEY},{_KEY}-2"}) as server:
        assert statuses(first, _bearer(_KEY), _bearer(f"{_KEY}-2"), {}) == [200, 200, 200, 401]
        new_file = tmp_path / "new"
        new_file.write_text(key_entry("keyboard-2"))
        new_file.replace(file)
        server.logged(event="keys reloaded", keys=1)
        assert statuses(first, second) == [401, 200]
        server.logged(route="/predict", status=200, key="keyboard-2")
        secrets = [
            key["Authorization"].removeprefix("Bearer ") for key in (first, second, _bearer(_KEY))
        ]
        assert not [secret for secret in secrets if secret in "".join(server.lines)]


def test_metrics_can_have_their_own_port() -> None:
    """It needs no keys; the main port has no /metrics then. A port in use is an error."""
    with serving(FAKE, environment={"LACUNA_KEYS": _KEY}) as server:
        assert server.ask("POST", "/predict", {"text": "a"}, _bearer(_KEY)).status == 200
        assert server.ask("GET", "/metrics", headers=_bearer(_KEY)).status == 404
        assert "/metrics" not in server.ask("GET", "/openapi.json").json()["paths"]
        assert 'lacuna_requests_total{route="/predict",status="200"} 1.0' in server.metrics()
        used = {"--port": server.address[1], "--metrics-port": server.metrics_address[1]}
        for option, number in used.items():
            status, errors = run_to_end(FAKE, "--port", "0", option, str(number))
            assert status == 1
            assert f"lacuna: cannot bind 127.0.0.1 port {number}: " in errors
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0


@pytest.mark.fault
def test_bad_connections_harm_nobody() -> None:
    """Slow bodies, refused bodies, bytes that are not HTTP, and clients that hang up."""
    with serving(FAKE, "--batch-items", "1", "--deadline-seconds", "1") as server:
        slow = _raw(server, _HEAD + b"Content-Length: 100\r\n\r\n{")
        assert slow.startswith(b"HTTP/1.1 408 ")
        assert b"did not arrive within 1 s" in slow
        for junk in (b"\x16\x03\x01\x02\x00\x01", b"Geheimnis\r\n\r\n"):
            refused = _raw(server, junk)
            assert refused.startswith(b"HTTP/1.1 400 ")
            assert b"Geheimnis" not in refused
        with socket.create_connection(server.address) as connection:
            connection.sendall(_HEAD + b"Content-Length: %d\r\n\r\n" % len(_HOLD) + _HOLD)
            _wait_for_batch(server)
        server.logged(status=499, route="/predict")
        assert server.ask("POST", "/predict", {"text": "a"}).status == 200


@pytest.mark.fault
def test_an_engine_that_dies_leaves_nobody_waiting() -> None:
    """Waiting requests get 500, later ones 503; probes ask for a restart, which SIGTERM begins."""
    with serving(FAKE, "--deadline-seconds", "600") as server:
        with _holding(server) as held:
            assert server.ask("POST", "/predict", {"text": "die with my secret"}).status == 500
            assert held.getresponse().status == 500
        later = server.ask("POST", "/predict", {"text": "a"})
        assert (later.status, later.headers["retry-after"]) == (503, "2")
        assert [server.ask("GET", path).status for path in ("/livez", "/readyz")] == [503, 503]
        server.send_signal(signal.SIGHUP)
        assert "stuck or has ended" in server.logged(event="reload refused")["reason"]
        assert "lacuna_ready 0.0" in server.metrics()
        entry = server.logged(event="engine died", level="critical")
        assert entry["exception"]["type"] == "SystemExit"
        assert not any("secret" in line for line in server.lines)
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0


@pytest.mark.fault
def test_a_disk_that_hangs_does_not_delay_the_end() -> None:
    """Requests are answered during a reload that never ends, and one signal ends the process."""
    options = ("--checkpoint", "hung", "--grace-seconds", "1")
    with serving(FAKE, *options) as server:
        server.send_signal(signal.SIGHUP)
        assert server.ask("POST", "/predict", {"text": "a"}).status == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0


@pytest.mark.fault
def test_a_second_signal_ends_a_process_that_lingers() -> None:
    """It ends with status 0, whatever the process still waits for."""
    with serving(("-c", _LINGERS)) as server:
        server.send_signal(signal.SIGTERM)
        server.logged(event="lingers")
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0


def _raw(server: ServerProcess, sent: bytes) -> bytes:
    """Send bytes; return everything until the service closes the connection."""
    with socket.create_connection(server.address) as connection:
        connection.sendall(sent)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@contextlib.contextmanager
def _holding(server: ServerProcess) -> Iterator[http.client.HTTPConnection]:
    """Have a request in the network; the connection is that of its answer."""
    with contextlib.closing(server.connect()) as held:
        held.request("POST", "/predict", _HOLD, _JSON)
        _wait_for_batch(server)
        yield held


def _wait_for_batch(server: ServerProcess) -> None:
    """Read the metrics until the engine has work."""
    while "lacuna_queue_work_seconds 0.0\n" in server.metrics():
        pass
