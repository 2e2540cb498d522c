"""A client of a service in this process, without sockets: for tests that need no server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx

from service.app import create_app
from service.auth import hash_key
from service.engine import Engine
from service.model_loader import load
from service.settings import Settings
from tests.service.fakes_service import FakeModel

# A setting, and the address of the metrics with it. Without keys, they are nowhere else.
METRICS_PORT = 9
METRICS = f"http://localhost:{METRICS_PORT}/metrics"
Question = Callable[[httpx.AsyncClient], Awaitable[Any]]


@asynccontextmanager
async def running(
    model: Any = None, *, wait: bool = True, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """Run an app, by default until it has loaded; `app_of` returns it.

    Args:
        model: has `load`, as `service.app.Load`, and `end`, which releases texts that are held.
        wait: until it has loaded.
        settings: of `Settings`.
    """
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


@contextmanager
def synchronous(model: Any = None, **settings: Any) -> Iterator[Callable[..., httpx.Response]]:
    """Run an app as a plain function of method, path and options, for tests of many examples."""
    with asyncio.Runner() as runner:
        app = running(model, **settings)
        client = runner.run(app.__aenter__())
        yield lambda *request, **options: runner.run(client.request(*request, **options))
        runner.run(app.__aexit__(None, None, None))


def real_model(checkpoint: Path, **settings: Any) -> Any:
    """Return a model that loads *checkpoint* as the service does with these settings."""
    given = Settings(threads=1, device="cpu", checkpoint=checkpoint, **settings)
    return SimpleNamespace(load=lambda on_call: load(given, on_call), end=lambda: None)


def app_of(client: httpx.AsyncClient) -> Any:
    """Return the app behind a client of `running`."""
    return client.app  # type: ignore[attr-defined]


def engine_of(client: httpx.AsyncClient) -> Engine:
    """Return the engine behind a client of `running`."""
    engine: Engine = app_of(client).state.lacuna.engine
    return engine


def ask(question: Question, model: Any = None, **settings: Any) -> Any:
    """Run *question* against a new app."""

    async def run() -> Any:
        async with running(model, **settings) as client:
            return await question(client)

    return asyncio.run(run())


def get(path: str, headers: Any = None, **settings: Any) -> httpx.Response:
    """Send one GET to a new app."""
    response: httpx.Response = ask(lambda client: client.get(path, headers=headers), **settings)
    return response


def post(path: str, body: Any, **settings: Any) -> httpx.Response:
    """Send one POST to a new app."""
    response: httpx.Response = ask(lambda client: client.post(path, json=body), **settings)
    return response


def key_entry(name: str, more: str = "", token: str = "") -> str:
    """Return an entry of a keys file for the key *token*, by default ``token of NAME``."""
    digest = hash_key((token or f"token of {name}").encode()).hex()
    return f'[[key]]\nname = "{name}"\nsha256 = "{digest}"\n{more}\n'


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until *condition* holds."""
    while not condition():
        await asyncio.sleep(0.001)
