"""Tests of service/completions.py: OpenAI's contract, with a model side that answers at once."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from service.completion_schemas import CompletionAnswer, OpenAIProblem
from tests.service.client import METRICS, METRICS_PORT, ask, engine_of, get, post, running, until
from tests.service.fakes_service import FakeModel

PATH, BODY = "/v1/completions", {"model": "fake", "prompt": "abc", "max_tokens": 2}
# What clients send though it has no effect.
NEUTRAL = {
    "top_p": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "best_of": 1, "logit_bias": {},
    "user": "someone", "service_tier": "auto", "seed": None, "logprobs": None, "stop": None,
    "suffix": None, "echo": False, "stream": False, "n": 1,
}  # fmt: skip


def events_of(response: httpx.Response) -> list[Any]:
    """Return the data of a stream, which ends in ``[DONE]`` or in an error."""
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.split("\n\n")
    assert blocks.pop() == "" and all(each.startswith("data: ") for each in blocks)
    data = [each.removeprefix("data: ") for each in blocks]
    return [json.loads(each) for each in (data[:-1] if data[-1] == "[DONE]" else data)]


def test_a_completion_has_the_fields_that_clients_read() -> None:
    """Choices of one prompt come together; prompts are counted once, completions all."""
    body = {**BODY, "prompt": ["abc", "ab"], "n": 2, "model": "lacuna", **NEUTRAL, "best_of": 2}
    response = post(PATH, body | {"n": 2})
    answer = response.json()
    assert CompletionAnswer.model_validate(answer).model_dump(mode="json") == answer
    assert (answer["object"], answer["model"]) == ("text_completion", "fake")
    assert [(each["index"], each["text"]) for each in answer["choices"]] == [
        (number, "word0 word1 ") for number in range(4)
    ]
    assert {each["finish_reason"] for each in answer["choices"]} == {"length"}
    usage = {"prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 13}
    assert answer["usage"] == usage | {"prompt_tokens_details": {"cached_tokens": 0}}
    assert "server-timing" in response.headers and answer["id"].startswith("cmpl-")


def test_a_stream_has_the_parts_of_the_completion_in_order() -> None:
    """Each part is one event; usage comes last, if asked for; then the end."""
    body = {**BODY, "stream": True, "stream_options": {"include_usage": True}}
    *parts, usage = events_of(post(PATH, body))
    shown = [(part["choices"][0]["text"], part["choices"][0]["finish_reason"]) for part in parts]
    assert shown == [("word0 ", None), ("word1 ", None), ("", "length")]
    assert {part["id"] for part in parts} == {usage["id"]}
    assert usage["choices"] == [] and usage["usage"]["total_tokens"] == 5
    assert {part["usage"] for part in parts} == {None}


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"max_tokens": 65}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 0.9}, "top_p"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"best_of": 3}, "best_of"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"n": 65}, "n"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [1, True]}, "prompt"),
        ({"prompt": [[5, 1000]]}, "prompt"),
        ({"prompt": "a" * 10_001}, "prompt"),
        ({"prompt": [1], "suffix": "b"}, "suffix"),
        ({"suffix": "b" * 10_000}, "suffix"),
        ({"logprobs": 21}, "logprobs"),
        ({"stop": [""]}, "stop"),
        ({"stream": 1}, "stream"),
        ({"tools": []}, "tools"),
    ],
)
def test_a_wrong_field_is_400_and_named(changes: dict[str, Any], param: str) -> None:
    """Also in a stream, the answer is a problem document with OpenAI's error in it."""
    for stream in ({}, {"stream": True}):
        response = post(PATH, BODY | stream | changes)
        assert response.status_code == 400, response.text
        assert response.headers["content-type"] == "application/problem+json"
        problem = OpenAIProblem.model_validate(response.json())
        assert (problem.error.param, problem.error.type) == (param, "invalid_request_error")
        assert problem.error.message == problem.detail


def test_token_ids_are_a_prompt_and_pointers_name_their_item() -> None:
    """A list of ids is one prompt, a list of lists several; `n` does not move the pointer."""
    assert len(post(PATH, BODY | {"prompt": [1, 5]}).json()["choices"]) == 1
    response = post(PATH, BODY | {"prompt": [[5], [5, 1000]], "n": 2})
    assert [each["pointer"] for each in response.json()["errors"]] == ["/prompt/1/1"]


