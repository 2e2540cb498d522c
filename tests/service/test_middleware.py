"""Tests of service/middleware.py and service/request_context.py: keys, and what surrounds a request."""

import asyncio
import gc
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from service.auth import KeyRing, hash_key
from service.errors import Problem
from service.metrics import Metrics
from service.middleware import AuthMiddleware, HostMiddleware, RequestMetricsMiddleware
from service.request_context import ROUTES, RequestContext
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


@pytest.mark.parametrize(
    "sent", [None, "", "Bearer", "Bearer ", f"Basic {KEYS[0]}", KEYS[0], f"Bearer {KEYS[0]}x"]
)
def test_anything_else_does_not(sent: str | None) -> None:
    """A missing, malformed or wrong key is 401 with a challenge, before anything else is looked at."""

    async def question(client: httpx.AsyncClient) -> list[httpx.Response]:
        headers = {} if sent is None else {"Authorization": sent}
        return [
            await client.post("/predict", content=b"no JSON", headers=headers),
            await client.get("/nothing"),
        ]

    for response in ask(question, keys=KEYS):
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert response.headers["content-type"] == "application/problem+json"


def test_key_of_strange_bytes_is_refused() -> None:
    """A header that is not ASCII is a wrong key and no failure."""
    assert statuses({"Authorization": b"Bearer \xff\xfe"}, "/model") == [401]


def test_probes_and_documents_are_open() -> None:
    """Probes carry no keys and a browser cannot, so these four need none; metrics do."""
    assert statuses(None, "/livez", "/readyz", "/docs", "/openapi.json", "/metrics") == [
        200,
        200,
        200,
        200,
        401,
    ]


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

            headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
            scope = {
                "type": "http",
                "path": "/predict",
                "method": "POST",
                "headers": headers,
                "query_string": b"",
            }
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

    scope = {
        "type": "http",
        "path": "/model",
        "method": "GET",
        "headers": [(b"x-request-id", b"id-7")],
    }
    scope["headers"].append((b"traceparent", b"00-" + b"4" * 32 + b"-" + b"7" * 16 + b"-01"))  # type: ignore[attr-defined]
    with caplog.at_level(logging.INFO):
        asyncio.run(
            RequestMetricsMiddleware(broken, Metrics(CollectorRegistry()))(scope, receive, send)
        )
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


