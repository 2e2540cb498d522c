"""``python -m service``: settings, socket, signals, server.

The exit status is 0 after a drain, 1 if the service cannot serve, 2 if a setting is wrong.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from types import FrameType
from typing import NoReturn, cast

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from model.errors import LacunaError
from service.app import Load, create_app
from service.auth import KeysError
from service.connections import BUFFER_BYTES, Connections
from service.logs import flush, logging_to_stderr
from service.middleware import METRICS
from service.model_loader import load
from service.routes import AppState
from service.settings import Settings, SettingsError, read_settings

log = logging.getLogger("service")

# Connections that the system accepts while the event loop is busy.
_BACKLOG = 2048
# Seconds that a connection may idle: longer than HAProxy keeps it (deploy/haproxy.cfg).
_KEEP_ALIVE_SECONDS = 65


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal; return the exit status."""
    # A SIGHUP before the checkpoint is loaded must not end the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        settings = read_settings(sys.argv[1:] if arguments is None else arguments)
    except SettingsError as error:
        sys.stderr.write(f"lacuna: {error}\n")
        return 2
    return serve(settings, partial(load, settings))


def serve(settings: Settings, load_model: Load) -> int:
    """Serve what *load_model* loads until a signal or a failure; return the exit status."""
    failures: list[Exception] = []

    def on_failure(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    with logging_to_stderr(settings.log_level), ExitStack() as stack:
        host, port = settings.host, settings.port
        try:
            # Bind before uvicorn does: it logs no port number, and clients can wait from now on.
            listeners = [stack.enter_context(_listen(host, port))]
            if settings.metrics_port is not None:
                port = settings.metrics_port
                listeners.append(stack.enter_context(_listen(host, port)))
                found = listeners[1].getsockname()[1]
                settings = settings.model_copy(update={"metrics_port": found})
            app = create_app(settings, load_model, on_failure)
        except KeysError as error:
            sys.stderr.write(f"lacuna: {error}\n")
            return 2
        except OSError as error:
            reason = error.strerror or error
            sys.stderr.write(f"lacuna: cannot bind {host} port {port}: {reason}\n")
            return 1
        server = _Server(app, settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            # Before and after uvicorn runs; while it runs, it has its own handlers.
            signal.signal(number, lambda *_: end_at_once(1 if failures else 0))
        addresses = [_url(host, each.getsockname()[1]) for each in listeners]
        log.info("listening", extra={"fields": {"address": addresses[0]}})
        for address in addresses[1:]:
            log.info("metrics", extra={"fields": {"address": address + METRICS}})
        server.run(sockets=listeners)
    if not failures:
        return 0
    kind = "" if isinstance(failures[0], LacunaError) else f"{type(failures[0]).__name__}: "
    # No request has come yet, so any message may be shown.
    sys.stderr.write(f"lacuna: cannot serve {settings.checkpoint}: {kind}{failures[0]}\n")
    return 1


class _Server(uvicorn.Server):
    """uvicorn with a drain: after the first signal, new requests get 503 for `drain_seconds`.

    A second signal ends the process at once. SIGHUP reloads the checkpoint.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self._state: AppState = app.state.lacuna
        connections = Connections(settings.max_connections, self._state.metrics.ended)
        self._sweep = connections.sweep
        config = uvicorn.Config(
            # FastAPI's own method looks for OpenTelemetry at each request, which takes 5 us.
            cast("ASGIApp", app.middleware_stack),
            interface="asgi3",
            access_log=False,
            lifespan="on",
            log_config=None,
            server_header=False,
            proxy_headers=False,
            http=cast("type[asyncio.Protocol]", connections.accept),
            # asyncio's own loop accepts the whole backlog before it shows the first connection.
            loop="uvloop",
            ws="none",
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=settings.grace_seconds,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._state.reloader.on_sighup)
        await super().startup(sockets)

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # every second
            self._sweep()
            self._state.bodies.trim()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        # Else a request whose client does not read its answer would wait on, however often it is
        # cancelled, and the process with it.
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def handle_exit(self, _sig: int, _frame: FrameType | None) -> None:
        if self._state.engine.draining:
            log.warning("stopped without waiting for requests")
            end_at_once(0)
        self._state.engine.draining = True
        seconds = self._state.settings.drain_seconds
        log.info("draining", extra={"fields": {"seconds": seconds}})
        loop = asyncio.get_running_loop()
        # Not uvicorn's own handler: it raises the signal again, and the status is not 0 then.
        end = partial(setattr, self, "should_exit", True)
        loop.call_soon_threadsafe(loop.call_later, seconds, end)


def end_at_once(status: int) -> NoReturn:
    """End the process with its log written, whatever its threads do.

    With sys.exit, a thread that still loads a checkpoint could abort the process.
    """
    flush()
    os._exit(status)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):  # each connection inherits them
        listener.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    return listener


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


if __name__ == "__main__":
    end_at_once(main())
