"""Tests of service/middleware.py and service/records.py: keys, and what surrounds a request."""

import asyncio
import hmac
import logging
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from service.metrics import Metrics
from service.middleware import Authorise, Observe
from service.records import ROUTES
from tests.service.client import app_of, ask, running, until
from tests.service.fakes_service import FakeModel

KEYS = ("first-key-0123456789", "second-key-0123456789")


def statuses(headers: dict[str, Any] | None, *paths: str) -> list[int]:
    """The status of a GET of each path, at a service with `KEYS`."""

    async def question(client: httpx.AsyncClient) -> list[int]:
        return [(await client.get(path, headers=headers)).status_code for path in paths]

    answer: list[int] = ask(question, keys=KEYS)
    return answer


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_each_key_opens(scheme: str, key: str) -> None:
    """Any of the keys is good, and the scheme's case makes no difference, as HTTP has it."""
    assert statuses({"Authorization": f"{scheme} {key}"}, "/model") == [200]


@pytest.mark.parametrize("sent", [None, "", "Bearer", "Bearer ", f"Basic {KEYS[0]}", KEYS[0], f"Bearer {KEYS[0]}x"])
def test_anything_else_does_not(sent: str | None) -> None:
    """A missing, malformed or wrong key is 401 with a challenge, before anything else is looked at."""

    async def question(client: httpx.AsyncClient) -> list[httpx.Response]:
        headers = {} if sent is None else {"Authorization": sent}
        return [await client.post("/predict", content=b"no JSON", headers=headers), await client.get("/nothing")]

    for response in ask(question, keys=KEYS):
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert response.headers["content-type"] == "application/problem+json"


def test_key_of_strange_bytes_is_refused() -> None:
    """A header that is not ASCII is a wrong key and no failure."""
    assert statuses({"Authorization": b"Bearer \xff\xfe"}, "/model") == [401]


def test_probes_and_documents_are_open() -> None:
    """Probes carry no keys and a browser cannot, so these four need none; metrics do."""
    assert statuses(None, "/livez", "/readyz", "/docs", "/openapi.json", "/metrics") == [200, 200, 200, 200, 401]


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are compared by hmac.compare_digest, all of them whichever fits, as digests of one length."""
    compared: list[tuple[int, int]] = []
    original = hmac.compare_digest

    def spy(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return original(left, right)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    assert statuses({"Authorization": f"Bearer {KEYS[0]}"}, "/model") == [200]
    assert compared == [(32, 32), (32, 32)]


def test_hang_up_is_counted_and_frees_the_engine() -> None:
    """A client that hangs up while its text is decoded is counted as 499; its text leaves before the next step."""

    async def scenario() -> str:
        model = FakeModel()
        async with running(model) as client:
            app = app_of(client)
            messages: list[dict[str, Any]] = [{"type": "http.request", "body": b'{"text": "hold"}'}]
            gone = asyncio.Event()

            async def receive() -> dict[str, Any]:
                if messages:
                    return messages.pop()
                await gone.wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                raise AssertionError(message)

            headers = [(b"content-type", b"application/json")]
            scope = {"type": "http", "path": "/predict", "method": "POST", "headers": headers, "query_string": b""}
            request = asyncio.ensure_future(app(scope, receive, send))
            await until(model.holding.is_set)
            gone.set()
            await request
            await until(lambda: model.cancelled == 1)
            return (await client.get("/metrics")).text

    assert 'lacuna_requests_total{route="/predict",status="499"} 1.0' in asyncio.run(scenario())


def test_unexpected_failure_is_logged_by_type_and_place(caplog: pytest.LogCaptureFixture) -> None:
    """What nobody foresaw becomes a 500, and its log entry names type and request but not the message."""
    sent: list[Any] = []

    async def broken(*_: Any) -> None:
        raise KeyError("鬼")

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    scope = {"type": "http", "path": "/model", "method": "GET", "headers": [(b"x-request-id", b"id-7")]}
    scope["headers"].append((b"traceparent", b"00-" + b"4" * 32 + b"-" + b"7" * 16 + b"-01"))  # type: ignore[attr-defined]
    with caplog.at_level(logging.INFO):
        asyncio.run(Observe(broken, Metrics(CollectorRegistry()))(scope, receive, send))
    assert sent[0]["status"] == 500
    assert "鬼".encode() not in sent[1]["body"]
    (failure,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert failure.__dict__["fields"]["exception"]["type"] == "KeyError"
    assert failure.__dict__["fields"]["request_id"] == "id-7"
    assert failure.__dict__["fields"]["trace_id"] == "4" * 32
    assert "鬼" not in str(failure.__dict__)


def test_routes_are_a_closed_set() -> None:
    """The routes that label metrics are those that the app has."""

    async def question(client: httpx.AsyncClient) -> set[str]:
        document = (await client.get("/openapi.json")).json()
        return set(document["paths"])

    assert ask(question) | {"/docs", "/openapi.json"} == set(ROUTES)


def test_no_keys_means_anybody() -> None:
    """Without keys the middleware lets everybody through, also what is not HTTP."""
    passed: list[str] = []

    async def app(scope: Any, *_: Any) -> None:
        passed.append(scope["type"])

    for scope in ({"type": "http", "path": "/model", "headers": []}, {"type": "lifespan"}):
        asyncio.run(Authorise(app, ())(scope, None, None))  # type: ignore[arg-type]
    assert passed == ["http", "lifespan"]
