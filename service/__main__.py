"""``python -m service``: settings, socket, signals, server.

The exit status is 0 after a drain, 1 if the service cannot serve, 2 if a setting is wrong.
"""

import asyncio
import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from types import FrameType
from typing import NoReturn

import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, start_http_server

from model.errors import LacunaError
from service.app import Load, create_app
from service.auth import KeysError
from service.logs import flush, logging_to_stderr
from service.model_loader import load
from service.routes import AppState
from service.settings import DEFAULT_CHECKPOINT, Settings, SettingsError, read_settings

log = logging.getLogger("service")

# Connections that the system accepts while the event loop is busy.
_BACKLOG = 2048
# M_ARENA_MAX in glibc's malloc.h.
_ARENA_MAX = -8
_TRAIN = "; train one (README.md, 'Train your own'), or name one with --checkpoint"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal.

    Returns:
        Exit status.
    """
    # A SIGHUP before the checkpoint is loaded must not end the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        settings = read_settings(sys.argv[1:] if arguments is None else arguments)
    except SettingsError as error:
        sys.stderr.write(f"lacuna: {error}\n")
        return 2
    # One heap for all threads: the event loop frees what the engine allocates. With a heap for each
    # thread, both grow.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)
    return serve(settings, partial(load, settings))


def serve(settings: Settings, load_model: Load) -> int:
    """Serve what *load_model* loads, with *settings*, until a signal or a failure.

    Returns:
        Exit status.
    """
    failures: list[Exception] = []

    def on_failure(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    with logging_to_stderr(settings.log_level), ExitStack() as stack:
        try:
            app = create_app(settings, load_model, on_failure)
        except KeysError as error:
            sys.stderr.write(f"lacuna: {error}\n")
            return 2
        state: AppState = app.state.lacuna
        try:
            with _binding(settings.host, settings.port):
                listener = stack.enter_context(_bind(settings.host, settings.port))
            if settings.metrics_port is not None:
                _serve_metrics(stack, settings.host, settings.metrics_port, state.metrics.registry)
        except SettingsError as error:
            sys.stderr.write(f"lacuna: {error}\n")
            return 1
        server = _Server(app, settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            # Before and after uvicorn runs; while it runs, it has its own handlers.
            signal.signal(number, lambda *_: end_at_once(1 if failures else 0))
        address = _url(settings.host, listener.getsockname()[1])
        log.info("listening", extra={"fields": {"address": address}})
        server.run(sockets=[listener])
    if failures:
        reason = _reason(failures[0], settings)
        sys.stderr.write(f"lacuna: cannot serve {settings.checkpoint}: {reason}\n")
    return 1 if failures else 0


class _Server(uvicorn.Server):
    """uvicorn with a drain: after the first signal, new requests get 503 for `drain_seconds`.

    A second signal ends the process at once. SIGHUP reloads the checkpoint.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        config = uvicorn.Config(
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
        super().__init__(config)
        self._state: AppState = app.state.lacuna
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGHUP, self._state.reloader.on_sighup)
        await super().startup(sockets)

    def handle_exit(self, _sig: int, _frame: FrameType | None) -> None:
        if self._state.engine.draining:
            log.warning("stopped without waiting for requests")
            end_at_once(0)
        self._state.engine.draining = True
        seconds = self._state.settings.drain_seconds
        if not seconds or self._loop is None:
            self._leave()
            return
        log.info("draining", extra={"fields": {"seconds": seconds}})
        self._loop.call_soon_threadsafe(self._loop.call_later, seconds, self._leave)

    def _leave(self) -> None:
        # uvicorn's own handler raises the signal again after the drain: the status is not 0 then.
        self.should_exit = True


def end_at_once(status: int) -> NoReturn:
    """End the process with its log written, whatever its threads do.

    With sys.exit, a thread that still loads a checkpoint could abort the process.
    """
    flush()
    os._exit(status)


@contextmanager
def _binding(host: str, port: int) -> Iterator[None]:
    """Name host and port in the error of a port that cannot be bound."""
    try:
        yield
    except OSError as error:
        raise SettingsError(f"cannot bind {host} port {port}: {error.strerror or error}") from None


def _serve_metrics(stack: ExitStack, host: str, port: int, registry: CollectorRegistry) -> None:
    """Serve *registry* on its own port and threads, without keys, until *stack* ends."""
    with _binding(host, port):
        server, _ = start_http_server(port, host, registry)
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    address = f"{_url(host, server.server_port)}/metrics"
    log.info("metrics", extra={"fields": {"address": address}})


def _bind(host: str, port: int) -> socket.socket:
    """Bind before uvicorn does: it logs no port number, and clients can wait from now on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _reason(error: Exception, settings: Settings) -> str:
    """Describe a failed load. No request has come yet, so any message may be shown."""
    if not isinstance(error, LacunaError):
        return f"{type(error).__name__}: {error}"
    bundled_missing = settings.checkpoint == DEFAULT_CHECKPOINT and not settings.checkpoint.exists()
    return f"{error}{_TRAIN if bundled_missing else ''}"


if __name__ == "__main__":
    end_at_once(main())
