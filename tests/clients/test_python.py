"""Tests of clients/python, the sync and the async client alike, mostly against a real service."""

import asyncio
import dataclasses
import inspect
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from lacuna_client import AsyncClient, Client, Problem, contract
from lacuna_client.exchange import Exchange, Settings

from tests.clients.keyed_server import HEADERS, KEY
from tests.service.server_process import ServerProcess, clean_environment

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "clients" / "python"
README = (PACKAGE / "README.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8000"
GOOD = {"model": {"name": "a", "version": "1"}, "results": [], "usage": {"tokens": 1}}
# Each runs a question about one client, whose methods are asked by name.
Ask = Callable[..., Any]
PROBLEM = {"type": "about:blank", "title": "Too Many Requests", "status": 429, "detail": "late"}


class AsyncAsSync:
    """An `AsyncClient` with the methods of a `Client`."""

    def __init__(self, address: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(address, **options)

    def __getattr__(self, name: str) -> Ask:
        method = getattr(self._client, name)
        return lambda *texts, **options: self._runner.run(method(*texts, **options))

    def __enter__(self) -> "AsyncAsSync":
        self._runner.run(self._client.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        self._runner.run(self._client.__aexit__(*error))
        self._runner.close()


BOTH = pytest.mark.parametrize("kind", [Client, AsyncAsSync])


class FakeService:
    """A service that gives prepared outcomes in turn; sleeping takes no time, and is noted."""

    def __init__(self, *outcomes: httpx.Response | Exception) -> None:
        self.outcomes = list(outcomes)
        self.requests: list[httpx.Request] = []
        self.pauses: list[float] = []
        self.now = 0.0

    def answer(self, request: httpx.Request) -> httpx.Response:
        """Give the next outcome."""
        self.requests.append(request)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return httpx.Response(outcome.status_code, headers=outcome.headers, content=outcome.content)

    def ask(self, kind: Any, **options: Any) -> Any:
        """Predict with a client of some *kind*."""

        def sleep(seconds: float) -> None:
            self.pauses.append(seconds)
            self.now += seconds

        async def async_sleep(seconds: float) -> None:
            sleep(seconds)

        options |= {"transport": httpx.MockTransport(self.answer), "clock": lambda: self.now}
        options["sleep"] = sleep if kind is Client else async_sleep
        with kind("http://lacuna/prefix/", **options) as client:
            return client.predict("secret")


def good(**headers: str) -> httpx.Response:
    """Return an answer, with fields that the client does not know."""
    newer = GOOD | {"newer": 1, "model": {"name": "a", "version": "1", "newer": []}}
    return httpx.Response(200, json=newer, headers=headers)


def refusal(status: int = 429, **headers: str) -> httpx.Response:
    """Return a problem document."""
    headers |= {"Content-Type": "application/problem+json"}
    return httpx.Response(status, json=PROBLEM | {"status": status}, headers=headers)


@BOTH
def test_answers_have_every_field_that_the_service_sends(
    address: str, server: ServerProcess, kind: Any
) -> None:
    """All options together; each answer, as JSON again, is what the service sent."""
    shared: dict[str, Any] = {"top_k": 2, "history": "Okonkwo", "block": ["the"], "user": "u"}
    shared["lexicon"] = ["Lagos", {"word": "Okonkwo", "weight": 2.0}]
    more = {"words": 2, "letters": True, "corrections": 1, "after": " again"}
    blanks = {"fillings": 2, "blank": "#", "choices": [["a", "two"], ["an", "one"]]}
    questions: list[tuple[str, Any, dict[str, Any]]] = [
        ("predict", ["I went to teh", "我昨天"], shared | more),
        ("cloze", "I have # and #.", shared | blanks),
        ("score", ("How are you?", "你好吗"), {"context": "Hello.", "details": True, "user": "u"}),
    ]
    with kind(address + "/", key=KEY) as client:
        for path, text, options in questions:
            answer = getattr(client, path)(text, **options)
            sent = server.ask("POST", f"/{path}", {"text": text, **options}, HEADERS).json()
            assert as_json(answer.results) == sent["results"]
            assert as_json(answer.model) == sent["model"]
            assert answer.usage["tokens"] == sent["usage"]["tokens"]
            assert answer.timing_ms.keys() == {"queue", "inference"}
        assert as_json(client.model()) == server.ask("GET", "/model", headers=HEADERS).json()


def as_json(value: Any) -> Any:
    """Return an answer as JSON has it."""
    if dataclasses.is_dataclass(value):
        fields = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        return {name: as_json(each) for name, each in fields.items() if each is not None}
    return [as_json(each) for each in value] if isinstance(value, tuple) else value


@BOTH
def test_mistakes_are_problems_with_pointers(address: str, kind: Any) -> None:
    """A wrong field is a problem that names it, also after pickling; one text has one result."""
    with kind(address, key=KEY) as client:
        with pytest.raises(Problem) as caught:
            client.predict(["a", "b"], top_k=0, unknown=1)
        assert client.score("a").result.tokens == 1
        with pytest.raises(ValueError, match="there are 2 results"):
            _ = client.score(["a", "b"]).result
    problem = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (problem.status, problem.title) == (422, "Unprocessable Content")
    assert {error.pointer for error in problem.errors} == {"/top_k", "/unknown"}
    assert problem.detail.startswith(problem.errors[0].pointer) and problem.request_id
    assert str(problem) == f"422 Unprocessable Content: {problem.detail}"
    assert problem.retry_after is None


@BOTH
def test_without_the_key_it_is_401(address: str, kind: Any) -> None:
    """The service refuses a client without its key; no client shows its own."""
    with kind(address) as client, pytest.raises(Problem) as caught:
        client.predict("a")
    assert caught.value.status == 401
    assert KEY not in repr(Client(address, key=KEY))


@BOTH
def test_waits_as_long_as_the_service_asks(kind: Any) -> None:
    """After 429 and 503 it waits for `Retry-After`, and little longer; then the answer comes."""
    service = FakeService(refusal(**{"Retry-After": "7"}), refusal(503), good())
    assert service.ask(kind).model == contract.ModelName("a", "1")
    first, second, third = service.pauses
    assert first == 0 and 7 <= second <= 8.75 and 0.5 <= third <= 1.25
    assert [str(each.url) for each in service.requests] == ["http://lacuna/prefix/predict"] * 3


@BOTH
@pytest.mark.parametrize(
    "outcome",
    [
        refusal(400),
        refusal(500),
        refusal(504),
        httpx.ReadTimeout("late"),
        httpx.UnsupportedProtocol("no scheme"),
        httpx.Response(200, text="<html>a page of a proxy</html>"),
        httpx.Response(200, json={**GOOD, "results": [{"candidates": 5}]}),
        httpx.Response(200, json=[]),
        httpx.Response(302, headers={"Location": "http://elsewhere/"}),
    ],
)
def test_other_failures_are_final(kind: Any, outcome: httpx.Response | Exception) -> None:
    """A failure that another try would not change, or would make worse, is raised at once."""
    service = FakeService(outcome)
    with pytest.raises((Problem, httpx.TransportError)) as caught:
        service.ask(kind)
    assert len(service.requests) == 1 and "secret" not in str(caught.value)
    if isinstance(outcome, httpx.Response):
        assert isinstance(caught.value, Problem) and caught.value.status == outcome.status_code


@BOTH
def test_lost_connections_are_tried_again(kind: Any) -> None:
    """A refused, a broken and a closed connection each lead to another try."""
    lost = [httpx.ConnectError("a"), httpx.ReadError("b"), httpx.RemoteProtocolError("c")]
    service = FakeService(*lost, good())
    assert service.ask(kind, tries=4).usage == {"tokens": 1}
    assert [0.5 * 2**n <= pause <= 0.7 * 2**n for n, pause in enumerate(service.pauses[1:])]
    with pytest.raises(httpx.ConnectError):
        FakeService(*[httpx.ConnectError("a")] * 3).ask(kind)


@BOTH
def test_ends_after_so_many_tries_or_seconds(kind: Any) -> None:
    """The last failure is raised; a pause that ends too late is not begun."""
    service = FakeService(*[refusal(**{"Retry-After": "1"}) for _ in range(9)])
    with pytest.raises(Problem) as caught:
        service.ask(kind, tries=4)
    assert len(service.requests) == 4
    assert (caught.value.detail, caught.value.retry_after) == ("late", 1.0)
    service = FakeService(*[refusal(503, **{"Retry-After": "20"}) for _ in range(9)])
    with pytest.raises(Problem):
        service.ask(kind, tries=9, total_seconds=55)
    assert len(service.requests) == 3
    for content in ({"text": "busy"}, {"json": {"message": "busy"}}):  # of a proxy
        busy = httpx.Response(429, **content, headers={"Retry-After": "9" * 400})
        with pytest.raises(Problem, match="429 Too Many Requests: not an answer of Lacuna"):
            FakeService(busy).ask(kind)


def test_tries_end_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timeout of a try is at most the time that is left for all."""
    monkeypatch.setattr("random.uniform", lambda low, _: low)
    now = iter([0.0, 7.0])
    settings = Settings(ADDRESS, total_seconds=20, timeout_seconds=15, clock=lambda: next(now))
    exchange = Exchange(settings, contract.Model, "model", None)
    assert exchange.request["timeout"] == 15
    exchange.answered(refusal(**{"Retry-After": "3"}))
    assert (exchange.pause_seconds, exchange.request["timeout"]) == (3, 10)


def test_the_contract_is_that_of_the_service(document: Any) -> None:
    """Options and classes have the fields of the OpenAPI document, and no others."""
    schemas = document["components"]["schemas"]
    for options in (contract.PredictOptions, contract.ClozeOptions, contract.ScoreOptions):
        fields = schemas[options.__name__.replace("Options", "Request")]["properties"].keys()
        assert {*inspect.get_annotations(options)} | {"text"} == fields
    checked = 0
    for name, kind in vars(contract).items():
        schema = schemas.get("ModelAnswer" if name == "Model" else name)
        if schema and dataclasses.is_dataclass(kind):
            fields = {each.name: each.default for each in dataclasses.fields(kind)}
            assert fields.keys() == schema["properties"].keys()
            always = {each for each in fields if fields[each] is dataclasses.MISSING}
            assert always == {*schema["required"]}
            checked += 1
    assert checked == 14


def test_readme_examples_print_what_they_show(address: str) -> None:
    """Each example runs as it is and prints the lines below it."""
    examples = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", README, re.DOTALL)
    assert len(examples) == README.count("```python") == 2
    environment = clean_environment() | {"PYTHONPATH": str(PACKAGE)}
    for code, printed in examples:
        here = code.replace(', key="YOUR-KEY"', "").replace(ADDRESS, f'{address}", key="{KEY}')
        command = [sys.executable, "-c", here]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == printed


@pytest.mark.slow
def test_wheel_is_typed(tmp_path: Path) -> None:
    """The wheel has every module and the mark that it is typed."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    shutil.copytree(PACKAGE, tmp_path / "python", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([*build, "--wheel-dir", tmp_path, tmp_path / "python"], check=True)
    (wheel,) = tmp_path.glob("lacuna_client-*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if "dist-info" not in name}
    files = [each for each in (PACKAGE / "lacuna_client").iterdir() if each.is_file()]
    assert packed == {f"lacuna_client/{each.name}" for each in files}
    assert "lacuna_client/py.typed" in packed
