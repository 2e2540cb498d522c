"""Prometheus series of the service, each declared once.

Labels come from closed sets, so that no client can add series. Label sets are created at the start,
so that a rate is 0, and not absent, before the first request.
"""

import functools
from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from service.admission import Reason
from service.connections import Reason as EndReason
from service.errors import CLIENT_CLOSED, TITLES
from service.logs import lines_lost
from service.pages import PAGES

if TYPE_CHECKING:
    from service.auth import KeyRing
    from service.engine import Engine
    from service.middleware import RequestContext

# A cached keystroke takes less than a millisecond, a long new text seconds.
SECONDS = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
ROWS = tuple(2**power for power in range(11))
# Kinds of network call: two towers, three heads, and whole lines of a stacked network.
CALLS = ("forward", "backward", "next", "previous", "gap", "fill")
QUESTIONS = ("/predict", "/cloze", "/score", "/v1/completions", "/hf/fill-mask")
ROUTES = (
    *QUESTIONS, "/v1/models", "/v1/models/{id}", "/model", "/livez", "/readyz", "/metrics", "/docs",
    "/openapi.json", "/admin/reload", *PAGES,
)  # fmt: skip
UNMATCHED = "unmatched"


class Metrics:
    """The series of one service, and a method for each event that changes some of them."""

    def __init__(self) -> None:
        # Not the global one, so that two services can run in one process.
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_LostLines())
        counter = functools.partial(_Counter, registry=registry)
        timer = functools.partial(_Timer, registry=registry, labelnames=["route"], buckets=SECONDS)
        requests = counter("lacuna_requests", "Requests answered.", ["route", "status"])
        timers = [
            timer(f"lacuna_{name}_seconds", text)
            for name, text in (
                ("request", "Time from a request to its answer."),
                ("queue", "Time that requests waited for the engine."),
                ("inference", "Time that the engine worked on requests."),
            )
        ]
        # Two threads count calls: the engine's, and one that loads.
        text = "Rows of a network call."
        calls = Histogram("lacuna_batch_rows", text, ["call"], registry=registry, buckets=ROWS)
        text = "Tokens read, or rows scored by heads."
        rows = Counter("lacuna_network_rows", text, ["call"], registry=registry)
        refusals = counter("lacuna_refusals", "Requests answered with 429.", ["reason"])
        tokens = counter("lacuna_prefix_cache_tokens", "Tokens of requests.", ["result"])
        texts = counter("lacuna_predicted_texts", "Texts of /predict.", ["stops"])
        text_rows = counter("lacuna_predicted_rows", "Network rows of these texts.", ["stops"])
        ended = counter("lacuna_connections_ended", "Connections ended at once.", ["reason"])
        reloads = counter("lacuna_reloads", "Checkpoint loads after the start.", ["outcome"])
        self._model = Info("lacuna_model", "The checkpoint that answers.", registry=registry)
        # To find a label set costs more than to count in it.
        self._requests = functools.cache(requests.labels)
        self._timers = {route: [each.labels(route) for each in timers] for route in QUESTIONS}
        self._calls = {call: (calls.labels(call), rows.labels(call)) for call in CALLS}
        self._refusals = {reason: refusals.labels(reason) for reason in get_args(Reason)}
        self._ended = {reason: ended.labels(reason) for reason in get_args(EndReason)}
        self._hits, self._misses = tokens.labels("hit"), tokens.labels("miss")
        self._predicted = [
            (texts.labels(stops), text_rows.labels(stops)) for stops in ("elsewhere", "inside_word")
        ]
        self._reloads = [reloads.labels(outcome) for outcome in ("failure", "success")]
        for route in ROUTES:
            for status in (200, *TITLES, CLIENT_CLOSED) if route in QUESTIONS else (200,):
                self._requests(route, status)
        self._requests(UNMATCHED, 404)

    def watch(self, engine: "Engine", keys: "KeyRing") -> None:
        """Read the state of engine and keys whenever Prometheus asks."""
        admission, registry = engine.admission, self.registry
        for name, text, value in (
            ("queue_depth", "Texts that wait for the engine.", lambda: admission.waiting),
            ("queue_work_seconds", "Estimated work in the engine.", lambda: admission.wait_seconds),
            (
                "prefix_cache_bytes",
                "Size of the prefix cache.",
                lambda: engine.loaded.predictor.cache.bytes if engine.loaded else 0,
            ),
            ("ready", "1 while requests are accepted.", lambda: engine.not_ready_reason is None),
            ("keys_current", "1 while the keys file is in force.", lambda: keys.is_current),
        ):
            Gauge(f"lacuna_{name}", text, registry=registry).set_function(value)

    def finished(self, context: "RequestContext", seconds: float) -> None:
        """Count a request and the tokens of its answer."""
        self._requests(context.route, context.status).inc()
        if context.route in QUESTIONS:
            request, queue, inference = self._timers[context.route]
            request.observe(seconds)
            if context.timing:
                queue.observe(context.timing[0])
                inference.observe(context.timing[1])
        if usage := context.usage:
            self._hits.inc(usage.cached_tokens)
            self._misses.inc(max(0, usage.tokens - usage.cached_tokens))

    def refused(self, reason: Reason) -> None:
        """Count a request that got 429."""
        self._refusals[reason].inc()

    def ended(self, reason: EndReason) -> None:
        """Count a connection that a client lost."""
        self._ended[reason].inc()

    def predicted(self, inside_word: bool, network_rows: int) -> None:
        """Count one text of /predict, and the rows that the network computed for it."""
        texts, rows = self._predicted[inside_word]
        texts.inc()
        rows.inc(network_rows)

    def called(self, call: str, rows: int, network_rows: int) -> None:
        """Count one call of the network, the rows that shared it, and the tokens in these."""
        calls, all_rows = self._calls[call]
        calls.observe(rows)
        all_rows.inc(network_rows)

    def loaded(self, identity: dict[str, str]) -> None:
        """Show name, version and digest of the checkpoint that answers."""
        self._model.info(identity)

    def reloaded(self, success: bool) -> None:
        """Count a reload."""
        self._reloads[success].inc()


class _Counter(Counter):
    """A counter that the event loop alone changes, so that it needs no lock."""

    def inc(self, amount: float = 1, exemplar: Any = None) -> None:  # noqa: ARG002
        """Add to the count."""
        self._value._value += amount


class _Timer(Histogram):
    """A histogram that the event loop alone changes."""

    def observe(self, amount: float, exemplar: Any = None) -> None:  # noqa: ARG002
        """Count a time in seconds."""
        self._sum._value += amount
        self._buckets[bisect_left(SECONDS, amount)]._value += 1


class _LostLines(Collector):
    """A counter whose count the log keeps."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Return the count now."""
        yield CounterMetricFamily(
            "lacuna_log_lines_lost", "Log lines that could not be written.", value=lines_lost()
        )
