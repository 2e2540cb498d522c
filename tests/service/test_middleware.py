"""Tests of service/middleware.py: request ids, errors, hosts, keys and pages."""

import gc
import logging
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from service.auth import KeyRing
from service.errors import Problem
from service.metrics import ROUTES
from service.middleware import Access, RequestContext
from service.pages import PAGES
from service.settings import Settings
from tests.service.client import app_of, ask, get, key_entry

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
KEYS = ("first-key-0123456789", "second-key-0123456789")


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    """The keys of a user and of an administrator who may send 5 texts per minute."""
    file = tmp_path / "keys.toml"
    root = key_entry("root", "admin = true\ntexts_per_minute = 5")
    file.write_text(key_entry("user") + root + key_entry("prometheus", "metrics = true"))
    return file


def bearer(name: str) -> str:
    """Return the header of a key of `keys_file`."""
    return f"Bearer token of {name}"


@pytest.fixture
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no time pass for allowances."""
    monkeypatch.setattr("service.admission.time", SimpleNamespace(monotonic=lambda: 1_000.0))


def pass_through(
    *,
    host: str = "127.0.0.1",
    allowed: tuple[str, ...] = (),
    keys: KeyRing | None = None,
    path: str = "/model",
    name: str = "localhost",
    **headers: str,
) -> Any:
    """Return the status of a refusal, or the context of a request that is let through."""
    access = Access(keys or KeyRing(), Settings(host=host, allowed_hosts=allowed))
    encoded = [(key.encode(), value.encode()) for key, value in {"host": name, **headers}.items()]
    scope = {"type": "http", "path": path, "headers": encoded}
    context = RequestContext.begin(scope, cast("Any", None), cast("Any", None))
    try:
        access.check(scope, context)
    except Problem as problem:
        return problem.status
    return context


# Request ids and errors.


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("a", True), ("A-1._b", True), ("x" * 64, True), ("", False), ("x" * 65, False),
     ("a b", False), ("a\tb", False), ("鬼", False)],
)  # fmt: skip
def test_a_well_formed_request_id_is_kept(sent: str, kept: bool) -> None:
    """Any other is replaced by a new one."""
    first, second = (pass_through(**{"x-request-id": sent}).request_id for _ in range(2))
    assert (first == second == sent) is kept
    assert kept or (re.fullmatch("[0-9a-f]{32}", first) and first != second)


@pytest.mark.parametrize(
    ("parent", "kept"),
    [
        (f"00-{TRACE}-{PARENT}-01", True),
        (f" cc-{TRACE}-{PARENT}-ff-what-may-come\t", True),
        (TRACE, False),
        (f"00-{TRACE}-{PARENT}-1", False),
        (f"00-{TRACE}-{PARENT}-01-more", False),
        (f"cc-{TRACE}-{PARENT}-01more", False),
        (f"ff-{TRACE}-{PARENT}-01", False),
        (f"00-{TRACE.upper()}-{PARENT}-01", False),
        (f"00-{TRACE[:-1]}鬼-{PARENT}-01", False),
        (f"00-{'0' * 32}-{PARENT}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
    ],
)
def test_the_trace_of_a_well_formed_parent_is_kept(parent: str, kept: bool) -> None:
    """Version 00, and later versions as far as version 00 defines them."""
    identity = pass_through(traceparent=parent, **{"x-request-id": "id-1"}).identity
    assert identity == {"request_id": "id-1"} | ({"trace_id": TRACE} if kept else {})


def test_unexpected_failure_is_logged_by_type_and_place(caplog: pytest.LogCaptureFixture) -> None:
    """An unknown exception is a 500; the log has its type and the request, and no message."""
    headers = {"X-Request-Id": "id-7", "Traceparent": f"00-{TRACE}-{PARENT}-01"}
    body = {"text": "poison 鬼"}
    response = ask(lambda client: client.post("/predict", json=body, headers=headers))
    assert response.status_code == 500
    assert response.headers["x-request-id"] == response.json()["request_id"] == "id-7"
    (failure,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    fields = failure.__dict__["fields"]
    assert fields["exception"]["type"] == "RuntimeError"
    assert (fields["request_id"], fields["trace_id"]) == ("id-7", TRACE)
    assert "鬼" not in response.text + str(failure.__dict__)


def test_requests_are_freed_without_the_collector() -> None:
    """A request leaves no cycle that would keep its body: Python collects seldom, and for long."""
    left: set[str] = set()
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [
        (b"host", b"localhost"), (b"content-type", b"application/json")]}  # fmt: skip

    async def receive(_scope: Any) -> Any:  # which uvicorn's knows, too
        return {"type": "http.request", "body": b'{"text": "a"}'}

    async def send(_message: Any) -> None:
        pass

    async def question(client: httpx.AsyncClient) -> set[int]:
        asked = [
            ("/predict", b'{"text": "' + b"a" * 2_000 + b'"}'),  # 413
            ("/predict", b"{"),  # 400
            ("/predict", b'{"text": 5}'),  # 422 for a field
            ("/cloze", b'{"text": "no blank"}'),  # 422 for a text
            ("/predict", b'{"text": "refuse to start"}'),  # 500
            ("/v1/completions", b'{"model": "fake", "prompt": "a", "max_tokens": 99}'),  # 400
            ("/v1/completions", b'{"model": "fake", "prompt": "trouble", "stream": true}'),
        ]
        headers = {"Content-Type": "application/json"}
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            answers = [
                await client.post(path, content=body, headers=headers) for path, body in asked
            ]
            answered = scope.copy()
            await app_of(client)(answered, partial(receive, answered), send)
            del answered
            gc.collect()
            left.update(type(each).__name__ for each in gc.garbage)
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
        return {answer.status_code for answer in answers}

    assert ask(question, max_body_bytes=1024) == {200, 400, 413, 422, 500}
    assert not left & {"Problem", "Job", "QueryError", "ItemError", "RequestContext", "Asked"}


def test_routes_are_a_closed_set() -> None:
    """The routes that label metrics are those of the app."""
    documented = set(get("/openapi.json").json()["paths"])
    assert documented | {"/docs", "/openapi.json", *PAGES} == set(ROUTES)


# Hosts.


@pytest.mark.parametrize(
    "name",
    ["localhost", "LocalHost:8000", "localhost.", "127.0.0.1", "127.9.9.9:8000", "[::1]:8000"],
)
def test_loopback_answers_to_its_own_names(name: str) -> None:
    """Bound to loopback, a request may name any loopback host, with or without a port."""
    assert pass_through(name=name) != 421


@pytest.mark.parametrize(
    "name",
    ["evil.example:8000", "localhost.evil.example", "192.168.0.1", "[::2]", "", "[127.0.0.1",
     "a b", "127.0.0.1:8000:1", "127.0.0.1@evil.example", "localhost/evil.example"],
)  # fmt: skip
def test_loopback_answers_to_no_other_name(name: str) -> None:
    """A page whose name was rebound to this machine gets 421; so does a malformed host or none."""
    assert pass_through(name=name) == 421
    probes = [pass_through(name=name, path=path) for path in ("/livez", "/readyz")]
    assert 421 not in probes  # they use a container's address


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize(
    ("name", "answered"),
    [("10.0.0.7:8000", True), ("[2001:db8::7]:8000", True), ("Service:8000", True),
     ("evil.example", False), ("10.0.0.7.evil.example", False), ("", False), ("[10.0.0.7", False)],
)  # fmt: skip
def test_metrics_are_scraped_by_address_or_allowed_name(
    host: str, name: str, answered: bool
) -> None:
    """A page has a name, which it could rebind; Prometheus may use any address."""
    found = pass_through(host=host, allowed=("service",), name=name, path="/metrics")
    assert (found != 421) is answered


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_allowed_hosts_are_answered_and_no_others(host: str) -> None:
    """Elsewhere than on loopback, nothing is checked until hosts are allowed; * lifts the check."""

    def refused(name: str, *allowed: str) -> bool:
        return pass_through(host=host, allowed=allowed, name=name) == 421

    names = ("Lacuna.example:80", "localhost", "10.0.0.7")
    assert [refused(name, "lacuna.Example") for name in names] == [False, False, True]
    assert not refused("10.0.0.7", "*")
    assert refused("10.0.0.7") is (host == "127.0.0.1")


# Keys.


@pytest.mark.parametrize(
    ("sent", "known"),
    [(f"Bearer {KEYS[0]}", True), (f"BEARER  {KEYS[1]} ", True), ("", False), ("Bearer ", False),
     (f"Basic {KEYS[0]}", False), (KEYS[0], False), (f"Bearer {KEYS[0]}x", False),
     (b"Bearer \xff\xfe", False)],
)  # fmt: skip
def test_a_key_is_demanded_before_anything_is_read(sent: Any, known: bool) -> None:
    """Any key is good, and the scheme's case makes no difference; anything else is 401."""
    headers = {"Authorization": sent}
    response = ask(lambda client: client.post("/predict", headers=headers), keys=KEYS)
    assert response.status_code == (415 if known else 401)
    assert response.headers["content-type"] == "application/problem+json"
    assert known or response.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_administration_needs_an_administrators_key(keys_file: Path, host: str) -> None:
    """Under /admin/, no key is 401 and another's 403; keys of the environment have no rights."""

    def administer(key: str) -> Any:
        keys = KeyRing(KEYS, keys_file)
        return pass_through(keys=keys, host=host, path="/admin/reload", authorization=key)

    assert [administer(key) for key in ("", bearer("user"), f"Bearer {KEYS[0]}")] == [401, 403, 403]
    assert administer(bearer("root")).client.name == "root"


