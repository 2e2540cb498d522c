"""The routes: each takes a checked request, asks the engine and returns the answer."""

import asyncio
import base64
import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from model.queries import PredictResult, Query, Usage
from service.admission import TooManyRequests
from service.engine import Engine, ItemError, NotReady
from service.errors import TITLES, Problem, unprocessable
from service.jobs import Job
from service.metrics import Metrics
from service.middleware import Context, RequestContext
from service.model_loader import LoadedModel, Reloader
from service.requests import BodyReader, JSONRoute
from service.schemas import (
    Answer,
    Body,
    ClozeAnswer,
    ClozeRequest,
    FieldError,
    ModelAnswer,
    PredictAnswer,
    PredictRequest,
    ProblemDocument,
    Question,
    ReloadAnswer,
    ScoreAnswer,
    ScoreRequest,
)
from service.settings import Settings

A = TypeVar("A", bound=Answer[Any])

# Most answers are ready before a client could hang up, and watching for it costs as much as
# reading its request.
UNWATCHED_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class AppState:
    """The parts that the routes of one app share."""

    settings: Settings
    engine: Engine
    reloader: Reloader
    metrics: Metrics
    bodies: BodyReader


def problems(
    *statuses: int, form: type[ProblemDocument] = ProblemDocument
) -> dict[int | str, dict[str, Any]]:
    """Declare the problem documents that a route may answer."""
    return {status: {"model": form, "description": TITLES[status]} for status in statuses}


asking = APIRouter(
    tags=["questions"],
    route_class=JSONRoute,
    responses=problems(400, 401, 408, 413, 415, 421, 422, 429, 500, 503, 504),
)
administration = APIRouter(
    tags=["operation"], responses=problems(400, 401, 403, 421, 422, 500, 503)
)
reading = APIRouter(tags=["model"], responses=problems(400, 401, 421, 503))
probing = APIRouter(
    tags=["operation"], responses=problems(400, 503), default_response_class=PlainTextResponse
)


@asking.post("/predict", operation_id="predict", summary="Next words")
async def predict(body: PredictRequest, context: Context) -> PredictAnswer:
    """Predict the next word, or the rest of the word that the text stops in."""
    return await _ask(context, body, PredictAnswer)


@asking.post("/cloze", operation_id="fillBlanks", summary="Words for blanks")
async def cloze(body: ClozeRequest, context: Context) -> ClozeAnswer:
    """Fill blanks, openly or from given choices."""
    return await _ask(context, body, ClozeAnswer)


@asking.post("/score", operation_id="score", summary="Probability of a text")
async def score(body: ScoreRequest, context: Context) -> ScoreAnswer:
    """Compute how probable a text is after its context; its end is not included."""
    return await _ask(context, body, ScoreAnswer)


@administration.post("/admin/reload", operation_id="reload", summary="Reload the checkpoint")
async def reload(context: Context) -> ReloadAnswer:
    """Load the configured checkpoint again, and answer with it."""
    return ReloadAnswer(**await context.state.reloader.reload())


@reading.get("/model", operation_id="getModel", summary="The checkpoint and its limits")
async def get_model(context: Context) -> ModelAnswer:
    """Describe the checkpoint that answers, and the limits of a request."""
    state = context.state
    settings, loaded = state.settings, state.engine.active
    limits = asdict(settings.limits) | {
        "body_bytes": settings.max_body_bytes,
        "texts": settings.max_texts,
        "work_seconds": settings.max_work_seconds,
    }
    return ModelAnswer(**loaded.description, limits=limits)


@reading.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """Return this contract as a page with a form to try it; it needs no other host."""
    return _DOCS_PAGE


@probing.get("/livez", operation_id="isAlive", summary="Liveness probe")
async def livez(context: Context) -> str:
    """Answer 200 while the process can make progress; otherwise it should be restarted."""
    if not context.state.engine.is_alive:
        raise NotReady("the engine is stuck or has ended; restart the service")
    return "ok\n"


@probing.get("/readyz", operation_id="isReady", summary="Readiness probe")
async def readyz(context: Context) -> str:
    """Answer 200 while questions are answered; 503 while loading, draining or stuck."""
    context.state.engine.check_ready()
    return "ready\n"


@probing.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Prometheus metrics",
    responses=problems(401, 403, 421),
)
async def metrics(context: Context) -> Response:
    """Return the series that Prometheus reads."""
    content = generate_latest(context.state.metrics.registry)
    return Response(content, media_type=CONTENT_TYPE_LATEST)


