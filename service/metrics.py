"""Prometheus series of the service, each declared once.

Labels come from closed sets, so that no client can add series. Label sets are created at the start,
so that a rate is 0, and not absent, before the first request.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, product
from typing import TYPE_CHECKING, Any, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
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
Counts = dict[Any, int]  # by label


class Metrics:
    """The series of one service, and a method for each event that changes some of them."""

    def __init__(self) -> None:
        # Not the global one, so that two services can run in one process.
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_Series(_lost_lines))
        # Two threads count calls: the engine's, and one that loads.
        text = "Rows of a network call."
        calls = Histogram("lacuna_batch_rows", text, ["call"], registry=registry, buckets=ROWS)
        text = "Tokens read, or rows scored by heads."
        rows = Counter("lacuna_network_rows", text, ["call"], registry=registry)
        self._calls = {call: (calls.labels(call), rows.labels(call)) for call in CALLS}
        self._model = Info("lacuna_model", "The checkpoint that answers.", registry=registry)
        answers = [(route, 200) for route in ROUTES] + [(UNMATCHED, 404)]
        answers += product(QUESTIONS, (*TITLES, CLIENT_CLOSED))
        count, times = partial(_counts, registry), partial(_times, registry)
        self._requests = count("requests", "Requests answered.", "route status", answers)
        self._times = [
            times("request", "Time from a request to its answer."),
            times("queue", "Time that requests waited for the engine."),
            times("inference", "Time that the engine worked on requests."),
        ]
        self._refusals = count(
            "refusals", "Requests answered with 429.", "reason", get_args(Reason)
        )
        text = "Tokens of requests."
        self._tokens = count("prefix_cache_tokens", text, "result", ["hit", "miss"])
        stops = ["elsewhere", "inside_word"]
        self._texts = count("predicted_texts", "Texts of /predict.", "stops", stops)
        self._rows = count("predicted_rows", "Network rows of these texts.", "stops", stops)
        text = "Connections ended at once."
        self._ended = count("connections_ended", text, "reason", get_args(EndReason))
        text = "Checkpoint loads after the start."
        self._reloads = count("reloads", text, "outcome", ["failure", "success"])

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
        route = context.route
        self._requests[route, context.status] += 1
        if route in QUESTIONS:
            for all_times, each in zip(self._times, (seconds, *context.timing), strict=False):
                times = all_times[route]
                times[bisect_left(SECONDS, each)] += 1
                times[-1] += each
        if usage := context.usage:
            self._tokens["hit"] += usage.cached_tokens
            self._tokens["miss"] += max(0, usage.tokens - usage.cached_tokens)

    def refused(self, reason: Reason) -> None:
        """Count a request that got 429."""
        self._refusals[reason] += 1

    def ended(self, reason: EndReason) -> None:
        """Count a connection that a client lost."""
        self._ended[reason] += 1

    def predicted(self, inside_word: bool, network_rows: int) -> None:
        """Count one text of /predict, and the rows that the network computed for it."""
        stops = "inside_word" if inside_word else "elsewhere"
        self._texts[stops] += 1
        self._rows[stops] += network_rows

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
        self._reloads["success" if success else "failure"] += 1


@dataclass(frozen=True, eq=False)
class _Series(Collector):
    """Series of plain numbers, which the event loop alone changes: a lock would cost more."""

    collect: Callable[[], Iterable[Metric]]


def _counts(
    registry: CollectorRegistry, name: str, text: str, labels: str, values: Iterable[Any]
) -> Counts:
    """Return a counter for each of *values*, or tuples of values, of *labels*."""
    counts: Counts = defaultdict(int, dict.fromkeys(values, 0))

    def collect() -> Iterator[Metric]:
        family = CounterMetricFamily(f"lacuna_{name}", text, labels=labels.split())
        for key, count in counts.items():
            family.add_metric(list(map(str, key if isinstance(key, tuple) else [key])), count)
        yield family

    registry.register(_Series(collect))
    return counts


def _times(registry: CollectorRegistry, name: str, text: str) -> dict[str, list[float]]:
    """Return for each question the counts of `SECONDS`, then that of longer times, and the sum."""
    times = {route: [0.0] * (len(SECONDS) + 2) for route in QUESTIONS}

    def collect() -> Iterator[Metric]:
        family = HistogramMetricFamily(f"lacuna_{name}_seconds", text, labels=["route"])
        for route, (*counts, total) in times.items():
            bounds = [*map(str, SECONDS), "+Inf"]
            family.add_metric([route], list(zip(bounds, accumulate(counts), strict=True)), total)
        yield family

    registry.register(_Series(collect))
    return times


def _lost_lines() -> Iterator[Metric]:
    text = "Log lines that could not be written."
    yield CounterMetricFamily("lacuna_log_lines_lost", text, value=lines_lost())
