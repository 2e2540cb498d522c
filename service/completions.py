"""OpenAI's completions API: ``/v1/completions``, streamed or not, and ``/v1/models``.

A part of a completion is made on the engine's thread, and waits in a queue for the event loop.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from model.completions import CompletionPart, CompletionQuery, CompletionResult
from model.queries import Query, Usage
from service.completion_schemas import (
    NAME,
    CachedTokens,
    CompletionAnswer,
    CompletionChoice,
    CompletionRequest,
    CompletionUsage,
    ModelCard,
    ModelList,
    OpenAIProblem,
)
from service.errors import CLIENT_CLOSED, Problem, as_problem, openai_error
from service.middleware import Context, RequestContext, forget_frames, log_failure
from service.requests import JSONRoute
from service.routes import Asked, problems, submit
from service.schemas import FieldError

# A number of a choice and its next part; None after the last one.
Parts = asyncio.Queue[tuple[int, CompletionPart] | None]

_FORM = {"form": OpenAIProblem}
# Each event's data is a `CompletionAnswer`, an error or ``[DONE]``.
_STREAM: dict[int | str, Any] = {200: {"content": {"text/event-stream": {}}}}
completing = APIRouter(
    tags=["other clients"],
    route_class=JSONRoute,
    responses=problems(400, 401, 404, 408, 413, 415, 421, 429, 500, 503, 504, **_FORM),
)
listing = APIRouter(tags=["other clients"], responses=problems(400, 401, 421, 503, **_FORM))


@listing.get("/v1/models", operation_id="listModels", summary="Models (OpenAI)")
async def list_models(context: Context) -> ModelList:
    """List the checkpoint that answers."""
    return ModelList(data=[ModelCard(id=_model_name(context))])


@listing.get(
    "/v1/models/{id}",
    operation_id="retrieveModel",
    summary="One model (OpenAI)",
    responses=problems(404, **_FORM),
)
async def retrieve_model(id: str, context: Context) -> ModelCard:  # noqa: A002 - OpenAI's word
    """Describe the checkpoint that answers, if it has this name."""
    return ModelCard(id=_model_name(context, id))


@listing.post("/v1/chat/completions", include_in_schema=False)
async def refuse_chat() -> None:
    """Name the route that continues a text."""
    raise Problem(400, "this model continues text and fills blanks; use /v1/completions")


@completing.post(
    "/v1/completions",
    operation_id="complete",
    summary="Completions (OpenAI)",
    response_model=CompletionAnswer,
    responses=_STREAM,
)
async def complete(body: CompletionRequest, context: Context) -> CompletionAnswer | Response:
    """Continue prompts token by token, or fill the blank between a prompt and a suffix."""
    name, parts = _model_name(context, body.model), Parts()
    loop = asyncio.get_running_loop()

    def on_part(choice: int, part: CompletionPart) -> None:
        loop.call_soon_threadsafe(parts.put_nowait, (choice, part))

    def prepare(queries: list[Query]) -> list[Query]:
        return [
            replace(each, on_part=partial(on_part, choice))
            for choice, each in enumerate(queries)
            if isinstance(each, CompletionQuery)
        ]

    asked = submit(context, body, body.user, prepare if body.stream else list)
    answer = partial(
        CompletionAnswer, id=f"cmpl-{secrets.token_hex(12)}", created=int(time.time()), model=name
    )
    if body.stream:
        asked.job.future.add_done_callback(lambda _: parts.put_nowait(None))
        return await _Stream(asked, body, answer, parts).begin()
    results: list[CompletionResult] = await asked.results()
    has_logprobs = body.logprobs is not None
    choices = [CompletionChoice.of(n, each.parts, has_logprobs) for n, each in enumerate(results)]
    return answer(choices=choices, usage=_usage(asked, results, body.n))


class _Stream(Response):
    """Server-sent events: parts as they come, then the usage if it was asked for, or an error."""

    media_type = "text/event-stream"

    def __init__(
        self,
        asked: Asked,
        body: CompletionRequest,
        answer: Callable[..., CompletionAnswer],
        parts: Parts,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._asked, self._body, self._answer, self._parts = asked, body, answer, parts
        # It watches the client and the deadline, and drops the job if it is cancelled.
        self._results = asyncio.ensure_future(asked.results())
        self._next: tuple[int, CompletionPart] | None = None

    async def begin(self) -> "_Stream":
        """Wait for the first part: until then, an error is an ordinary answer."""
        try:
            self._next = await self._parts.get()
            if self._next is None:
                await self._results
        except BaseException:
            self._results.cancel()
            raise
        self._asked.note_timing()
        return self

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the stream (ASGI)."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        context = self._asked.context
        try:
            async for event in self._events():
                await send(_message(event))
        except ClientDisconnect:
            context.status = CLIENT_CLOSED
            raise
        except Exception as error:
            problem = as_problem(error)
            log_failure(problem, error, context)
            forget_frames(error)
            context.status = problem.status
            await send(
                _message(b'{"error":' + openai_error(problem).model_dump_json().encode() + b"}")
            )
        finally:
            self._results.cancel()
        await send({"type": "http.response.body", "body": b""})

    async def _events(self) -> AsyncIterator[bytes]:
        has_logprobs, options = self._body.logprobs is not None, self._body.stream_options
        while self._next is not None:
            index, part = self._next
            choice = CompletionChoice.of(index, [part], has_logprobs and bool(part.tokens))
            yield self._answer(choices=[choice]).model_dump_json().encode()
            self._next = await self._parts.get()
        usage = _usage(self._asked, await self._results, self._body.n)
        if options and options.include_usage:
            yield self._answer(choices=[], usage=usage).model_dump_json().encode()
        yield b"[DONE]"


def _message(event: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": b"data: " + event + b"\n\n", "more_body": True}


def _model_name(context: RequestContext, asked: str = NAME) -> str:
    """Return the name of the checkpoint, if *asked* is it or the name of any."""
    name = str(context.state.engine.active.description["name"])
    if asked not in (name, NAME):
        detail = f"is not the name of the model; send {NAME}, or the name that GET /v1/models lists"
        raise Problem(404, f"/model: {detail}", [FieldError("/model", detail)])
    return name


def _usage(asked: Asked, results: Sequence[CompletionResult], n: int) -> CompletionUsage:
    """Return the tokens of the prompts, each counted once, and of the completions."""
    prompts = results[::n]
    tokens = sum([each.prompt_tokens for each in prompts])
    used = asked.used(Usage(tokens, sum([each.cached_tokens for each in prompts])))
    made = sum([each.completion_tokens for each in results])
    return CompletionUsage(
        prompt_tokens=tokens,
        completion_tokens=made,
        total_tokens=tokens + made,
        prompt_tokens_details=CachedTokens(cached_tokens=used.cached_tokens),
    )
