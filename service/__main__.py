"""``python -m service``: settings, socket, server.

Ends with status 0 after a drain, 1 where it cannot serve, 2 where a setting is wrong.
"""

import asyncio
import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from types import FrameType
from typing import NoReturn

import uvicorn
from prometheus_client import CollectorRegistry, start_http_server
from starlette.applications import Starlette

from model.errors import LacunaError
from service.app import Load, create_app
from service.engine import Engine
from service.logs import flush, logging_to_stderr
from service.model_loader import Reloader, load
from service.settings import DEFAULT_CHECKPOINT, Settings, SettingsError, read_settings

log = logging.getLogger("service")

# Connections that the system holds for us while the event loop is busy.
_BACKLOG = 2048
# mallopt's M_ARENA_MAX, of glibc's malloc.h.
_ARENA_MAX = -8
_TRAIN = "; the bundled checkpoint is not there: train one (README.md, 'Train your own'), or name one with --checkpoint"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal.

    Returns:
        Exit status.
    """
    # Until it loads checkpoints: whoever asks for another one too early must not end the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        settings = read_settings(sys.argv[1:] if arguments is None else arguments)
    except SettingsError as error:
        sys.stderr.write(f"lacuna: {error}\n")
        return 2
    _share_heap()
    return serve(settings, partial(load, settings))


def serve(settings: Settings, load_model: Load) -> int:
    """Serve what *load_model* loads, with *settings*, until a signal or a failure.

    Returns:
        Exit status.
    """
    try:
        listener = _bind(settings.host, settings.port)
    except OSError as error:
        return _cannot_bind(settings.host, settings.port, error)
    with logging_to_stderr(settings.log_level), listener, ExitStack() as stack:
        failures: list[Exception] = []
        app = create_app(settings, load_model, lambda error: _fail(server, failures, error))
        if settings.metrics_port is not None:
            try:
                stack.callback(
                    _serve_metrics(
                        settings.host, settings.metrics_port, app.state.lacuna.metrics.registry
                    )
                )
            except OSError as error:
                return _cannot_bind(settings.host, settings.metrics_port, error)
        context = app.state.lacuna
        server = _Server(
            _uvicorn_config(app, settings), context.engine, context.reloader, settings.drain_seconds
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            # Before the server runs and after it: while it does, it has handlers of its own.
            signal.signal(number, lambda *_: end_at_once(1 if failures else 0))
        where = f"http://{_bracketed(settings.host)}:{listener.getsockname()[1]}"
        log.info("listening", extra={"fields": {"address": where}})
        server.run(sockets=[listener])
    if failures:
        sys.stderr.write(
            f"lacuna: cannot serve {settings.checkpoint}: {_reason(failures[0], settings)}\n"
        )
    return 1 if failures else 0


def _share_heap() -> None:
    """Let all threads allocate from one heap, where the C library has a heap for each: what one frees, another can use.

    What the engine reads, the event loop answers with and frees: with two heaps, both grow.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


class _Server(uvicorn.Server):
    """uvicorn, with a time between the signal and the closed door in which new requests are told to go elsewhere.

    A second signal ends the process at once. SIGHUP loads the checkpoint anew.
    """

    def __init__(
        self, config: uvicorn.Config, engine: Engine, reloader: Reloader, drain_seconds: float
    ) -> None:
        super().__init__(config)
        self._engine = engine
        self._reloader = reloader
        self._drain_seconds = drain_seconds
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGHUP, self._reloader.on_sighup)
        await super().startup(sockets)

    def handle_exit(self, _sig: int, _frame: FrameType | None) -> None:
        if self._engine.draining:
            log.warning("stopped without waiting for requests")
            end_at_once(0)
        self._engine.draining = True
        if not self._drain_seconds or self._loop is None:
            self._leave()
            return
        log.info("draining", extra={"fields": {"seconds": self._drain_seconds}})
        self._loop.call_soon_threadsafe(self._loop.call_later, self._drain_seconds, self._leave)

    def _leave(self) -> None:
        # uvicorn's own handler does this too, and raises the signal again in the end, which has been obeyed by then.
        self.should_exit = True


def end_at_once(status: int) -> NoReturn:
    """End the process with its log written, whatever its threads do."""
    flush()
    os._exit(status)


def _uvicorn_config(app: Starlette, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        access_log=False,
        lifespan="on",
        log_config=None,
        server_header=False,
        proxy_headers=False,
        http="httptools",
        ws="none",
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.grace_seconds,
    )


def _bind(host: str, port: int) -> socket.socket:
    """A socket bound to *host*: ours, so that a port in use is told in our words and port 0 can be logged."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)  # from now on a client waits rather than fails
    except OSError:
        bound.close()
        raise
    return bound


def _cannot_bind(host: str, port: int, error: OSError) -> int:
    sys.stderr.write(f"lacuna: cannot bind {host} port {port}: {error.strerror or error}\n")
    return 1


def _serve_metrics(host: str, port: int, registry: CollectorRegistry) -> Callable[[], None]:
    """Serve *registry* on a port and threads of its own, to whoever reaches it; how to end it."""
    server, _ = start_http_server(port, host, registry)
    log.info(
        "metrics",
        extra={"fields": {"address": f"http://{_bracketed(host)}:{server.server_port}/metrics"}},
    )

    def end() -> None:
        server.shutdown()
        server.server_close()

    return end


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _fail(server: uvicorn.Server, failures: list[Exception], error: Exception) -> None:
    failures.append(error)
    server.should_exit = True


def _reason(error: Exception, settings: Settings) -> str:
    """What to tell the operator. Nobody has sent a text yet, so any message may be shown."""
    if not isinstance(error, LacunaError):
        return f"{type(error).__name__}: {error}"
    bundled_missing = settings.checkpoint == DEFAULT_CHECKPOINT and not settings.checkpoint.exists()
    return f"{error}{_TRAIN if bundled_missing else ''}"


if __name__ == "__main__":
    # Not sys.exit: threads that are inside a library then, as where a checkpoint is still being loaded, find the
    # interpreter gone and may abort the process.
    end_at_once(main())
