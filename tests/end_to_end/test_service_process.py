"""The service as its users meet it: a process, a socket, a checkpoint on disk."""

import contextlib
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.__main__ import main
from service.auth import main as make_keys
from service.schemas import ClozeAnswer, ModelAnswer, PredictAnswer, ScoreAnswer
from tests.service.bad_inputs import INPUTS, SECRET, Input
from tests.service.server_process import (
    FAKE,
    REAL,
    ROOT,
    Answer,
    ServerProcess,
    exchange,
    run_to_end,
    serving,
)

_DOCUMENT = ROOT / "docs" / "http.md"
_HEADERS = "Host: localhost\r\nContent-Type: application/json\r\n"
_KEY = "a-key-for-tests-0123456789"
_BEGIN, _END = (
    "<!-- {}: written by UPDATE_DOCS=1 pytest tests/end_to_end/test_service_process.py -->",
    "<!-- end of {} -->",
)
_GOOD: list[tuple[str, dict[str, Any]]] = [
    ("/predict", {"text": "I like the", "top_k": 3}),
    ("/predict", {"text": "I like the", "history": "I like the theatre."}),
    ("/cloze", {"text": "I like the __ and the mat.", "choices": ["mat", "cat"]}),
    ("/cloze", {"text": "我____一部新手机。", "choices": ["买", "卖"]}),
    ("/score", {"text": ["今天", "the cat"]}),
]


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path) -> Iterator[ServerProcess]:
    """A service with the tiny checkpoint, started by its own command."""
    # Long, as a busy machine would refuse the largest requests that are good, and rightly so.
    with serving(
        REAL, "--checkpoint", str(tiny_checkpoint), "--threads", "1", "--deadline-seconds", "60"
    ) as running:
        yield running


@pytest.fixture(scope="module")
def bad_answers(server: ServerProcess) -> dict[str, Answer]:
    """What each kind of bad input got, while good requests were being sent beside them all the time."""
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


def test_good_requests_are_answered_while_bad_ones_come(bad_answers: dict[str, Answer]) -> None:
    """Every kind of bad input was sent among good requests, and each good one got exactly what it gets alone."""
    assert len(bad_answers) == len(INPUTS) >= 40


@pytest.mark.parametrize(("path", "body"), _GOOD)
def test_real_answers_have_the_documented_form(
    server: ServerProcess, path: str, body: dict[str, Any]
) -> None:
    """A real checkpoint's answers hold the fields of the documented types, all of them and no other."""
    documented = {"/predict": PredictAnswer, "/cloze": ClozeAnswer, "/score": ScoreAnswer}[path]
    answer = server.ask("POST", path, body).json()
    assert documented.model_validate(answer).model_dump(mode="json") == answer
    model = server.ask("GET", "/model").json()
    assert ModelAnswer.model_validate(model).model_dump(mode="json") == model
    assert {key: model[key] for key in ("name", "version")} == answer["model"]


@pytest.mark.fault
@pytest.mark.parametrize("item", INPUTS, ids=lambda item: item.kind)
def test_bad_input_gets_its_status(bad_answers: dict[str, Answer], item: Input) -> None:
    """The status is the documented one, an error is a problem document with the request's id, and echoes no text."""
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


def test_no_text_is_logged(server: ServerProcess, bad_answers: dict[str, Answer]) -> None:
    """After all that, the log has a line for each request and not one character of a text."""
    last = server.ask("GET", "/livez").headers["x-request-id"]
    server.logged(request_id=last)
    log = "".join(server.lines)
    assert log.count('"request_id"') > len(bad_answers)
    assert SECRET not in log
    assert SECRET[-1] not in log
    assert "手机" not in log


@pytest.mark.usefixtures("bad_answers")
def test_no_text_is_measured(server: ServerProcess) -> None:
    """After all that, the metrics know the routes of the contract and no other, and no text."""
    metrics = server.ask("GET", "/metrics").body.decode()
    assert SECRET[:4] not in metrics
    routes = set(re.findall(r'lacuna_requests_total\{route="([^"]*)"', metrics))
    assert "unmatched" in routes
    assert not [route for route in routes if "aaa" in route or "passwd" in route]
    assert 'lacuna_requests_total{route="/predict",status="500"} 0.0' in metrics


def test_document_tells_what_is_answered(bad_answers: dict[str, Answer]) -> None:
    """The table of bad input in docs/http.md is what the service really answered."""
    rows = ["| What is sent | Status | Answer |", "|---|---|---|"]
    for item in INPUTS:
        answer = bad_answers[item.kind]
        told = answer.json()["detail"] if item.status != 200 else "answered"
        where = "" if item.path == "/predict" else f" (`{item.path}`)"
        rows.append(f"| {item.kind}{where} | {answer.status} | {_cell(told)} |")
    _compare("bad input", "\n".join(rows))


