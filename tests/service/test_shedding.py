"""Tests of service/shedding.py on a real process whose one place and whose queue of one are taken."""

import asyncio
import json
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from model.queries import ScoreQuery
from service.admission import FIRST_RATE, MEMORY_REQUESTS, Admission
from service.settings import Settings
from service.shedding import Shedder
from tests.service.server_process import FAKE, ServerProcess, exchange, serving

OPTIONS = ("--max-texts", "1", "--queue-items", "1", "--batch-items", "1")
BODY = b'{"text": "full, is it?"}'


def post(body: bytes) -> bytes:
    """A question, as most clients write it."""
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d"
    return b"%s\r\n\r\n%s" % (head % len(body), body)


PLAIN = post(BODY)


@contextmanager
def filled(server: ServerProcess) -> Iterator[None]:
    """One text is decoded and another waits, until SIGUSR1; then there is room again."""
    held = post(b'{"text": "hold"}')
    with (
        socket.create_connection(server.address) as decoded,
        socket.create_connection(server.address) as waiting,
    ):
        decoded.sendall(held)
        while not value(server, "lacuna_queue_work_seconds ") or value(
            server, "lacuna_queue_depth "
        ):
            pass
        waiting.sendall(held)
        while not value(server, "lacuna_queue_depth "):
            pass
        yield


@pytest.fixture
def full() -> Iterator[ServerProcess]:
    """A service without room for another text."""
    with serving(FAKE, *OPTIONS) as server, filled(server):
        yield server


def value(server: ServerProcess, series: str) -> float:
    """What /metrics says of one series."""
    (line,) = [
        line
        for line in server.ask("GET", "/metrics").body.decode().splitlines()
        if line.startswith(series)
    ]
    return float(line.rpartition(" ")[2])


def send(server: ServerProcess, *parts: bytes) -> bytes:
    """All that comes of *parts*, sent one after another on one connection, each after an answer to the one before."""
    with socket.create_connection(server.address, 60) as connection:
        answers = b""
        for part in parts:
            connection.sendall(part)
            answers += connection.recv(65536)
        return answers


def test_a_question_is_refused_unread_and_its_connection_goes_on(full: ServerProcess) -> None:
    """It gets the problem that the app would send, with its own id, is counted, and is answered when there is room."""
    connection = full.connect()
    refused = exchange(connection, "POST", "/predict", {"text": "x"}, {"X-Request-Id": "mine"})
    assert refused.status == 429
    problem = refused.json()
    assert problem.pop("detail") == "1 texts are waiting; the queue is full"
    assert problem == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "request_id": "mine",
    }
    assert refused.headers["content-type"] == "application/problem+json"
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert refused.headers["x-request-id"] == "mine"
    assert "date" in refused.headers
    another = exchange(connection, "POST", "/cloze", {"text": "____"})
    assert re.fullmatch("[0-9a-f]{32}", another.json()["request_id"])
    told = full.logged(event="refused unread", route="/predict", status=429, reason="queue_full")
    assert told["requests"] == 1
    assert value(full, 'lacuna_requests_total{route="/predict",status="429"}') == 1
    assert value(full, 'lacuna_refusals_total{reason="queue_full"}') == 2
    full.send_signal(signal.SIGUSR1)
    while (answer := exchange(connection, "POST", "/predict", {"text": "x"})).status == 429:
        pass
    connection.close()
    assert answer.status == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        PLAIN.replace(b"Host", b"Origin: http://page\r\nHost"),
        PLAIN.replace(b"Host", b"Connection: close\r\nHost"),
        PLAIN.replace(b"/predict", b"/predict?q=1"),
        PLAIN.replace(b"Content-Length", b"Content-Length: 1\r\nContent-Length"),
        PLAIN.replace(b"Host: localhost\r\n", b"Host: localhost\n"),
        PLAIN.replace(b"Content-Length: 24", b"Transfer-Encoding: chunked").replace(
            BODY, b"2\r\n{}\r\n0\r\n\r\n"
        ),
        PLAIN.replace(b"1.1", b"1.0"),
        PLAIN.replace(b"Host", b"Transfer-Encoding : chunked\r\nHost"),
        PLAIN.replace(b"Host", b"Content-Length : 0\r\nHost"),
        PLAIN.replace(b"Host", b"X: y\r\n Transfer-Encoding: chunked\r\nHost"),
        PLAIN.replace(b"Host", b"X: y\rTransfer-Encoding: chunked\r\nHost"),
        PLAIN.replace(b"Host", b"X: \x00\r\nHost"),
        PLAIN.replace(b"Host", b"nothing\r\nHost"),
    ],
    ids=[
        "origin",
        "close",
        "query",
        "two lengths",
        "bare newline",
        "chunked",
        "old version",
        "space after a name",
        "space after a second length",
        "folded",
        "bare return",
        "nul",
        "no colon",
    ],
)
def test_what_is_not_plain_goes_through_the_app(full: ServerProcess, request_bytes: bytes) -> None:
    """A request whose end, connection or reader needs a look is judged as when there is room."""
    answer = send(full, request_bytes)
    assert answer.startswith((b"HTTP/1.1 429 ", b"HTTP/1.1 400 "))
    assert value(full, 'lacuna_refusals_total{reason="queue_full"}') == answer.startswith(
        b"HTTP/1.1 429 "
    )
    assert not any("refused unread" in line for line in full.lines)


