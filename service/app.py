"""Put the service together: settings and a load function in, an ASGI app out."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import copy
from functools import cache, partial
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware

from service import completions, hugging_face, routes
from service.admission import Admission
from service.auth import KeyRing
from service.engine import Engine
from service.metrics import Metrics
from service.middleware import Front
from service.model_loader import LoadedModel, Reloader
from service.openapi import describe
from service.pages import pages
from service.requests import BodyReader, JSONRoute
from service.settings import Settings

log = logging.getLogger(__name__)

# Loads the checkpoint; passes its argument on to `model.batching.Scheduler`.
Load = Callable[[Callable[[str, int, int], None]], LoadedModel]

# Headers that pages of other origins may send.
_SENT = ("Authorization", "Content-Type", "Traceparent", "Tracestate", "X-Request-Id", "X-Writer")


def create_app(settings: Settings, load: Load, on_failure: Callable[[Exception], None]) -> FastAPI:
    """Build the service: its `AppState` is ``app.state.lacuna``, its keys are ``app.state.keys``.

    *load* is called on the engine's thread once the app runs; until it returns, the app answers
    503. A reload calls it again, on another thread. If the first call raises an error, *on_failure*
    gets it on the event loop.
    """
    metrics = Metrics()

    def on_loaded(outcome: LoadedModel | Exception) -> None:
        if isinstance(outcome, Exception):
            on_failure(outcome)
            return
        metrics.loaded(outcome.identity)
        log.info("ready", extra={"fields": outcome.identity})

    keys = KeyRing(
        [key.get_secret_value() for key in settings.keys],
        settings.keys_file,
        (settings.texts_per_minute, settings.work_seconds_per_minute),
    )
    engine = Engine(
        partial(load, metrics.called),
        admission=Admission(settings.queue_items, settings.batch_items, lambda: keys.is_shared),
        batch_items=settings.batch_items,
        stall_seconds=settings.stall_seconds,
        on_loaded=on_loaded,
    )
    reloader = Reloader(partial(load, metrics.called), engine, metrics, settings.load_seconds)
    metrics.watch(engine, keys)
    app = FastAPI(
        routes=[_with_head(route) for route in _routes()],
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    app.state.lacuna = routes.AppState(settings, engine, reloader, metrics, BodyReader(settings))
    answers = {each.path: each.answer for each in app.routes if isinstance(each, JSONRoute)}
    app.middleware_stack = Front(app, answers, app.state.lacuna, keys)
    if settings.allowed_origins:  # CORS answers preflights, and lets pages read errors too
        app.middleware_stack = CORSMiddleware(
            app.middleware_stack,
            allow_origins=settings.allowed_origins,
            allow_methods=("GET", "POST"),
            allow_headers=_SENT,
            expose_headers=("Retry-After", "Server-Timing", "X-Request-Id"),
        )
    app.state.keys = keys
    app.openapi = lambda: _document(settings.metrics_port is None)  # type: ignore[method-assign]
    return app


def _routes(with_metrics: bool = True) -> list[APIRoute]:
    routers = (
        *(routes.asking, completions.completing, hugging_face.filling),
        *(completions.listing, routes.administration, routes.reading, routes.probing, pages),
    )
    declared = [route for router in routers for route in router.routes]
    found = [route for route in declared if isinstance(route, APIRoute)]
    return [route for route in found if with_metrics or route.path != "/metrics"]


def _with_head(route: APIRoute) -> APIRoute:
    """Return a copy that answers HEAD if it answers GET. FastAPI would document HEAD."""
    route = copy(route)
    route.methods = {"GET", "HEAD"} if route.methods == {"GET"} else route.methods
    return route


@cache
def _document(with_metrics: bool) -> dict[str, Any]:
    return describe(_routes(with_metrics))


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    engine: Engine = app.state.lacuna.engine
    engine.start()
    app.state.keys.watch()
    try:
        yield
    finally:
        app.state.keys.close()
        engine.draining = True
        await asyncio.shield(engine.stop())