def _send(server: ServerProcess, item: Input) -> Answer:
    connection = server.connect()
    body: Any = [item.body[start : start + 65536] for start in range(0, len(item.body), 65536)]
    try:
        connection.request(
            item.method,
            item.path,
            iter(body) if item.chunked else item.body,
            item.headers,
            encode_chunked=item.chunked,
        )
        response = connection.getresponse()
        return Answer(
            response.status,
            {key.lower(): value for key, value in response.getheaders()},
            response.read(),
        )
    finally:
        connection.close()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _compare(name: str, table: str) -> None:
    """Hold a part of docs/http.md against *table*; with UPDATE_DOCS=1, write it."""
    begin, end = _BEGIN.format(name), _END.format(name)
    document = _DOCUMENT.read_text("utf-8")
    before, _, rest = document.partition(begin)
    inside, _, after = rest.partition(end)
    if os.environ.get("UPDATE_DOCS"):
        _DOCUMENT.write_text(f"{before}{begin}\n\n{table}\n\n{end}{after}", "utf-8")
    else:
        assert inside.strip() == table


# What keeps a service from starting.


def _truncate(directory: Path) -> None:
    path = directory / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _alter(directory: Path) -> None:
    path = directory / "tokenizer.model"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _make_newer(directory: Path) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    _sum_again(directory, "config.json")


def _no_json(directory: Path) -> None:
    (directory / "config.json").write_text("{")
    _sum_again(directory, "config.json")


def _no_graph(directory: Path) -> None:
    (directory / "onnx" / "forward.onnx").write_bytes(b"no graph")
    _sum_again(directory, "onnx/forward.onnx")


def _remove_file(directory: Path) -> None:
    (directory / "weights.safetensors").unlink()


def _remove_sums(directory: Path) -> None:
    (directory / "SHA256SUMS").unlink()


def _remove_all(directory: Path) -> None:
    shutil.rmtree(directory)


def _sum_again(directory: Path, name: str) -> None:
    digest = hashlib.sha256((directory / name).read_bytes()).hexdigest()
    sums = directory / "SHA256SUMS"
    kept = [line for line in sums.read_text().splitlines() if not line.endswith(f"  {name}")]
    sums.write_text("\n".join([*kept, f"{digest}  {name}"]) + "\n")


_BAD_CHECKPOINTS = {
    "a checkpoint that is not there": (_remove_all, "does not exist"),
    "truncated weights": (_truncate, "cut short or altered"),
    "a file whose sum is wrong": (_alter, "cut short or altered"),
    "a missing file": (_remove_file, "is missing"),
    "missing sums": (_remove_sums, "is missing"),
    "a newer format": (_make_newer, "format_version"),
    "a configuration that is not JSON": (_no_json, "is not JSON"),
    "a graph that cannot be opened": (_no_graph, "cannot open it"),
}
_BAD_SETTINGS: dict[str, tuple[tuple[str, ...], dict[str, str], str]] = {
    "an option that is unknown": (("--prot", "8000"), {}, "--prot"),
    "an option that is shortened": (("--po", "8000"), {}, "--po"),
    "a variable that is unknown": ((), {"LACUNA_PROT": "8000"}, "LACUNA_PROT"),
    "a port that is too large": (("--port", "70000"), {}, "--port"),
    "a variable of the wrong type": ((), {"LACUNA_THREADS": "two"}, "LACUNA_THREADS"),
    "a settings file that is not there": (("--config", "no-such.toml"), {}, "no-such.toml"),
    "no keys off loopback": (("--host", "0.0.0.0"), {}, "--allow-anonymous"),
    "a short key": ((), {"LACUNA_KEYS": "hunter2"}, "7 characters"),
    "a keys file that is not there": (
        ("--keys-file", "no-such-keys.toml"),
        {},
        "no-such-keys.toml",
    ),
    "an origin that no browser sends": (
        ("--allowed-origins", "https://a.example/"),
        {},
        "allowed_origins",
    ),
}


@pytest.fixture(scope="module")
def refusals(
    tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[int, str]]:
    """Exit status and message for everything that keeps the service from starting."""
    found = {}
    for kind, (spoil, _) in _BAD_CHECKPOINTS.items():
        directory = tmp_path_factory.mktemp("spoilt") / "tiny"
        shutil.copytree(tiny_checkpoint, directory)
        spoil(directory)
        status, errors = run_to_end(REAL, "--port", "0", "--checkpoint", str(directory))
        found[kind] = (
            status,
            errors.strip().splitlines()[-1].replace(str(directory), "CHECKPOINT"),
        )
    for kind, (options, environment, _) in _BAD_SETTINGS.items():
        found[kind] = _refuse_setting(options, environment)
    return found


