"""Tests of service/metrics.py."""

from types import SimpleNamespace
from typing import Any

import httpx
from prometheus_client import CollectorRegistry, Histogram

from service.metrics import SECONDS, Metrics
from tests.service.client import METRICS, METRICS_PORT, ask


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Return one sample."""
    return metrics.registry.get_sample_value(name, labels)


def test_series_exist_before_the_first_request() -> None:
    """Every label set is 0 from the start, so that rates are 0 and not absent."""
    metrics = Metrics()
    calls, routes = "forward backward next previous gap fill", "/predict /cloze /score"
    for name, label, values in (
        ("lacuna_network_rows_total", "call", calls),
        ("lacuna_batch_rows_count", "call", calls),
        ("lacuna_prefix_cache_tokens_total", "result", "hit miss"),
        ("lacuna_refusals_total", "reason", "queue_full deadline rate_requests rate_work"),
        ("lacuna_reloads_total", "outcome", "success failure"),
        ("lacuna_predicted_texts_total", "stops", "elsewhere inside_word"),
        ("lacuna_request_seconds_count", "route", routes),
        ("lacuna_queue_seconds_count", "route", routes),
    ):
        assert {value(metrics, name, **{label: each}) for each in values.split()} == {0}
    for status in ("200", "400", "401", "413", "415", "422", "429", "499", "500", "503", "504"):
        assert value(metrics, "lacuna_requests_total", route="/predict", status=status) == 0
    for bound in ("0.00025", "10.0"):  # a cached keystroke, and the default deadline
        assert value(metrics, "lacuna_inference_seconds_bucket", route="/predict", le=bound) == 0
    assert value(metrics, "lacuna_log_lines_lost_total") == 0


def test_times_are_counted_as_by_any_histogram() -> None:
    """On, below and above each bound, buckets and sum are those of prometheus_client."""
    metrics, registry = Metrics(), CollectorRegistry()
    expected = Histogram("expected", "", buckets=SECONDS, registry=registry)
    context: Any = SimpleNamespace(route="/score", status=200, timing=(), usage=None)
    for seconds in (0.0, *SECONDS, *[1.1 * bound for bound in SECONDS]):
        expected.observe(seconds)
        metrics.finished(context, seconds)
    for bound in (*map(str, SECONDS), "+Inf"):
        count = registry.get_sample_value("expected_bucket", {"le": bound})
        found = value(metrics, "lacuna_request_seconds_bucket", route="/score", le=bound)
        assert found == count
    total = registry.get_sample_value("expected_sum")
    assert value(metrics, "lacuna_request_seconds_sum", route="/score") == total


def test_what_a_service_does_is_counted() -> None:
    """Requests, times, tokens and rows arrive in the metrics; unknown paths and texts do not."""

    async def question(client: httpx.AsyncClient) -> str:
        await client.post("/predict", json={"text": ["abc", "d"]})
        await client.post("/predict", json={"text": 1})
        await client.get("/some/鬼")
        return (await client.get(METRICS)).text

    metrics = ask(question, metrics_port=METRICS_PORT)
    for line in (
        'lacuna_requests_total{route="/predict",status="200"} 1.0',
        'lacuna_requests_total{route="/predict",status="422"} 1.0',
        'lacuna_requests_total{route="unmatched",status="404"} 1.0',
        'lacuna_request_seconds_count{route="/predict"} 2.0',
        'lacuna_queue_seconds_count{route="/predict"} 1.0',
        'lacuna_inference_seconds_count{route="/predict"} 1.0',
        'lacuna_prefix_cache_tokens_total{result="hit"} 2.0',
        'lacuna_prefix_cache_tokens_total{result="miss"} 2.0',
        'lacuna_predicted_texts_total{stops="elsewhere"} 2.0',
        'lacuna_predicted_rows_total{stops="inside_word"} 0.0',
        'lacuna_batch_rows_sum{call="next"} 2.0',
        'lacuna_network_rows_total{call="next"} 2.0',
        "lacuna_queue_depth 0.0",
        "lacuna_queue_work_seconds 0.0",
        "lacuna_prefix_cache_bytes 0.0",
        "lacuna_keys_current 1.0",
        "lacuna_ready 1.0",
    ):
        assert line in metrics.splitlines()
    assert 'lacuna_model_info{digest="' in metrics
    assert "鬼" not in metrics
