"""Tests of service/metrics.py."""

from collections import Counter

import httpx
from prometheus_client import CollectorRegistry

from service.metrics import Metrics
from tests.service.client import ask


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """One sample."""
    return metrics.registry.get_sample_value(name, labels)


def test_series_are_there_before_the_first_request() -> None:
    """Every label set that may come is 0 from the start, so that rates are 0 and not absent."""
    metrics = Metrics(CollectorRegistry())
    for status in ("200", "400", "401", "413", "415", "422", "429", "499", "500", "503", "504"):
        assert value(metrics, "lacuna_requests_total", route="/predict", status=status) == 0
    for name in ("request", "queue", "inference"):
        assert value(metrics, f"lacuna_{name}_seconds_count", route="/cloze") == 0
    for call in ("forward", "backward", "next", "previous", "gap"):
        assert value(metrics, "lacuna_network_rows_total", call=call) == 0
        assert value(metrics, "lacuna_batch_rows_count", call=call) == 0
    for result in ("hit", "miss"):
        assert value(metrics, "lacuna_prefix_cache_tokens_total", result=result) == 0
    for reason in ("queue_full", "deadline", "rate_requests", "rate_characters"):
        assert value(metrics, "lacuna_refusals_total", reason=reason) == 0
    for outcome in ("success", "failure"):
        assert value(metrics, "lacuna_loads_total", outcome=outcome) == 0
        assert value(metrics, "lacuna_reloads_total", outcome=outcome) == 0
    assert value(metrics, "lacuna_log_lines_lost_total") == 0


def test_buckets_span_a_quarter_millisecond_to_ten_seconds() -> None:
    """The smallest bucket tells cached keystrokes apart, the largest is the deadline."""
    metrics = Metrics(CollectorRegistry())
    for bound in ("0.00025", "10.0"):
        assert value(metrics, "lacuna_inference_seconds_bucket", route="/predict", le=bound) == 0


def test_requests_are_counted_by_route_and_status() -> None:
    """Requests, times, tokens and rows of a running service arrive in its metrics; foreign paths do not."""

    async def question(client: httpx.AsyncClient) -> str:
        await client.post("/predict", json={"text": ["abc", "d"]})
        await client.post("/predict", json={"text": 1})
        await client.get("/some/鬼")
        return (await client.get("/metrics")).text

    metrics = ask(question)
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
        "lacuna_ready 1.0",
        'lacuna_loads_total{outcome="success"} 1.0',
    ):
        assert line in metrics.splitlines()
    assert 'lacuna_model_info{digest="' in metrics
    assert "鬼" not in metrics


def test_rows_of_all_steps_add_up() -> None:
    """Each step tells the rows that it took, whichever scheduler took them."""
    metrics = Metrics(CollectorRegistry())
    for rows in ({"next": 3}, {"next": 5, "gap": 1}, {"next": 2}):
        metrics.stepped(Counter(rows))
    assert value(metrics, "lacuna_network_rows_total", call="next") == 10
    assert value(metrics, "lacuna_network_rows_total", call="gap") == 1


def test_reloads_are_counted_and_shown() -> None:
    """A reload that worked shows its model; one that failed leaves the model before."""
    metrics = Metrics(CollectorRegistry())
    metrics.reloaded({"name": "a", "version": "2", "digest": "d"})
    metrics.reloaded(None)
    assert value(metrics, "lacuna_reloads_total", outcome="success") == 1
    assert value(metrics, "lacuna_reloads_total", outcome="failure") == 1
    shown = metrics.registry.get_sample_value(
        "lacuna_model_info", {"name": "a", "version": "2", "digest": "d"}
    )
    assert shown == 1


def test_failed_load_is_counted() -> None:
    """A load that failed counts as failure and shows no model."""
    metrics = Metrics(CollectorRegistry())
    metrics.loaded(None)
    assert value(metrics, "lacuna_loads_total", outcome="failure") == 1
