"""Puts the service together: settings and a load function in, an ASGI app out. Nothing happens on import."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from service import openapi
from service.admission import Admission
from service.docs_page import docs_page
from service.engine import Engine
from service.errors import as_problem, problem_response
from service.jobs import LoadedModel
from service.keyring import KeyRing
from service.metrics import Metrics
from service.middleware import AuthMiddleware, HostMiddleware, RequestMetricsMiddleware
from service.reloading import Reloader, collect
from service.request_context import RequestContext
from service.routes import AppState, router
from service.settings import Settings

log = logging.getLogger(__name__)

# Loads a checkpoint; is given what to call with the kind and the rows of each call of the network, and the directory.
Load = Callable[[Callable[[str, int], None], Path], LoadedModel]


def create_app(
    settings: Settings, load: Load, on_failure: Callable[[Exception], None]
) -> Starlette:
    """Build the service.

    Args:
        settings: checked settings.
        load: called once the app runs, on the engine's thread; the app answers 503 until it returns. Called again, on
            another thread, where the checkpoint is to be replaced.
        on_failure: called on the event loop with what *load* raised.

    Returns:
        The app; its engine is ``app.state.lacuna.engine`` and its keys are ``app.state.keys``.
    """
    metrics = Metrics(CollectorRegistry())

    def on_loaded(outcome: LoadedModel | Exception) -> None:
        if isinstance(outcome, Exception):
            metrics.loaded(None)
            on_failure(outcome)
        else:
            metrics.loaded(outcome.description)
            log.info(
                "ready",
                extra={
                    "fields": {
                        key: outcome.description[key] for key in ("name", "version", "digest")
                    }
                },
            )

    engine = Engine(
        lambda: load(metrics.called, settings.checkpoint),
        admission=Admission(settings.queue_items, settings.limits),
        batch_items=settings.batch_items,
        stall_seconds=settings.stall_seconds,
        on_loaded=on_loaded,
        on_step=metrics.stepped,
        on_let_go=collect,
    )
    reloader = Reloader(partial(load, metrics.called), engine, metrics, settings.checkpoint)
    metrics.watch(
        depth=lambda: engine.waiting,
        work_seconds=lambda: engine.admission.seconds,
        ready=lambda: engine.accepting,
        cache_bytes=engine.cache_bytes,
    )
    keys = KeyRing(settings, metrics.keys_reloaded)
    declared = [
        route
        for route in router.routes
        if isinstance(route, APIRoute)
        and (route.path != "/metrics" or settings.metrics_port is None)
    ]
    app = Starlette(
        routes=_routes(declared),
        middleware=[*_cors(settings), *_surroundings(settings, metrics, keys)],
        exception_handlers={HTTPException: _unrouted},
        lifespan=_lifespan,
    )
    app.router.redirect_slashes = False
    app.state.lacuna = AppState(
        settings, engine, reloader, metrics, docs_page(), to_json(openapi.describe(declared))
    )
    app.state.keys = keys
    return app


def _routes(declared: Sequence[APIRoute]) -> list[BaseRoute]:
    """The routes without FastAPI's part in them.

    It has read their declarations for the document; what it would do for each request (resolve parameters, open exit
    stacks) they do not need, as they read requests themselves, and it takes half of a request's time.
    """
    return [
        Route(route.path, route.endpoint, methods=list(route.methods or ())) for route in declared
    ]


def _surroundings(settings: Settings, metrics: Metrics, keys: KeyRing) -> list[Middleware]:
    return [
        Middleware(RequestMetricsMiddleware, metrics=metrics),
        Middleware(HostMiddleware, host=settings.host, allowed=settings.allowed_hosts),
        Middleware(AuthMiddleware, keys=keys, host=settings.host, allowed=settings.allowed_hosts),
    ]


def _cors(settings: Settings) -> list[Middleware]:
    """Lets pages of the allowed origins ask. Outermost, so that they can read errors too; preflights end here."""
    if not settings.allowed_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=("GET", "POST"),
            allow_headers=(
                "Authorization",
                "Content-Type",
                "Traceparent",
                "Tracestate",
                "X-Request-Id",
            ),
            expose_headers=("Retry-After", "Server-Timing", "X-Request-Id"),
        )
    ]


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    engine: Engine = app.state.lacuna.engine
    engine.start()
    watching = asyncio.ensure_future(app.state.keys.watch())
    try:
        yield
    finally:
        watching.cancel()
        engine.draining = True
        await asyncio.shield(engine.stop())


async def _unrouted(request: Request, error: Exception) -> Response:
    """404 and 405, which the router raises where no middleware of ours can catch them."""
    return problem_response(as_problem(error), RequestContext.of(request.scope).request_id)
