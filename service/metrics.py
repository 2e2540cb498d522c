"""What Prometheus reads: every series declared once. Labels come from closed sets, so that no client can add series.

Label sets are created beforehand, so that a rate is 0, and not absent, before the first request.
"""

import functools
from collections import Counter as RowCounts
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from service.errors import CLIENT_CLOSED, TITLES
from service.logs import lines_lost
from service.request_context import ROUTES, UNMATCHED, RequestContext

# A cached keystroke takes less than a millisecond, a cold page of text seconds: 0.25 ms to 10 s.
SECONDS = (
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
# The kinds of network call: two towers that read, three heads that score, whole lines of a stacked network.
CALLS = ("forward", "backward", "next", "previous", "gap", "fill")
ASKING = ("/predict", "/cloze", "/score")
# Why a request gets 429: the engine has no room (service.admission), or a key is over its rate (service.rate_limit).
REASONS = ("queue_full", "deadline", "rate_requests", "rate_characters")


class Metrics:
    """Lacuna's series.

    Args:
        registry: where they are registered; never the global one, so that two services can live in one process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "lacuna_requests", "Requests answered.", ("route", "status"), registry=registry
        )
        self._seconds = _histogram(
            "lacuna_request_seconds", "First byte of a request to its answer.", registry
        )
        self._queue = _histogram("lacuna_queue_seconds", "Wait for the engine.", registry)
        self._inference = _histogram(
            "lacuna_inference_seconds", "The engine's work on a request.", registry
        )
        self._batch = Histogram(
            "lacuna_batch_rows", "Rows of one call.", ("call",), buckets=ROWS, registry=registry
        )
        self._rows = Counter(
            "lacuna_network_rows",
            "Tokens read (towers) or rows scored (heads).",
            ("call",),
            registry=registry,
        )
        self._depth = Gauge(
            "lacuna_queue_depth", "Texts that wait for the engine.", registry=registry
        )
        self._work = Gauge(
            "lacuna_queue_work_seconds",
            "Estimated seconds of work that waits or is being done.",
            registry=registry,
        )
        self._refusals = Counter(
            "lacuna_refusals", "Requests answered 429, by reason.", ("reason",), registry=registry
        )
        self._tokens = Counter(
            "lacuna_prefix_cache_tokens",
            "Tokens that requests came to, by cache result.",
            ("result",),
            registry=registry,
        )
        self._predicted = Counter(
            "lacuna_predicted_texts",
            "Texts of /predict, by where they stop.",
            ("stops",),
            registry=registry,
        )
        self._predicted_rows = Counter(
            "lacuna_predicted_rows",
            "Network rows of /predict, by where its texts stop.",
            ("stops",),
            registry=registry,
        )
        self._cache_bytes = Gauge(
            "lacuna_prefix_cache_bytes", "Bytes of cached states.", registry=registry
        )
        self._info = Info("lacuna_model", "The checkpoint that answers.", registry=registry)
        self._loads = Counter(
            "lacuna_loads", "Checkpoint loads at start.", ("outcome",), registry=registry
        )
        self._reloads = Counter(
            "lacuna_reloads", "Checkpoint loads after start.", ("outcome",), registry=registry
        )
        self._keys_reloads = Counter(
            "lacuna_keys_reloads", "Changes of the keys file.", ("result",), registry=registry
        )
        self._keys_current = Gauge(
            "lacuna_keys_current",
            "1 while the keys in force are those of the keys file.",
            registry=registry,
        )
        self._keys_current.set(1)
        self._ready = Gauge("lacuna_ready", "1 while requests are accepted.", registry=registry)
        registry.register(_LogLinesLost())
        # Finding a label set costs more than counting in it, so those of every request are kept.
        histograms = (self._seconds, self._queue, self._inference)
        self._times = {
            route: [histogram.labels(route) for histogram in histograms] for route in ASKING
        }
        self._keystrokes = [
            (self._predicted.labels(stops), self._predicted_rows.labels(stops))
            for stops in ("elsewhere", "inside_word")
        ]
        self._hits, self._misses = self._tokens.labels("hit"), self._tokens.labels("miss")
        self._calls = {call: (self._batch.labels(call), self._rows.labels(call)) for call in CALLS}
        self._counter = functools.cache(
            lambda route, status: self._requests.labels(route, str(status))
        )
        self._create_label_sets()

    def _create_label_sets(self) -> None:
        for route in (*ROUTES, UNMATCHED):
            statuses = (
                (200, *TITLES, CLIENT_CLOSED)
                if route in ASKING
                else (404,)
                if route == UNMATCHED
                else (200,)
            )
            for status in statuses:
                self._counter(route, status)
        for reason in REASONS:
            self._refusals.labels(reason)
        for result in ("ok", "failed"):
            self._keys_reloads.labels(result)
        for outcome in ("success", "failure"):
            self._loads.labels(outcome)
            self._reloads.labels(outcome)

    def watch(
        self,
        depth: Callable[[], int],
        work_seconds: Callable[[], float],
        ready: Callable[[], bool],
        cache_bytes: Callable[[], int],
    ) -> None:
        """Read queue, readiness and the cache's size when Prometheus asks, not when they change."""
        self._depth.set_function(depth)
        self._work.set_function(work_seconds)
        self._ready.set_function(ready)
        self._cache_bytes.set_function(cache_bytes)

    def finished(self, context: RequestContext, seconds: float) -> None:
        """Count one request."""
        self._counter(context.route, context.status).inc()
        if context.route in ASKING:
            request, queue, inference = self._times[context.route]
            request.observe(seconds)
            if context.queue_seconds is not None and context.inference_seconds is not None:
                queue.observe(context.queue_seconds)
                inference.observe(context.inference_seconds)

    def refused(self, reason: str) -> None:
        """Count a request that was refused for one of `REASONS`."""
        self._refusals.labels(reason).inc()

    def keys_reloaded(self, good: bool) -> None:
        """Count a change of the keys file, and show whether it is in force."""
        self._keys_reloads.labels("ok" if good else "failed").inc()
        self._keys_current.set(good)

    def used(self, tokens: int, cached_tokens: int) -> None:
        """Count an answer's tokens."""
        self._hits.inc(cached_tokens)
        self._misses.inc(max(0, tokens - cached_tokens))

    def predicted(self, inside_word: bool, network_rows: int) -> None:
        """Count one text of /predict, and what the network computed for it."""
        texts, rows = self._keystrokes[inside_word]
        texts.inc()
        rows.inc(network_rows)

    def called(self, call: str, rows: int) -> None:
        """Count one call of the network, with the rows that shared it."""
        self._calls[call][0].observe(rows)

    def stepped(self, rows: RowCounts[str]) -> None:
        """Count the network rows of one engine step."""
        for call, count in rows.items():
            self._calls[call][1].inc(count)

    def loaded(self, description: dict[str, Any] | None) -> None:
        """Count a load at start, and show what was loaded; None where it failed."""
        self._loads.labels("failure" if description is None else "success").inc()
        if description is not None:
            self._show(description)

    def reloaded(self, description: dict[str, Any] | None) -> None:
        """Count a load after start, and show what answers now; None where it failed."""
        self._reloads.labels("failure" if description is None else "success").inc()
        if description is not None:
            self._show(description)

    def _show(self, description: dict[str, Any]) -> None:
        self._info.info({key: description[key] for key in ("name", "version", "digest")})


def _histogram(name: str, text: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(name, text, ("route",), buckets=SECONDS, registry=registry)


class _LogLinesLost(Collector):
    """A counter whose count the log keeps: a signal's handler may log, and no handler may wait for a counter's lock."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The count now."""
        yield CounterMetricFamily(
            "lacuna_log_lines_lost", "Log lines that could not be written.", value=lines_lost()
        )