def test_requests_sent_at_once_are_answered_one_by_one(full: ServerProcess) -> None:
    """Two in one packet get two answers, in their order."""
    with socket.create_connection(full.address, 60) as connection:
        connection.sendall(PLAIN + b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answers = b""
        while not answers.endswith(b"ready\n"):
            answers += connection.recv(65536)
    assert re.findall(rb"HTTP/1\.1 (\d+)", answers) == [b"429", b"200"]


def test_a_body_that_looks_like_a_request_is_a_body(full: ServerProcess) -> None:
    """What is left of a request that has its answer already gets none of its own: nothing can be smuggled in."""
    with socket.create_connection(full.address, 60) as connection:
        connection.sendall(post(PLAIN).removesuffix(PLAIN))
        answers = b""
        while not answers.endswith(b"}"):
            answers += connection.recv(65536)
        connection.sendall(PLAIN)
        connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while not answers.endswith(b"ready\n"):
            answers += connection.recv(65536)
    assert re.findall(rb"HTTP/1\.1 (\d+)", answers) == [b"429", b"200"]


def shedder(seconds_of_work: float, accepting: bool = True) -> Shedder:
    """One whose engine has so much work before it, at the speed that is thought of first."""
    admission = Admission(512, Settings().limits)
    (work,) = admission.admit([ScoreQuery("x" * 100)], "", 10.0)
    admission.end(work - int(seconds_of_work * admission.rate))
    engine: Any = SimpleNamespace(admission=admission, accepting=accepting)
    return Shedder(engine, 10.0, lambda *_: None)


def test_work_that_would_come_too_late_is_refused_and_less_is_not() -> None:
    """The line is the admission's own: half of the deadline."""
    late, early = shedder(5.1), shedder(4.9)
    assert (late.shedding, early.shedding) == (True, False)
    (answer,) = asyncio.run(ask(late, 1))
    assert answer is not None
    head, _, content = answer.partition(b"\r\n\r\n")
    assert b"\r\ndate: now\r\n" in head
    assert b"\r\nretry-after: 6\r\n" in head
    assert f"\r\ncontent-length: {len(content)}\r\n".encode() in head
    assert json.loads(content)["detail"].startswith("5.1 s of work are waiting: ")
    assert asyncio.run(ask(early, 1)) == [None]


def test_free_places_are_not_open_to_more_than_fit_into_them() -> None:
    """Of a thousand questions that came in one round of the event loop, as many as there is room for reach the app."""
    answers = asyncio.run(ask(shedder(4.9), 1000))
    room, usual = 0.1 * FIRST_RATE, 3_500 / MEMORY_REQUESTS
    assert answers.count(None) == int(room / usual)


async def ask(given: Shedder, requests: int) -> list[bytes | None]:
    """What the protocol does with so many questions that it reads before the app sees any of them."""
    loop = asyncio.get_running_loop()
    answers = []
    for _ in range(requests):
        answers.append(given.refuse(PLAIN, loop, [(b"date", b"now")]) if given.shedding else None)
        if answers[-1] is None:
            given.let_through(loop)
    return answers


def test_a_service_that_drains_does_not_say_that_it_is_full() -> None:
    """The app says 503, which sends the client elsewhere; 429 would make it wait."""
    assert not shedder(5.1, accepting=False).shedding
