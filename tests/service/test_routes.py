"""Tests of service/routes.py: the contract, sentence by sentence, with a model side that answers at once.

Bad input is in tests/end_to_end/test_service_process.py, on a real server.
"""

import asyncio
import re
import threading
from typing import Any

import httpx
import pytest

from model.errors import UnsupportedError
from model.queries import ClozeQuery, Query
from service.schemas import ClozeAnswer, ModelAnswer, PredictAnswer, ProblemDocument, ScoreAnswer
from tests.service.client import app_of, ask, post, running, until
from tests.service.fakes_service import FakeModel

_BODIES = {"/predict": {"text": "a"}, "/cloze": {"text": "a ____"}, "/score": {"text": "a"}}
_ANSWERS = {"/predict": PredictAnswer, "/cloze": ClozeAnswer, "/score": ScoreAnswer}


@pytest.mark.parametrize("path", _BODIES)
def test_answers_have_the_documented_form(path: str) -> None:
    """An answer is JSON that holds the fields of its documented type, all of them and no other."""
    response = post(path, _BODIES[path])
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert _ANSWERS[path].model_validate(answer).model_dump(mode="json") == answer


@pytest.mark.parametrize("path", _BODIES)
def test_results_are_a_list_in_the_order_sent(path: str) -> None:
    """One text gets a list of one result; several get theirs in the order sent."""
    body = _BODIES[path]
    assert len(post(path, body).json()["results"]) == 1
    assert len(post(path, {"text": [body["text"]]}).json()["results"]) == 1
    scored = post("/score", {"text": ["aaa", "a", "aa"]}).json()["results"]
    assert [result["characters"] for result in scored] == [3, 1, 2]


def test_usage_is_the_sum_over_texts() -> None:
    """Usage counts the tokens of all texts of a request."""
    assert post("/score", {"text": ["aaa", "a"]}).json()["usage"] == {
        "tokens": 4,
        "cached_tokens": 2,
    }


def test_top_k_is_5_unless_asked() -> None:
    """Five candidates by default, else as many as asked for."""
    assert len(post("/predict", {"text": "a"}).json()["results"][0]["candidates"]) == 5
    assert (
        len(post("/predict", {"text": "a", "top_k": 100}).json()["results"][0]["candidates"]) == 100
    )


def test_blanks_are_counted_in_code_points_of_the_text_as_sent() -> None:
    """Start and end are code points, also after characters that take several bytes or UTF-16 units."""
    (blank,) = post("/cloze", {"text": "😀é ____"}).json()["results"][0]["blanks"]
    assert (blank["start"], blank["end"]) == (3, 7)


def test_one_wrong_text_refuses_the_whole_request() -> None:
    """Validation is all or nothing: one 422 that names the item, and nothing is decoded."""
    model = FakeModel()
    response = ask(
        lambda client: client.post("/cloze", json={"text": ["a __", "b __", "c __", "none"]}), model
    )
    assert response.status_code == 422
    assert [error["pointer"] for error in response.json()["errors"]] == ["/text/3"]
    assert model.largest_batch == 0


def test_choices_are_named_by_themselves() -> None:
    """A mistake in the choices is not blamed on a text, though each text is checked with them."""
    response = post("/cloze", {"text": ["a __", "b __"], "choices": ["x", "x"]})
    assert [error["pointer"] for error in response.json()["errors"]] == ["/choices/1"]


def test_question_that_the_network_cannot_answer_is_422() -> None:
    """A checkpoint whose network cannot answer a kind of question refuses it with the reason, naming the text."""
    response = ask(
        lambda client: client.post("/cloze", json={"text": ["a ____"]}), _FillsNoBlanks()
    )
    assert response.status_code == 422
    assert response.json()["errors"] == [
        {"pointer": "/text/0", "detail": "this network fills no blanks"}
    ]


def test_model_tells_what_is_loaded_and_the_limits() -> None:
    """GET /model answers its documented form, with the limits that are in force."""
    response = ask(lambda client: client.get("/model"), max_texts=3)
    answer = ModelAnswer.model_validate(response.json())
    assert answer.model_dump() == response.json()
    assert answer.limits.texts == 3
    assert answer.capabilities == ["predict", "cloze", "score"]


