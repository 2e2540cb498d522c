"""The service on Ray Serve. From the root of the repository: ``serve run deploy.ray.app:app``.

The settings are those of the service (``LACUNA_*``), except its port. See docs/operations.md.
"""

import asyncio
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

from fastapi import FastAPI
from prometheus_client import start_http_server
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

from service.app import create_app
from service.logs import logging_to_stderr
from service.model_loader import load
from service.settings import read_settings


def build() -> FastAPI:
    """Return the app of one replica. It serves metrics on the first free port from metrics_port."""
    settings = read_settings([])
    failures: list[Exception] = []
    app = create_app(settings, partial(load, settings), failures.append)
    app.state.failures, app.state.logging = failures, logging_to_stderr(settings.log_level)
    app.state.logging.__enter__()
    for port in count(settings.metrics_port) if settings.metrics_port else ():
        with suppress(OSError):  # another replica on this machine has the port
            start_http_server(port, settings.host, app.state.lacuna.metrics.registry)
            break
    return app


@serve.deployment(
    # Further requests wait in Ray, which knows nothing of keys and deadlines.
    max_ongoing_requests=128,
    autoscaling_config={"min_replicas": 2, "max_replicas": 8, "target_ongoing_requests": 16},
    # All requests of a writer go to one replica, which has their texts in its cache.
    request_router_config=RequestRouterConfig(request_router_class=ConsistentHashRouter),
)
@serve.ingress(build)
class Lacuna:
    """One replica."""

    async def check_health(self) -> None:
        """Wait until the checkpoint is loaded. An error makes Ray replace the replica."""
        engine = self.app.state.lacuna.engine
        while engine.loaded is None and not self.app.state.failures:
            await asyncio.sleep(0.1)
        if self.app.state.failures or not engine.is_alive:
            raise next(iter(self.app.state.failures), RuntimeError("the engine is stuck"))

    async def reload(self) -> Any:
        """Load the checkpoint again; ``broadcast`` calls this on every replica."""
        return await self.app.state.lacuna.reloader.reload()


app = Lacuna.bind()