def _refuse_setting(options: tuple[str, ...], environment: dict[str, str]) -> tuple[int, str]:
    """Run the command in this process, as it ends before it serves: a process takes seconds to start."""
    errors = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(errors):
        for variable in list(os.environ):
            if variable.startswith("LACUNA_"):
                patch.delenv(variable)
        for variable, value in environment.items():
            patch.setenv(variable, value)
        try:
            status = main(options)
        except SystemExit as ended:
            status = int(str(ended.code))
    return status, errors.getvalue().strip().splitlines()[-1]


@pytest.mark.fault
@pytest.mark.parametrize("kind", _BAD_CHECKPOINTS)
def test_bad_checkpoint_ends_the_process(refusals: dict[str, tuple[int, str]], kind: str) -> None:
    """A checkpoint that cannot be served ends the process with status 1 and a message that names path and remedy."""
    status, message = refusals[kind]
    assert status == 1, message
    assert message.startswith("lacuna: cannot serve CHECKPOINT: ")
    assert _BAD_CHECKPOINTS[kind][1] in message


@pytest.mark.fault
@pytest.mark.parametrize("kind", _BAD_SETTINGS)
def test_bad_setting_ends_the_process(refusals: dict[str, tuple[int, str]], kind: str) -> None:
    """A wrong setting ends the process with status 2 and a message that names it, and not a key."""
    status, message = refusals[kind]
    assert status == 2, message
    assert _BAD_SETTINGS[kind][2] in message
    assert "hunter2" not in message


def test_document_tells_why_it_does_not_start(refusals: dict[str, tuple[int, str]]) -> None:
    """The table of refusals in docs/http.md is what the service really said."""
    rows = ["| What is wrong | Exit status | Message |", "|---|---|---|"]
    rows += [
        f"| {kind} | {status} | {_cell(message)} |" for kind, (status, message) in refusals.items()
    ]
    table = re.sub(r"\d+ bytes", "N bytes", re.sub(r"[0-9a-f]{64}", "SUM", "\n".join(rows)))
    _compare("refusals", table)


# Life and death of the process, with the fake model where timing must be in a test's hand.


def test_the_log_level_is_the_process_own() -> None:
    """At error a process still writes where it listens, what answers and that it ends; of requests nothing."""
    with serving(FAKE, "--log-level", "error", "--drain-seconds", "0.01") as server:
        assert server.ask("POST", "/predict", {"text": "a"}).status == 200
        server.send_signal(signal.SIGHUP)
        server.logged(event="reloaded")
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0
    assert [json.loads(line)["event"] for line in server.lines] == [
        "listening",
        "ready",
        "reloaded",
        "draining",
    ]


