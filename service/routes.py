"""The routes: each reads a request, asks the engine and writes the answer. They hold no state of their own."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from model.queries import ClozeResult, PredictResult, ScoreResult
from service.engine import Engine
from service.errors import (
    ClientDisconnected,
    FieldError,
    Problem,
    unavailable,
    unprocessable,
)
from service.jobs import ItemError, Job
from service.metrics import Metrics
from service.openapi import answers, asks
from service.reloading import Reloader
from service.request_context import RequestContext
from service.requests import read_optional, read_request
from service.schemas import (
    ClozeAnswer,
    ClozeRequest,
    ModelAnswer,
    PredictAnswer,
    PredictRequest,
    ReloadAnswer,
    ReloadRequest,
    ScoreAnswer,
    ScoreRequest,
)
from service.settings import Settings

JSON = "application/json"
# Most answers are there before a client could hang up; to watch it costs as much as to read its request.
UNWATCHED_SECONDS = 0.1
router = APIRouter(redirect_slashes=False)
Body = TypeVar("Body", bound=ScoreRequest)


class AppState:
    """What the routes of one app share; found at ``request.app.state.lacuna``."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        reloader: Reloader,
        metrics: Metrics,
        page: Response,
        document: bytes,
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.reloader = reloader
        self.metrics = metrics
        self.page = page
        self.document = document

    @classmethod
    def of(cls, request: Request) -> "AppState":
        """The state of the app that *request* came to."""
        state: AppState = request.app.state.lacuna
        return state


@router.post("/predict", **answers(PredictAnswer, asking=True), **asks(PredictRequest))
async def predict(request: Request) -> Response:
    """What is typed next: the rest of an unfinished word, or the next word."""
    return await _answer(
        request,
        await read_request(request, PredictRequest, AppState.of(request).settings),
        _prediction,
    )


@router.post("/cloze", **answers(ClozeAnswer, asking=True), **asks(ClozeRequest))
async def cloze(request: Request) -> Response:
    """What stands in the blanks, openly or from given choices."""
    return await _answer(
        request, await read_request(request, ClozeRequest, AppState.of(request).settings), _filling
    )


@router.post("/score", **answers(ScoreAnswer, asking=True), **asks(ScoreRequest))
async def score(request: Request) -> Response:
    """How probable a text is after the start of a text, its end not included."""
    return await _answer(
        request, await read_request(request, ScoreRequest, AppState.of(request).settings), _score
    )


@router.get("/model", **answers(ModelAnswer, unavailable=True))
async def model(request: Request) -> Response:
    """The checkpoint that answers, what it can answer, and the limits on a request."""
    state = AppState.of(request)
    loaded = state.engine.loaded
    if loaded is None:
        raise unavailable("the checkpoint is still loading")
    limits = state.settings.limits
    content = loaded.description | {
        "limits": {name: getattr(limits, name) for name in limits.__slots__}
    }
    return Response(to_json(content), media_type=JSON)


@router.get("/livez", **answers(None, unavailable=True))
async def livez(request: Request) -> Response:
    """200 while the process can make progress; otherwise it should be restarted."""
    if not AppState.of(request).engine.alive:
        raise unavailable("the engine is stuck or has ended; restart the service")
    return Response("ok\n", media_type="text/plain")


@router.get("/readyz", **answers(None, unavailable=True))
async def readyz(request: Request) -> Response:
    """200 while questions are answered; 503 while loading, draining or stuck."""
    AppState.of(request).engine.check_ready()
    return Response("ready\n", media_type="text/plain")


@router.get("/metrics", **answers(None))
async def metrics(request: Request) -> Response:
    """The series that Prometheus reads."""
    registry = AppState.of(request).metrics.registry
    return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.post(
    "/admin/reload", **answers(ReloadAnswer, changing=True), **asks(ReloadRequest, required=False)
)
async def reload(request: Request) -> Response:
    """Answer with another checkpoint, or with what its directory holds now; the one before finishes what it began."""
    state = AppState.of(request)
    body = await read_optional(request, ReloadRequest, state.settings)
    directory = Path(body.checkpoint) if body.checkpoint is not None else None
    return Response(to_json(await state.reloader.reload(directory)), media_type=JSON)


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """This contract as a page, with a form to try it; needs nothing from elsewhere."""
    return AppState.of(request).page


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> Response:
    """This contract for programs."""
    return Response(AppState.of(request).document, media_type=JSON)