async def _ask(context: RequestContext, body: Question, form: type[A]) -> A:
    """Let the engine answer the texts of one request."""
    asked = submit(context, body, body.user)
    results = await asked.results()
    for result in results:
        if isinstance(result, PredictResult):
            context.state.metrics.predicted(result.inside_word, result.network_rows)
    tokens = sum([result.usage.tokens for result in results])
    usage = asked.used(Usage(tokens, sum([result.usage.cached_tokens for result in results])))
    model: Any = asked.loaded.description  # of which the answer has name and version
    return form(model=model, results=results, usage=usage)


@dataclass(slots=True)
class Asked:
    """The queries of one request in the engine."""

    context: RequestContext
    body: Body
    job: Job
    left: float  # seconds to the deadline

    @property
    def loaded(self) -> LoadedModel:
        """The checkpoint that answers, after it has."""
        return self.job.loaded or self.context.state.engine.active

    async def results(self) -> list[Any]:
        """Wait for one result per query.

        Raises:
            Problem: 422 if one query is refused, 504 after the deadline.
            ClientDisconnect: the client hung up.
        """
        job = self.job
        unwatched_seconds = min(UNWATCHED_SECONDS, self.left)
        watchers: list[asyncio.Future[None]] = []
        timer = asyncio.get_running_loop().call_later(
            unwatched_seconds,
            lambda: watchers.append(asyncio.ensure_future(self._watch(unwatched_seconds))),
        )
        try:
            results = await job.future
        except ItemError as error:
            pointer = self.body.pointer(error.cause.field, error.item)
            raise unprocessable(FieldError(pointer, error.cause.message)) from error
        finally:  # also after the deadline: long waits matter most
            timer.cancel()
            for watcher in watchers:
                watcher.cancel()
            if not job.finished:
                self.context.state.engine.cancel(job)
            self.note_timing()
        self.loaded.estimator.remember(job.queries, job.cache_salt)
        return results

    async def _watch(self, waited_seconds: float) -> None:
        """End the wait at the deadline, or if the client hangs up."""
        reason: Exception = ClientDisconnect()
        try:
            async with asyncio.timeout(self.left - waited_seconds):
                while (await self.context.receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            seconds = self.context.state.settings.deadline_seconds
            late = f"not answered within {seconds:g} s; send less at once, or later"
            reason = Problem(504, late)
        if not self.job.future.done():
            self.job.future.set_exception(reason)

    def note_timing(self) -> None:
        """Note the times of the engine so far."""
        self.context.timing = self.job.queue_seconds, self.job.inference_seconds

    def used(self, usage: Usage) -> Usage:
        """Note the tokens of the answer; return what its client may know of them."""
        self.context.usage = usage
        # All clients without a key share cached texts: the count would tell what others typed.
        return usage if self.context.client.name else Usage(usage.tokens)


def submit(
    context: RequestContext,
    body: Body,
    user: str | None,
    prepare: Callable[[list[Query]], list[Query]] = list,
) -> Asked:
    """Hand the queries of one request to the engine, after *prepare* has changed them.

    Raises:
        TooManyRequests, NotReady: the request is not accepted, and not charged.
        Problem: 422 if it is too large.
    """
    settings, engine, client = context.state.settings, context.state.engine, context.client
    if excess := body.excess(settings):
        raise unprocessable(excess)
    queries = prepare(body.queries())
    context.items = count = len(queries)
    cache_salt = client.cache_salt(user)
    works = engine.active.estimator.estimate(queries, cache_salt)
    work_seconds = sum([work.total for work in works]) / 1e6
    if work_seconds > settings.max_work_seconds:
        least = f"is about {work_seconds:.1f} s of work; at most {settings.max_work_seconds:g} s"
        remedy = "are allowed: send fewer texts, blanks or choices, shorter ones, or a lower top_k"
        raise unprocessable(FieldError("", f"{least} {remedy}"))
    left = context.began + settings.deadline_seconds - time.monotonic()
    client.allowance.charge(count, work_seconds)
    try:
        job = engine.submit(queries, works, client.name, left, cache_salt)
    except (TooManyRequests, NotReady):
        client.allowance.refund(count, work_seconds)
        raise
    return Asked(context, body, job, left)


def _docs_page() -> Response:
    """Return the page, with a policy that runs only its own script and style."""
    page = (Path(__file__).parent / "static" / "docs.html").read_text("utf-8")
    policy = (
        "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    for element in ("script", "style"):
        content = page.partition(f"<{element}>")[2].partition(f"</{element}>")[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        policy += f"; {element}-src 'sha256-{digest}'"
    headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}
    return HTMLResponse(page, headers=headers)


_DOCS_PAGE = _docs_page()