def pass_through(middleware: Any, path: str = "/model", **headers: str) -> Any:
    """The record of a request that *middleware* lets through, else the problem that it raises."""
    scope = {
        "type": "http",
        "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    record = RequestContext.begin(scope)
    try:
        asyncio.run(middleware(scope, None, None))
    except Problem as problem:
        return problem
    return record


async def answer(*_: Any) -> None:
    """An app that is content."""


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    """Two keys: ``user``, and ``root``, which may administer; the keys are their names and twenty dots."""
    file = tmp_path / "keys.toml"
    hashes = {name: hash_key(f"{name}{'.' * 20}".encode()).hex() for name in ("user", "root")}
    file.write_text(
        "".join(
            f'[[key]]\nname = "{name}"\nsha256 = "{digest}"\n' for name, digest in hashes.items()
        )
        + "admin = true\ntexts_per_minute = 5\n"
    )
    return file


def stop_clock(client: httpx.AsyncClient, token: bytes | None = None) -> None:
    """Let no time pass for the allowance of a key, or of anybody."""
    keys: KeyRing = app_of(client).state.keys
    asking = keys.anonymous if token is None else keys.find(token)
    assert asking is not None
    now = asking.allowance.clock()
    asking.allowance.clock = lambda: now


def bearer(name: str) -> str:
    """The header of a key of `keys_file`."""
    return f"Bearer {name}{'.' * 20}"


def test_no_keys_means_anybody() -> None:
    """Without keys the middleware lets everybody through, also what is not HTTP, within the limits for anybody."""
    keys = KeyRing(limits=(5, 0))
    record = pass_through(AuthMiddleware(answer, keys, "0.0.0.0"))
    assert (record.tenant, record.allowance.limits) == ("", (5, 0))
    asyncio.run(AuthMiddleware(answer, keys, "0.0.0.0")({"type": "lifespan"}, None, None))  # type: ignore[arg-type]


def test_a_key_gives_the_request_its_name_and_its_allowance(keys_file: Path) -> None:
    """The record knows the key's name, which parts caches and is logged, and what the key may still send."""
    authorise = AuthMiddleware(answer, KeyRing(path=keys_file), "127.0.0.1")
    user, root = (pass_through(authorise, authorization=bearer(name)) for name in ("user", "root"))
    assert (user.tenant, user.allowance.limits) == ("user", (0, 0))
    assert (root.tenant, root.allowance.limits) == ("root", (5, 0))
    assert pass_through(authorise, authorization=bearer("nobody")).status == 401


def test_administration_takes_an_administrators_key(keys_file: Path) -> None:
    """Under /admin/ no key is 401, another's is 403, and an administrator's is let through, wherever it is bound."""
    for host in ("127.0.0.1", "0.0.0.0"):
        authorise = AuthMiddleware(answer, KeyRing(path=keys_file), host)
        assert pass_through(authorise, "/admin/reload").status == 401
        assert pass_through(authorise, "/admin/reload", authorization=bearer("user")).status == 403
        assert pass_through(authorise, "/admin/reload", authorization=bearer("root")).status == 0
        assert pass_through(authorise, "/predict", authorization=bearer("root")).status == 0


def test_keys_of_the_environment_do_not_administer() -> None:
    """A key that came without rights has none."""
    authorise = AuthMiddleware(answer, KeyRing(KEYS), "127.0.0.1")
    assert pass_through(authorise, "/admin/reload", authorization=f"Bearer {KEYS[0]}").status == 403


def test_without_keys_only_programs_of_this_machine_administer() -> None:
    """Without keys, /admin/ is open on loopback, but not to a page in a browser, nor to what a proxy passes on; bound
    elsewhere, or where other hosts are allowed, as behind a proxy, it is 403.
    """
    local, open_ = (AuthMiddleware(answer, KeyRing(), host) for host in ("127.0.0.1", "0.0.0.0"))
    assert pass_through(local, "/admin/reload").status == 0
    assert pass_through(local, "/admin/reload", origin="https://example.org").status == 403
    for header in (
        {"x-forwarded-for": "203.0.113.9"},
        {"via": "1.1 proxy"},
        {"forwarded": "for=203.0.113.9"},
    ):
        assert pass_through(local, "/admin/reload", **header).status == 403
    behind_a_proxy = AuthMiddleware(answer, KeyRing(), "127.0.0.1", ["example.org"])
    assert pass_through(behind_a_proxy, "/admin/reload").status == 403
    assert pass_through(open_, "/admin/reload").status == 403
    assert pass_through(open_, "/predict").status == 0


@pytest.mark.parametrize(
    "name",
    [
        "localhost",
        "LocalHost:8000",
        "localhost.",
        "127.0.0.1",
        "127.0.0.1:8000",
        "127.9.9.9",
        "[::1]",
        "[::1]:8000",
    ],
)
def test_loopback_answers_to_its_own_names(name: str) -> None:
    """Bound to loopback, a request may name any loopback host, with or without a port."""
    assert pass_through(HostMiddleware(answer, "127.0.0.1", ()), host=name).status == 0


@pytest.mark.parametrize(
    "name",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "192.168.0.1", "[::2]", "", "[127.0.0.1", "a b",
     "127.0.0.1:8000:1", "127.0.0.1@evil.example", "localhost/evil.example"],
)  # fmt: skip
def test_loopback_answers_to_no_other_name(name: str) -> None:
    """A page whose name was rebound to this machine gets 421 for its own name; so does what is no host at all."""
    checked = HostMiddleware(answer, "127.0.0.1", ())
    assert pass_through(checked, host=name).status == 421
    assert pass_through(checked).status == 421


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_probes_need_no_name(path: str) -> None:
    """Probes and scrapes come to a container's address, whatever the service is bound to."""
    assert (
        pass_through(
            HostMiddleware(answer, "127.0.0.1", ("lacuna.example",)), path, host="10.0.0.7"
        ).status
        == 0
    )


def test_allowed_hosts_are_answered_and_no_others() -> None:
    """Named hosts are good beside loopback ones; off loopback nothing is checked until hosts are named; * lifts it."""
    for bound in ("127.0.0.1", "0.0.0.0"):
        named = HostMiddleware(answer, bound, ("lacuna.Example",))
        statuses = [
            pass_through(named, host=name).status
            for name in ("Lacuna.example:80", "localhost", "10.0.0.7")
        ]
        assert statuses == [0, 0, 421]
        assert pass_through(HostMiddleware(answer, bound, ("*",)), host="10.0.0.7").status == 0
    assert pass_through(HostMiddleware(answer, "0.0.0.0", ()), host="10.0.0.7").status == 0
    asyncio.run(HostMiddleware(answer, "::1", ())({"type": "lifespan"}, None, None))  # type: ignore[arg-type]


def test_a_rebound_name_gets_a_problem_document() -> None:
    """Through the whole app the answer is 421 as a problem document, before a key is asked for."""
    response = ask(lambda client: client.get("/model", headers={"Host": "evil.example"}), keys=KEYS)
    assert response.status_code == 421
    assert response.headers["content-type"] == "application/problem+json"
    assert "evil" not in response.text


