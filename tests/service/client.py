"""A client of a service in this process, without sockets: for tests that need an app and not a server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import httpx
from starlette.applications import Starlette

from service.app import create_app
from service.model_loader import LoadedModel
from service.settings import Settings
from tests.service.fakes_service import FakeModel


class Model(Protocol):
    """What an app loads in a test: the fake model, or a real one."""

    def load(self, on_call: Any, /) -> LoadedModel:
        """As `service.app.Load`."""
        ...

    def end(self) -> None:
        """Let go of whatever would keep the app from ending."""
        ...


@asynccontextmanager
async def running(
    model: Model | None = None, *, wait: bool = True, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """An app that runs, by default one that has loaded; its ``app`` is the client's attribute of that name."""
    failures: list[Exception] = []
    model = model or FakeModel()
    app = create_app(Settings(**settings), model.load, failures.append)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            client.app = app  # type: ignore[attr-defined]
            while wait and app.state.lacuna.engine.loaded is None and not failures:
                await asyncio.sleep(0)
            try:
                yield client
            finally:
                model.end()


def app_of(client: httpx.AsyncClient) -> Starlette:
    """The app behind a client of `running`."""
    app: Starlette = client.app  # type: ignore[attr-defined]
    return app


def ask(
    question: Callable[[httpx.AsyncClient], Awaitable[Any]],
    model: Model | None = None,
    **settings: Any,
) -> Any:
    """Run *question* against a fresh app."""

    async def run() -> Any:
        async with running(model, **settings) as client:
            return await question(client)

    return asyncio.run(run())


def post(path: str, body: Any, **settings: Any) -> httpx.Response:
    """One POST to a fresh app."""

    async def question(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(path, json=body)

    response: httpx.Response = ask(question, **settings)
    return response


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until *condition* holds."""
    while not condition():
        await asyncio.sleep(0.001)