def test_metrics_need_the_right_to_them(keys_file: Path) -> None:
    """A key for metrics or an administrator's may read them, and only that; 403 otherwise."""

    def found(key: str, path: str = "/metrics") -> Any:
        return pass_through(keys=KeyRing(KEYS, keys_file), path=path, authorization=key)

    assert [found(key) for key in ("", bearer("user"), f"Bearer {KEYS[0]}")] == [401, 403, 403]
    assert found(bearer("prometheus")).client.name == "prometheus"
    assert found(bearer("root")).client.name == "root"
    assert found(bearer("prometheus"), "/admin/reload") == 403


def test_a_key_over_its_rate_is_429(keys_file: Path) -> None:
    """A refusal names limit and time, is counted, and charges nothing; other keys go on."""

    async def question(client: httpx.AsyncClient) -> tuple[list[httpx.Response], str]:
        async def send(name: str, texts: int) -> httpx.Response:
            headers = {"Authorization": bearer(name)}
            return await client.post("/predict", json={"text": ["a"] * texts}, headers=headers)

        responses = [await send("root", texts) for texts in (2, 4, 3, 1)] + [await send("user", 4)]
        metrics = await client.get("/metrics", headers={"Authorization": bearer("root")})
        return responses, metrics.text

    responses, metrics = ask(question, keys_file=keys_file)
    assert [response.status_code for response in responses] == [200, 429, 200, 429, 200]
    assert responses[1].headers["retry-after"] == "12"
    assert "the limit is 5 texts per minute" in responses[1].json()["detail"]
    assert 'lacuna_refusals_total{reason="rate_requests"} 2.0' in metrics