async def _answer(
    request: Request, body: ScoreRequest, show: Callable[[Any], dict[str, Any]]
) -> Response:
    state, context = AppState.of(request), RequestContext.of(request.scope)
    queries = body.queries()
    context.items = len(queries)
    job = _submit(state, queries, body.characters, context)
    try:
        results = await _wait(request, state, job)
    except ItemError as error:
        raise unprocessable([FieldError(_pointer(body, error), error.cause.message)]) from error
    finally:  # also of what came too late: those are the waits that matter
        context.queue_seconds, context.inference_seconds = job.queue_seconds, job.inference_seconds
    context.tokens = tokens = sum(result.usage.tokens for result in results)
    context.cached_tokens = cached_tokens = sum(result.usage.cached_tokens for result in results)
    state.metrics.used(tokens, cached_tokens)
    for result in results:
        if isinstance(result, PredictResult):
            state.metrics.predicted(result.inside_word, result.network_rows)
    content = {
        "model": _identity(job),
        "results": [show(result) for result in results],
        "usage": {"tokens": tokens, "cached_tokens": cached_tokens},
    }
    return Response(to_json(content), media_type=JSON)


def _submit(
    state: AppState, queries: Sequence[Any], characters: int, context: RequestContext
) -> Job:
    """Ask the engine; what it accepts is charged to the key, and nothing else."""
    left = context.began + state.settings.deadline_seconds - time.monotonic()
    if context.allowance is not None:
        context.allowance.check(len(queries), characters)
    job = state.engine.submit(queries, context.tenant, left)
    if context.allowance is not None:
        context.allowance.charge(len(queries), characters)
    return job


async def _wait(request: Request, state: AppState, job: Job) -> list[Any]:
    """The job's results, unless the deadline passes or the client hangs up first: then nobody computes them."""
    watchers: list[asyncio.Future[None]] = []
    seconds = state.settings.deadline_seconds
    left = RequestContext.of(request.scope).began + seconds - job.submitted
    loop = asyncio.get_running_loop()
    timers = (
        loop.call_later(
            UNWATCHED_SECONDS,
            lambda: watchers.append(asyncio.ensure_future(_hung_up(request, job))),
        ),
        loop.call_later(left, lambda: _give_up(job, _too_late(seconds))),
    )
    try:
        return await job.future
    finally:
        for timer in timers:
            timer.cancel()
        for watcher in watchers:
            watcher.cancel()
        if not job.finished:
            state.engine.cancel(job)


async def _hung_up(request: Request, job: Job) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    _give_up(job, ClientDisconnected())


def _too_late(seconds: float) -> Problem:
    return Problem(504, f"not answered within {seconds:g} s; send less at once, or later")


def _give_up(job: Job, error: Exception) -> None:
    if not job.future.done():
        job.future.set_exception(error)


def _pointer(body: ScoreRequest, error: ItemError) -> str:
    """Where in the body the model's complaint about one text lies: ``/text`` of query 3 is ``/text/3``."""
    several = not isinstance(body.text, str)
    return f"/text/{error.item}" if several and error.cause.field == "/text" else error.cause.field


def _identity(job: Job) -> dict[str, Any]:
    description = job.answerer.description if job.answerer else {}
    return {"name": description["name"], "version": description["version"]}


def _prediction(result: PredictResult) -> dict[str, Any]:
    return {"candidates": result.candidates}


def _filling(result: ClozeResult) -> dict[str, Any]:
    return {"filled": result.filled, "blanks": result.blanks}


def _score(result: ScoreResult) -> dict[str, Any]:
    return {
        "log_probability": result.log_probability,
        "characters": result.characters,
        "tokens": result.tokens,
        "bits_per_character": result.bits_per_character,
    }