@pytest.mark.parametrize(
    "path", ["/model", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json"]
)
def test_gets_are_answered_without_redirects(path: str) -> None:
    """Every GET route answers 200 at its own path; with a slash behind it is 404 and no redirect."""

    async def question(client: httpx.AsyncClient) -> list[int]:
        return [(await client.get(path)).status_code, (await client.get(f"{path}/")).status_code]

    assert ask(question) == [200, 404]


def test_head_is_answered_where_get_is() -> None:
    """HEAD, which balancers like to ask, is GET without the body; on a POST route it is 405."""

    async def question(client: httpx.AsyncClient) -> list[int]:
        return [(await client.head(path)).status_code for path in ("/readyz", "/docs", "/predict")]

    assert ask(question) == [200, 200, 405]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/predict", "POST"),
        ("DELETE", "/model", "GET, HEAD"),
        ("PUT", "/livez", "GET, HEAD"),
    ],
)
def test_wrong_method_is_told_the_right_one(method: str, path: str, allowed: str) -> None:
    """405 carries Allow."""
    response = ask(lambda client: client.request(method, path))
    assert (response.status_code, response.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize("sent", ["a", "A-1._b", "x" * 64])
def test_request_id_is_echoed(sent: str) -> None:
    """A well-formed X-Request-Id comes back, also with an error, and stands in its document."""
    assert (
        ask(lambda client: client.get("/livez", headers={"X-Request-Id": sent})).headers[
            "x-request-id"
        ]
        == sent
    )
    missing = ask(lambda client: client.get("/nothing", headers={"X-Request-Id": sent}))
    assert missing.json()["request_id"] == missing.headers["x-request-id"] == sent


@pytest.mark.parametrize("sent", ["", "x" * 65, "a b", "a\tb", "鬼".encode(), "a;b"])
def test_malformed_request_id_is_replaced(sent: Any) -> None:
    """Any other X-Request-Id is replaced by a new one, and so is a missing one."""
    response = ask(lambda client: client.get("/livez", headers={"X-Request-Id": sent}))
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


def test_server_timing_tells_queue_and_inference() -> None:
    """Answers of the model carry both times in milliseconds; other answers carry none."""
    timing = post("/predict", {"text": "a"}).headers["server-timing"]
    assert re.fullmatch(r"queue;dur=\d+\.\d{3}, inference;dur=\d+\.\d{3}", timing)
    assert "server-timing" not in ask(lambda client: client.get("/livez")).headers


def test_failure_is_500_without_details_and_harms_nobody() -> None:
    """A text that the model fails on gets a 500 that says nothing of it; requests beside it are answered."""

    async def question(client: httpx.AsyncClient) -> list[httpx.Response]:
        texts = ["a", "poison 鬼", "b", "collapse 鬼", "c"]
        return list(
            await asyncio.gather(
                *(client.post("/predict", json={"text": text}) for text in texts[:3])
            )
        ) + [await client.post("/predict", json={"text": text}) for text in texts[3:]]

    responses = ask(question)
    assert [response.status_code for response in responses] == [200, 500, 200, 500, 200]
    for failed in responses[1::2]:
        assert failed.headers["content-type"] == "application/problem+json"
        assert "鬼" not in failed.text
        assert "RuntimeError" not in failed.text


def test_deadline_is_504_and_frees_the_engine() -> None:
    """A request past its deadline gets 504, its texts leave the engine, and its wait is measured like others."""

    async def question(client: httpx.AsyncClient) -> httpx.Response:
        response = await client.post("/predict", json={"text": ["hold", "hold"]})
        await until(
            lambda: (
                model.cancelled == 1 and app_of(client).state.lacuna.engine.admission.waiting == 0
            )
        )
        metrics = await client.get("/metrics")
        assert 'lacuna_queue_seconds_count{route="/predict"} 1.0' in metrics.text.splitlines()
        return response

    model = FakeModel()
    response = ask(question, model, deadline_seconds=0.05, batch_items=1)
    assert response.status_code == 504
    assert re.fullmatch(
        r"queue;dur=\d+\.\d+, inference;dur=[1-9]\d*\.\d+", response.headers["server-timing"]
    )
    assert response.json()["detail"] == "not answered within 0.05 s; send less at once, or later"


def test_full_queue_is_429_with_retry_after() -> None:
    """Overload is refused at once with a time to come back, counted in texts, and others go on."""

    async def question(client: httpx.AsyncClient) -> list[httpx.Response]:
        engine = app_of(client).state.lacuna.engine
        held = asyncio.ensure_future(client.post("/predict", json={"text": ["hold"] * 64}))
        await until(lambda: model.holding.is_set() and engine.admission.waiting == 63)
        waiting = asyncio.ensure_future(client.post("/predict", json={"text": ["a", "b"]}))
        await until(lambda: engine.admission.waiting == 65)
        refused = await client.post("/predict", json={"text": ["c", "d"]})
        model.release.set()
        return [refused, await held, await waiting]

    model = FakeModel()
    refused, held, waiting = ask(question, model, queue_items=66, batch_items=1)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert refused.json()["detail"].startswith("the queue is full: 65 of 66 texts wait")
    assert (held.status_code, waiting.status_code) == (200, 200)


def test_a_request_that_would_be_too_late_is_429_and_counted() -> None:
    """Where more work waits than fits the deadline, a request is refused and counted."""

    async def question(client: httpx.AsyncClient) -> tuple[list[httpx.Response], str]:
        engine = app_of(client).state.lacuna.engine
        held = asyncio.ensure_future(client.post("/cloze", json={"text": ["hold ____"] * 9}))
        await until(lambda: model.holding.is_set() and engine.admission.waiting == 8)
        engine.admission.measure = lambda *_: None  # the speed is this test's to set
        engine.admission.rate = engine.admission.cost / 5.5
        small = await client.post("/predict", json={"text": "a"})
        engine.admission.rate = engine.admission.cost / 4.5
        large = await client.post("/cloze", json={"text": ["____"] * 9})
        metrics = (await client.get("/metrics")).text
        model.release.set()
        assert (await held).status_code == 200
        return [small, large], metrics

    model = FakeModel()
    responses, metrics = ask(question, model, batch_items=1)
    assert [response.status_code for response in responses] == [429, 429]
    assert all(int(response.headers["retry-after"]) in (5, 6) for response in responses)
    assert "4.5 s of work are waiting and it adds 4.5 s" in responses[1].json()["detail"]
    assert 'lacuna_refusals_total{reason="deadline"} 2.0' in metrics
    assert re.search(r"^lacuna_queue_work_seconds [45]\.", metrics, re.MULTILINE)


def test_loading_is_503_until_loaded() -> None:
    """While the checkpoint loads, the process lives, is not ready, and asks clients to come back."""

    async def question() -> tuple[list[httpx.Response], int]:
        model = _LoadsOnRelease()
        async with running(model, wait=False) as client:
            responses = [
                await client.get("/readyz"),
                await client.get("/model"),
                await client.post("/predict", json={"text": "a"}),
            ]
            alive = (await client.get("/livez")).status_code
            model.load_now.set()
            await until(lambda: app_of(client).state.lacuna.engine.not_ready_reason is None)
            responses.append(await client.get("/readyz"))
            return responses, alive

    responses, alive = asyncio.run(question())
    assert [response.status_code for response in responses] == [503, 503, 503, 200]
    assert all(response.headers["retry-after"] == "2" for response in responses[:3])
    assert responses[0].json()["detail"] == "the checkpoint is still loading"
    assert alive == 200


def test_draining_is_503_for_new_requests_and_finishes_old_ones() -> None:
    """While draining, readiness ends and new requests are sent away, but the one in flight is answered."""

    async def question(client: httpx.AsyncClient) -> list[httpx.Response]:
        held = asyncio.ensure_future(client.post("/predict", json={"text": "hold"}))
        await until(model.holding.is_set)
        app_of(client).state.lacuna.engine.draining = True
        refused = [await client.post("/predict", json={"text": "a"}), await client.get("/readyz")]
        alive = await client.get("/livez")
        model.release.set()
        return [*refused, alive, await held]

    model = FakeModel()
    responses = ask(question, model)
    assert [response.status_code for response in responses] == [503, 503, 200, 200]
    assert responses[0].headers["retry-after"] == "2"
    assert "shutting down" in responses[0].json()["detail"]


def test_stuck_engine_is_neither_live_nor_ready() -> None:
    """While a step takes longer than allowed, both probes answer 503; after it, 200."""

    async def question(client: httpx.AsyncClient) -> list[int]:
        engine = app_of(client).state.lacuna.engine
        stuck = asyncio.ensure_future(client.post("/predict", json={"text": "stuck"}))
        await until(lambda: not engine.is_alive)
        statuses = [(await client.get(path)).status_code for path in ("/livez", "/readyz")]
        model.stuck.set()
        assert (await stuck).status_code == 200
        await until(lambda: engine.is_alive)
        return statuses + [(await client.get(path)).status_code for path in ("/livez", "/readyz")]

    model = FakeModel()
    assert ask(question, model, stall_seconds=0.01) == [503, 503, 200, 200]


def test_problems_have_the_documented_form() -> None:
    """An error is a problem document with the documented fields and a title that fits its status."""
    response = post("/predict", {"text": [1]})
    problem = ProblemDocument.model_validate(response.json())
    assert problem.model_dump() == response.json()
    assert (problem.type, problem.title, problem.status) == (
        "about:blank",
        "Unprocessable Content",
        422,
    )


class _FillsNoBlanks(FakeModel):
    """A model with a network for next words only."""

    def start(self, query: Query, _tenant: str = "", /) -> Any:
        """As the real predictor refuses."""
        if isinstance(query, ClozeQuery):
            raise UnsupportedError("/text", "this network fills no blanks")
        return super().start(query)


class _LoadsOnRelease(FakeModel):
    """A model whose checkpoint takes as long as a test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.load_now = threading.Event()

    def load(self, on_call: Any = None) -> Any:
        """Wait, then load."""
        self.load_now.wait()
        return super().load(on_call)