def test_restart_gives_the_same_answers(server: ServerProcess, tiny_checkpoint: Path) -> None:
    """Two processes with one checkpoint answer alike: nothing that a client relies on lives in a process."""
    with serving(REAL, "--checkpoint", str(tiny_checkpoint), "--threads", "1") as other:
        for path, body in _GOOD:
            first, second = (process.ask("POST", path, body).json() for process in (server, other))
            assert first["results"] == second["results"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains(number: signal.Signals) -> None:
    """After SIGTERM the request in flight is finished, a new one gets 503 with Retry-After, and the status is 0."""
    with serving(FAKE, "--drain-seconds", "1") as server:
        held: list[Answer] = []
        thread = threading.Thread(
            target=lambda: held.append(server.ask("POST", "/predict", {"text": "hold"}))
        )
        thread.start()
        _wait_for_metric(server, "lacuna_batch_rows_count", at_least=1)
        server.send_signal(number)
        server.logged(event="draining")
        refused = server.ask("POST", "/predict", {"text": "a"})
        assert (refused.status, refused.headers["retry-after"]) == (503, "2")
        assert "shutting down" in refused.json()["detail"]
        assert server.ask("GET", "/readyz").status == 503
        assert server.ask("GET", "/livez").status == 200
        server.send_signal(signal.SIGUSR1)
        thread.join()
        assert held[0].status == 200
        assert server.wait() == 0


def test_drain_closes_idle_connections() -> None:
    """A kept-alive connection that idles does not hold up the end of the process."""
    with serving(FAKE) as server:
        connection = server.connect()
        assert exchange(connection, "POST", "/predict", {"text": "a"}).status == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        with pytest.raises((http.client.HTTPException, OSError)):
            exchange(connection, "POST", "/predict", {"text": "a"})
        connection.close()


def test_second_signal_ends_the_process_at_once() -> None:
    """Whoever signals twice waits neither for the drain nor for requests in flight, and still gets status 0."""
    with serving(FAKE, "--drain-seconds", "600") as server:
        with contextlib.suppress(http.client.HTTPException, OSError):
            held = server.connect()
            held.request(
                "POST", "/predict", b'{"text": "hold"}', {"Content-Type": "application/json"}
            )
        _wait_for_metric(server, "lacuna_batch_rows_count", at_least=1)
        server.send_signal(signal.SIGTERM)
        server.logged(event="draining")
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        server.logged(event="stopped without waiting for requests")
        held.close()


@pytest.mark.fault
def test_requests_are_not_waited_for_beyond_the_grace_period() -> None:
    """What is still in flight a second after the drain, its grace period, gets 503 and no longer holds up the end."""
    with serving(FAKE, "--grace-seconds", "1") as server:
        held = server.connect()
        held.request("POST", "/predict", b'{"text": "hold"}', {"Content-Type": "application/json"})
        _wait_for_metric(server, "lacuna_batch_rows_count", at_least=1)
        server.send_signal(signal.SIGTERM)
        response = held.getresponse()
        assert (response.status, response.headers["retry-after"]) == (503, "2")
        assert json.loads(response.read())["detail"] == "the service has shut down; ask another one"
        assert server.wait() == 0
        held.close()


@pytest.mark.fault
def test_port_in_use_is_told(server: ServerProcess, tiny_checkpoint: Path) -> None:
    """A second service on the same port ends with status 1 and says which port."""
    _, port = server.address
    status, errors = run_to_end(REAL, "--port", str(port), "--checkpoint", str(tiny_checkpoint))
    assert status == 1
    assert f"cannot bind 127.0.0.1 port {port}" in errors


def test_keys_are_demanded_off_loopback(tiny_checkpoint: Path) -> None:
    """Bound to every address with keys, it answers those who have one; probes and docs need none."""
    options = ("--host", "0.0.0.0", "--checkpoint", str(tiny_checkpoint))
    with serving(REAL, *options, environment={"LACUNA_KEYS": f"{_KEY},{_KEY}-2"}) as server:
        body = {"text": "a"}
        refused = server.ask("POST", "/predict", body)
        assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert (
            server.ask("POST", "/predict", body, {"Authorization": f"Bearer {_KEY}"}).status == 200
        )
        assert (
            server.ask("POST", "/predict", body, {"Authorization": f"Bearer {_KEY}-2"}).status
            == 200
        )
        assert (
            server.ask("POST", "/predict", body, {"Authorization": f"Bearer {_KEY}-3"}).status
            == 401
        )
        assert [server.ask("GET", path).status for path in ("/livez", "/readyz", "/docs")] == [
            200,
            200,
            200,
        ]
        assert [server.ask("GET", path).status for path in ("/model", "/metrics", "/nothing")] == [
            401,
            401,
            401,
        ]
        assert _KEY not in "".join(server.lines)


def test_keys_rotate_without_a_restart(tmp_path: Path) -> None:
    """While it runs, keys are added and removed; a file that is wrong changes nothing but the log and a counter."""
    file = tmp_path / "keys.toml"

    def new(name: str) -> dict[str, str]:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            assert make_keys(["new", name, "--file", str(file)]) == 0
        return {"Authorization": f"Bearer {output.getvalue().strip()}"}

    def replace(text: str) -> None:
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").replace(file)

    first = new("keyboard-1")
    with serving(FAKE, "--host", "0.0.0.0", "--keys-file", str(file)) as server:

        def statuses() -> list[int]:
            return [
                server.ask("POST", "/predict", {"text": "a"}, key).status for key in (first, second)
            ]

        assert server.ask("POST", "/predict", {"text": "a"}, first).status == 200
        second = new("keyboard-2")
        server.logged(event="keys reloaded", keys=2)
        assert statuses() == [200, 200]
        good = file.read_text()
        replace("oops")
        server.logged(event="keys not reloaded; the old ones stay", level="error")
        assert statuses() == [200, 200]
        assert (
            "lacuna_keys_current 0.0" in server.ask("GET", "/metrics", headers=second).body.decode()
        )
        replace(good[good.rindex("[[key]]") :])
        server.logged(event="keys reloaded", keys=1)
        assert statuses() == [401, 200]
        metrics = server.ask("GET", "/metrics", headers=second).body.decode()
        assert "lacuna_keys_current 1.0" in metrics
        assert "keyboard" not in metrics
        server.logged(route="/predict", status=200, key="keyboard-2")
        log = "".join(server.lines)
        assert not any(
            key["Authorization"].removeprefix("Bearer ") in log for key in (first, second)
        )


def test_metrics_can_have_a_port_of_their_own() -> None:
    """Asked for by its setting, it answers /metrics without keys; the main port then knows no such path."""
    with serving(FAKE, "--metrics-port", "0", environment={"LACUNA_KEYS": _KEY}) as server:
        key = {"Authorization": f"Bearer {_KEY}"}
        assert server.ask("POST", "/predict", {"text": "a"}, key).status == 200
        assert server.ask("GET", "/metrics", headers=key).status == 404
        assert "/metrics" not in server.ask("GET", "/openapi.json").json()["paths"]
        host, _, rest = (
            server.logged(event="metrics")["address"].removeprefix("http://").rpartition(":")
        )
        port = int(rest.removesuffix("/metrics"))
        connection = http.client.HTTPConnection(host, port, timeout=60)
        answer = exchange(connection, "GET", "/metrics")
        connection.close()
        assert 'lacuna_requests_total{route="/predict",status="200"} 1.0' in answer.body.decode()
        status, errors = run_to_end(FAKE, "--port", "0", "--metrics-port", str(port))
        assert status == 1
        assert f"cannot bind 127.0.0.1 port {port}" in errors
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0


def test_keys_are_waived_by_name() -> None:
    """Bound to every address with --allow-anonymous, it answers anybody."""
    with serving(FAKE, "--host", "0.0.0.0", "--allow-anonymous") as server:
        assert server.ask("POST", "/predict", {"text": "a"}).status == 200


@pytest.mark.fault
def test_disconnected_client_frees_the_engine() -> None:
    """A client that hangs up while its text is decoded is counted as 499, and the engine is free for others."""
    with serving(FAKE, "--batch-items", "1") as server:
        request = json.dumps({"text": "hold"}).encode()
        head = f"POST /predict HTTP/1.1\r\n{_HEADERS}Content-Length: {len(request)}"
        with socket.create_connection(server.address) as connection:
            connection.sendall(head.encode() + b"\r\n\r\n" + request)
            _wait_for_metric(server, "lacuna_batch_rows_count", at_least=1)
        server.logged(status=499, route="/predict")
        assert server.ask("POST", "/predict", {"text": "a"}).status == 200


@pytest.mark.fault
def test_slow_body_is_given_up() -> None:
    """A body that does not arrive within the deadline gets 408, and the connection is closed."""
    with (
        serving(FAKE, "--deadline-seconds", "0.2") as server,
        socket.create_connection(server.address) as connection,
    ):
        head = f"POST /predict HTTP/1.1\r\n{_HEADERS}Content-Length: 100\r\n\r\n{{"
        connection.sendall(head.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 0.2 s" in answer


@pytest.mark.fault
def test_too_large_a_body_is_refused_before_it_is_sent() -> None:
    """A client that asks first (Expect: 100-continue) is told 413 without having to send anything."""
    with serving(FAKE) as server, socket.create_connection(server.address) as connection:
        head = f"POST /predict HTTP/1.1\r\n{_HEADERS}Content-Length: 3000000\r\n"
        connection.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.fault
@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00\x01", b"Geheimnis\r\n\r\n", b"POST /predict HTTP/9.9\r\n\r\n"]
)
def test_what_is_not_http_is_refused(server: ServerProcess, sent: bytes) -> None:
    """Bytes that are not HTTP get the server's plain 400 and a closed connection, and are not repeated."""
    with socket.create_connection(server.address) as connection:
        connection.sendall(sent)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Geheimnis" not in answer
    assert server.ask("GET", "/livez").status == 200


def test_torch_is_never_imported(tiny_checkpoint: Path) -> None:
    """A service on a CPU answers without torch, onnx or safetensors: it starts where importing them is an error."""
    block = "import sys; sys.modules.update(torch=None, onnx=None, safetensors=None); "
    run = "import runpy; sys.argv[0] = 'service'; runpy.run_module('service', run_name='__main__')"
    with serving(("-c", block + run), "--checkpoint", str(tiny_checkpoint)) as server:
        for path, body in _GOOD:
            assert server.ask("POST", path, body).status == 200


def _wait_for_metric(server: ServerProcess, name: str, at_least: float) -> None:
    """Ask /metrics until the sum of a series has come."""
    while True:
        metrics = server.ask("GET", "/metrics").body.decode()
        if (
            sum(
                float(value)
                for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", metrics, re.MULTILINE)
            )
            >= at_least
        ):
            return