def test_pages_of_allowed_origins_may_ask_and_read_errors() -> None:
    """A preflight is answered for an allowed origin without a key; answers, errors too, carry its permission."""
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, traceparent",
    }

    async def question(client: httpx.AsyncClient) -> list[httpx.Response]:
        good, bad = {"Origin": "https://a.example"}, {"Origin": "https://b.example"}
        return [
            await client.options("/predict", headers=good | preflight),
            await client.post("/predict", json={"text": "a"}, headers=good),
            await client.options("/predict", headers=bad | preflight),
            await client.post("/predict", json={"text": "a"}, headers=bad),
        ]

    allowed, refused, *others = ask(question, keys=KEYS, allowed_origins="https://a.example")
    assert (allowed.status_code, refused.status_code) == (200, 401)
    for response in (allowed, refused):
        assert response.headers["access-control-allow-origin"] == "https://a.example"
    assert "retry-after" in refused.headers["access-control-expose-headers"].lower()
    assert not any("access-control-allow-origin" in response.headers for response in others)


def test_no_page_may_ask_unless_allowed() -> None:
    """By default no origin is given permission, and a preflight is 405 like any other method that is wrong."""
    headers = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    response = ask(lambda client: client.options("/predict", headers=headers))
    assert response.status_code == 405
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_the_log_names_the_key_and_holds_none(
    keys_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A request's line has the key's name as `key`, and neither key nor hash; without keys it has no such field."""

    def lines(headers: dict[str, str], **settings: Any) -> list[Any]:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            ask(lambda client: client.get("/model", headers=headers), **settings)
        return [
            record.__dict__["fields"]
            for record in caplog.records
            if record.name == "service.requests"
        ]

    (line,) = lines({"Authorization": bearer("user")}, keys_file=keys_file)
    assert line["key"] == "user"
    assert "." * 20 not in str(line)
    (line,) = lines({})
    assert "key" not in line


def test_a_key_over_its_rate_is_429(keys_file: Path) -> None:
    """Texts count by list; a refusal names limit and time, is counted, and charges nothing; other keys go on."""

    async def question(client: httpx.AsyncClient) -> tuple[list[httpx.Response], str]:
        stop_clock(client, bearer("root").removeprefix("Bearer ").encode())

        async def send(name: str, body: bytes) -> httpx.Response:
            headers = {"Authorization": bearer(name), "Content-Type": "application/json"}
            return await client.post("/predict", content=body, headers=headers)

        bodies = [
            b'{"text": ["a", "b"]}',
            b'{"text": ["a", "b", "c", "d"]}',
            b'{"text": ["a", "b", "c"]}',
            b'{"text": "a"}',
        ]
        responses = [await send("root", body) for body in bodies] + [await send("user", bodies[1])]
        metrics = await client.get("/metrics", headers={"Authorization": bearer("root")})
        return responses, metrics.text

    responses, metrics = ask(question, keys_file=keys_file)
    assert [response.status_code for response in responses] == [200, 429, 200, 429, 200]
    assert responses[1].headers["retry-after"] == "12"
    told = "the limit is 5 texts per minute; retry after 12 s"
    assert responses[1].json()["detail"] == told
    assert 'lacuna_refusals_total{reason="rate_requests"} 2.0' in metrics


def test_characters_are_those_of_texts_history_and_choices() -> None:
    """The limit in characters counts what is to be read; a refusal by the engine or of a wrong body is not charged."""

    async def question(client: httpx.AsyncClient) -> list[int]:
        stop_clock(client)
        bodies: list[tuple[str, Any]] = [
            (
                "/cloze",
                {"text": ["a __", "鬼 __"], "history": "b" * 40, "choices": ["c" * 20, "d" * 20]},
            ),  # 88
            ("/predict", {"text": 5}),
            ("/predict", {"text": "e" * 13}),
            ("/score", {"text": "f" * 12}),
            ("/score", {"text": "f"}),
        ]
        return [(await client.post(path, json=body)).status_code for path, body in bodies]

    assert ask(question, characters_per_minute=100) == [200, 422, 429, 200, 429]


def test_what_failed_is_let_go_without_the_collector() -> None:
    """A refused request's body and job go with its answer: Python looks for cycles seldom, and bodies are large."""

    async def question(client: httpx.AsyncClient) -> set[int]:
        asked = [
            ("/predict", b'{"text": "' + b"a" * 2_000 + b'"}'),  # 413
            ("/predict", b"{"),  # 400
            ("/predict", b'{"text": 5}'),  # 422, by the parser
            ("/cloze", b'{"text": "no blank"}'),  # 422, by the model
            ("/predict", b'{"text": "refuse to start"}'),  # 500
        ]
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            answers = [
                await client.post(path, content=body, headers={"Content-Type": "application/json"})
                for path, body in asked
            ]
            gc.collect()
            left = {type(each).__name__ for each in gc.garbage} & {
                "Problem",
                "Job",
                "QueryError",
                "ItemError",
                "RequestContext",
            }
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
        assert not left
        return {answer.status_code for answer in answers}

    assert ask(question, max_body_bytes=1024) == {400, 413, 422, 500}
