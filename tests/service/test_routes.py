"""Tests of service/routes.py: the contract, with a model side that answers at once.

Bad input is in tests/end_to_end/test_service_process.py, on a real server.
"""

import asyncio
import base64
import hashlib
import re
from typing import Any

import httpx
import pytest

from service.schemas import ModelAnswer, ProblemDocument
from tests.service.client import METRICS, METRICS_PORT, ask, engine_of, get, post, running, until
from tests.service.fakes_service import FakeModel

KEY = "key-0123456789abcdef"


def test_results_and_usage_are_those_of_all_texts() -> None:
    """Results come in the order sent; usage is the sum; a header has the times."""
    question = lambda client: client.post(  # noqa: E731
        "/score", json={"text": ["aaa", "a", "aa"]}, headers={"Authorization": f"Bearer {KEY}"}
    )
    response = ask(question, keys=[KEY])
    answer = response.json()
    assert [result["characters"] for result in answer["results"]] == [3, 1, 2]
    assert answer["usage"] == {"tokens": 6, "cached_tokens": 3}
    timing = response.headers["server-timing"]
    assert re.fullmatch(r"queue;dur=\d+\.\d{3}, inference;dur=\d+\.\d{3}", timing)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"text": ["a __", "b __", "c __", "none"]}, "/text/3"),
        ({"text": "none"}, "/text"),
        ({"text": ["a __", "b __"], "choices": ["x", "x"]}, "/choices/1"),
    ],
)
def test_one_wrong_text_refuses_the_whole_request(body: Any, pointer: str) -> None:
    """One 422 names the item, or the choices by themselves, and nothing is decoded."""
    model = FakeModel()
    response = ask(lambda client: client.post("/cloze", json=body), model)
    assert response.status_code == 422
    problem = ProblemDocument.model_validate(response.json())
    assert problem.model_dump(mode="json") == response.json()
    assert (problem.type, problem.title) == ("about:blank", "Unprocessable Content")
    assert [error.pointer for error in problem.errors or ()] == [pointer]
    assert model.largest_batch == 0


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/predict", {"text": [""] * 340_000}, "/text"),
        ("/score", {"text": ["a"] * 65}, "/text"),
        ("/cloze", {"text": "__", "choices": ["b"] * 250_000}, "/choices"),
        ("/cloze", {"text": ["__"] * 65, "choices": ["b"]}, "/text"),
        ("/cloze", {"text": "__", "choices": [["b"]] * 65}, "/choices"),
        ("/cloze", {"text": "__", "choices": [["b"], ["b"] * 257]}, "/choices/1"),
        ("/cloze", {"text": "__", "block": ["b"] * 257}, "/block"),
        ("/predict", {"text": "a", "lexicon": ["b"] * 250_000}, "/lexicon"),
        ("/predict", {"text": "a", "lexicon": [{"word": "b"}] * 257}, "/lexicon"),
    ],
)
def test_a_list_that_is_too_long_is_refused_by_its_length(
    path: str, body: Any, pointer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is made of its items, on the event loop or by the engine."""
    monkeypatch.setattr("service.schemas.ScoreRequest.queries", None)
    monkeypatch.setattr("service.schemas.PredictRequest.queries", None)
    monkeypatch.setattr("service.schemas.ClozeRequest.queries", None)
    response = post(path, body)
    assert response.status_code == 422
    assert [error["pointer"] for error in response.json()["errors"]] == [pointer]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", {"text": ["😀" * 1_000] * 64}),
        ("/cloze", {"text": ["__ __"] * 32, "history": "鬼" * 20_000}),
        ("/score", {"text": ["a" * 5_000] * 32}),
        ("/cloze", {"text": "__ " * 64, "top_k": 100}),
        ("/cloze", {"text": ["__ __ __"] * 64}),
        ("/cloze", {"text": "__" + "a" * 9_000 + "__", "choices": ["b" * 999, "c" * 999]}),
    ],
)
def test_the_work_of_one_request_is_bounded(path: str, body: Any) -> None:
    """Texts, blanks, choices, lengths and breadth have one bound; less of the same is answered."""

    async def question(client: httpx.AsyncClient) -> list[httpx.Response]:
        less = {"text": body["text"][0] if isinstance(body["text"], list) else "__ a"}
        return [await client.post(path, json=each) for each in (body, body | less)]

    refused, answered = ask(question, max_work_seconds=1)
    assert (refused.status_code, answered.status_code) == (422, 200)
    detail = refused.json()["detail"]
    assert re.fullmatch(r"body: is about \d+\.\d s of work; at most 1 s are allowed: .+", detail)


def test_model_describes_the_checkpoint_and_the_limits() -> None:
    """GET /model answers its documented form, with the limits in force."""
    response = get("/model", max_texts=3)
    answer = ModelAnswer.model_validate(response.json())
    assert answer.model_dump(mode="json") == response.json()
    limits = [answer.limits[name] for name in ("texts", "characters", "work_seconds")]
    assert limits == [3, 10_000, 4]
    assert answer.capabilities == ["predict", "cloze", "score"]
    assert "server-timing" not in response.headers


@pytest.mark.parametrize(
    "path", ["/lacuna.js", "/model", "/livez", "/readyz", METRICS, "/docs", "/openapi.json"]
)
def test_gets_and_heads_are_answered_without_redirects(path: str) -> None:
    """A GET route answers HEAD too. With a slash behind it, it is 404 and no redirect."""

    async def question(client: httpx.AsyncClient) -> list[int]:
        responses = [await client.get(path), await client.head(path), await client.get(f"{path}/")]
        return [response.status_code for response in responses]

    assert ask(question, metrics_port=METRICS_PORT) == [200, 200, 404]


def test_page_runs_only_its_own_script() -> None:
    """The page names no other host, its policy allows nothing else, and answers stay text."""
    response = get("/docs")
    policy, page = response.headers["content-security-policy"], response.text
    assert re.fullmatch(r"default-src 'none'; .*script-src 'sha256-\S+'; style-src \S+", policy)
    assert "unsafe" not in policy
    outside = r"(?:https?:)?//[\w.]+\.\w+|<(?:link|img|iframe|script[^>]+src)"
    markup = r"innerHTML|insertAdjacentHTML|\son\w+=|style="
    assert not re.findall(f"{outside}|{markup}", page)
    for element in ("script", "style"):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/predict", "POST"), ("HEAD", "/predict", "POST"), ("PUT", "/livez", "GET, HEAD")],
)
def test_wrong_method_is_405_with_allow(method: str, path: str, allowed: str) -> None:
    """405 names the right methods."""
    response = ask(lambda client: client.request(method, path))
    assert (response.status_code, response.headers["allow"]) == (405, allowed)


def test_deadline_is_504_and_frees_the_engine() -> None:
    """After its deadline a request's texts leave the engine, and its wait is measured."""

    async def question(client: httpx.AsyncClient) -> httpx.Response:
        response = await client.post("/predict", json={"text": ["hold", "hold"]})
        await until(lambda: model.cancelled == 1 and engine_of(client).admission.waiting == 0)
        metrics = await client.get(METRICS)
        assert 'lacuna_queue_seconds_count{route="/predict"} 1.0' in metrics.text.splitlines()
        return response

    model = FakeModel()
    response = ask(question, model, deadline_seconds=0.05, batch_items=1, metrics_port=METRICS_PORT)
    assert response.status_code == 504
    assert response.json()["detail"] == "not answered within 0.05 s; send less at once, or later"
    timing = response.headers["server-timing"]
    assert re.fullmatch(r"queue;dur=\d+\.\d+, inference;dur=[1-9]\d*\.\d+", timing)


def test_full_queue_is_429_with_retry_after() -> None:
    """Texts over `queue_items` are refused at once; those that wait are answered."""

    async def question(client: httpx.AsyncClient) -> list[httpx.Response]:
        admission = engine_of(client).admission
        held = asyncio.ensure_future(client.post("/predict", json={"text": ["hold"] * 64}))
        await until(lambda: model.holding.is_set() and admission.waiting == 63)
        waiting = asyncio.ensure_future(client.post("/predict", json={"text": ["a", "b"]}))
        await until(lambda: admission.waiting == 65)
        refused = await client.post("/predict", json={"text": ["c", "d"]})
        model.release.set()
        return [refused, await held, await waiting]

    model = FakeModel()
    refused, held, waiting = ask(question, model, queue_items=66, batch_items=1)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert "65" in refused.json()["detail"]
    assert (held.status_code, waiting.status_code) == (200, 200)


def test_loading_is_503_until_loaded() -> None:
    """While the checkpoint loads, the process lives, is not ready, and says when to retry."""

    async def question() -> tuple[list[httpx.Response], list[int]]:
        model = FakeModel()
        model.load_now.clear()
        async with running(model, wait=False) as client:
            refused = [await client.get(path) for path in ("/readyz", "/model")]
            refused.append(await client.post("/predict", json={"text": "a"}))
            alive = await client.get("/livez")
            model.load_now.set()
            await until(lambda: engine_of(client).loaded is not None)
            return refused, [alive.status_code, (await client.get("/readyz")).status_code]

    refused, others = asyncio.run(question())
    assert [(response.status_code, response.headers["retry-after"]) for response in refused] == [
        (503, "2")
    ] * 3
    assert refused[0].json()["detail"] == "the checkpoint is still loading"
    assert others == [200, 200]


def test_stuck_engine_is_neither_live_nor_ready() -> None:
    """While a step takes longer than allowed, both probes answer 503; after it, 200."""

    async def question(client: httpx.AsyncClient) -> list[int]:
        engine = engine_of(client)
        stuck = asyncio.ensure_future(client.post("/predict", json={"text": "stuck"}))
        await until(lambda: not engine.is_alive)
        statuses = [(await client.get(path)).status_code for path in ("/livez", "/readyz")]
        model.stuck.set()
        assert (await stuck).status_code == 200
        await until(lambda: engine.is_alive)
        return statuses + [(await client.get(path)).status_code for path in ("/livez", "/readyz")]

    model = FakeModel()
    assert ask(question, model, stall_seconds=0.01) == [503, 503, 200, 200]