def test_every_error_has_openais_member() -> None:
    """Unknown models, paths and keys, missing bodies, and too many requests."""

    async def question(client: httpx.AsyncClient) -> list[Any]:
        headers = {"Authorization": "Bearer key-0123456789abcdef"}
        ask_ = lambda body: client.post(PATH, json=body, headers=headers)  # noqa: E731
        answers = [await ask_(BODY | {"model": "secret-name"}), await ask_(BODY)]
        answers += [await ask_(BODY), await client.post(PATH, json=BODY)]
        answers += [await client.get(path, headers=headers) for path in ("/v1/models/x", "/v1/y")]
        return [*answers, await client.post("/v1/chat/completions", json={}, headers=headers)]

    answers = ask(question, keys=["key-0123456789abcdef"], texts_per_minute=1)
    shown = [
        (each.status_code, *(each.json().get("error") or {}).values())[:4:2] for each in answers
    ]
    assert shown == [
        (404, "invalid_request_error"), (200,), (429, "rate_limit_error"),
        (401, "invalid_request_error"), (404, "invalid_request_error"),
        (404, "invalid_request_error"), (400, "invalid_request_error"),
    ]  # fmt: skip
    assert answers[0].json()["error"]["code"] == "model_not_found"
    assert "secret-name" not in answers[0].text and "retry-after" in answers[2].headers
    assert answers[5].json()["error"]["code"] is None


def test_models_lists_the_checkpoint() -> None:
    """One model, as a list and by its name."""
    (model,) = get("/v1/models").json()["data"]
    assert get("/v1/models/fake").json() == model
    assert model == {"id": "fake", "object": "model", "created": 0, "owned_by": "lacuna"}


def test_a_stream_that_fails_ends_in_an_error() -> None:
    """After the first part, an error is an event; the log has the place, not the text."""
    body = BODY | {"prompt": "hidden trouble", "stream": True}

    async def question(client: httpx.AsyncClient) -> tuple[httpx.Response, str]:
        return await client.post(PATH, json=body), (await client.get(METRICS)).text

    response, metrics = ask(question, metrics_port=METRICS_PORT)
    error = events_of(response)[-1]["error"]
    assert error["type"] == "server_error" and "hidden" not in response.text
    assert 'lacuna_requests_total{route="/v1/completions",status="500"} 1.0' in metrics


def test_the_deadline_ends_a_stream_and_frees_the_engine() -> None:
    """Tokens that came in time are sent, then an error; the text leaves the engine."""
    model = FakeModel()

    async def question(client: httpx.AsyncClient) -> httpx.Response:
        response = await client.post(PATH, json=BODY | {"prompt": "wait", "stream": True})
        await until(lambda: model.cancelled == 1 and engine_of(client).admission.cost == 0)
        return response

    events = events_of(ask(question, model, deadline_seconds=0.2))
    assert events[0]["choices"][0]["text"] == "word0 "
    assert events[-1]["error"]["message"].startswith("not answered within 0.2 s")


def test_a_client_that_hangs_up_during_a_stream_stops_the_decoding() -> None:
    """The text leaves the engine, and the request counts as 499."""
    model = FakeModel()

    async def question() -> str:
        async with running(model, metrics_port=METRICS_PORT) as client:
            parts: asyncio.Queue[Any] = asyncio.Queue()
            gone = asyncio.Event()
            content = json.dumps(BODY | {"prompt": "wait", "stream": True}).encode()
            sent = iter([{"type": "http.request", "body": content}])

            async def receive() -> Any:
                if message := next(sent, None):
                    return message
                await gone.wait()
                return {"type": "http.disconnect"}

            scope = {
                "type": "http", "method": "POST", "path": PATH, "query_string": b"",
                "server": ("localhost", 80), "asgi": {"version": "3.0"}, "http_version": "1.1",
                "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
            }  # fmt: skip
            app = client.app  # type: ignore[attr-defined]
            asking = asyncio.ensure_future(app(scope, receive, parts.put))
            while b"word0" not in (await parts.get()).get("body", b""):
                pass
            gone.set()
            await asking
            await until(lambda: model.cancelled == 1 and engine_of(client).admission.cost == 0)
            return (await client.get(METRICS)).text

    line = 'lacuna_requests_total{route="/v1/completions",status="499"} 1.0'
    assert line in asyncio.run(question())