@pytest.mark.usefixtures("stopped_clock")
def test_a_rate_counts_estimated_work() -> None:
    """Costly questions use up a rate in seconds of work; refused bodies are not charged."""

    async def question(client: httpx.AsyncClient) -> list[int]:
        bodies: list[tuple[str, Any]] = [
            ("/predict", {"text": 5}),
            ("/cloze", {"text": "____ " * 64}),
            ("/score", {"text": "e" * 9}),
        ]
        return [(await client.post(path, json=body)).status_code for path, body in bodies]

    assert ask(question, work_seconds_per_minute=1) == [422, 200, 429]
    assert ask(question, work_seconds_per_minute=10) == [422, 200, 200]


# Pages.


def test_pages_of_allowed_origins_may_ask_and_read_errors() -> None:
    """A preflight needs no key; answers carry the permission, errors too. Others get none."""
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, traceparent",
    }

    async def question(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [
            each
            for origin in ({"Origin": "https://a.example"}, {"Origin": "https://b.example"})
            for each in (
                await client.options("/predict", headers=origin | preflight),
                await client.post("/predict", json={"text": "a"}, headers=origin),
            )
        ]

    allowed, refused, *others = ask(question, keys=KEYS, allowed_origins="https://a.example")
    assert (allowed.status_code, refused.status_code) == (200, 401)
    for response in (allowed, refused):
        assert response.headers["access-control-allow-origin"] == "https://a.example"
    assert "retry-after" in refused.headers["access-control-expose-headers"].lower()
    others += ask(question)[:1]  # no page may ask by default
    assert not any("access-control-allow-origin" in response.headers for response in others)
