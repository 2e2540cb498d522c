"""Tests of service/request_context.py."""

import pytest

from service.request_context import RequestContext

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


def record_of(*headers: tuple[str, str]) -> RequestContext:
    """The record of a request with *headers*."""
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    return RequestContext.begin({"type": "http", "path": "/predict", "headers": encoded})


@pytest.mark.parametrize(
    "value",
    [
        f"00-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-ff",
        f" 00-{TRACE}-{PARENT}-00\t",
        f"cc-{TRACE}-{PARENT}-01",
        f"cc-{TRACE}-{PARENT}-01-what-may-come",
        f"cc-{TRACE}-{PARENT}-01-",
    ],
)
def test_the_trace_of_a_well_formed_parent_is_kept(value: str) -> None:
    """Version 00 as it is defined, and later versions as far as version 00 defines them."""
    assert record_of(("traceparent", value)).trace_id == TRACE


@pytest.mark.parametrize(
    "value",
    [
        "",
        TRACE,
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-01-",
        f"00-{TRACE}-{PARENT}-01-more",
        f"cc-{TRACE}-{PARENT}-01more",
        f"ff-{TRACE}-{PARENT}-01",
        f"0-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT.upper()}-01",
        f"0A-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-0A",
        f"00-{TRACE[1:]}-{PARENT}-01",
        f"00-{TRACE}0-{PARENT}-01",
        f"00-{TRACE[:-1]}鬼-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00_{TRACE}_{PARENT}_01",
    ],
)
def test_a_malformed_parent_is_as_none(value: str) -> None:
    """Wrong length, capitals, zeros alone, version ff, version 00 with more after it: there is no trace."""
    record = record_of(("traceparent", value))
    assert record.trace_id == ""
    assert set(record.identity) == {"request_id"}


def test_two_parents_are_as_none() -> None:
    """Of two `traceparent` headers, neither is believed."""
    parent = ("traceparent", f"00-{TRACE}-{PARENT}-01")
    assert record_of(parent, parent).trace_id == ""


def test_the_request_id_is_independent_of_the_trace() -> None:
    """The first well-formed request id stands beside the trace, whatever the order; a trace makes none."""
    parent = ("traceparent", f"00-{TRACE}-{PARENT}-01")
    ids = [("x-request-id", "not one"), ("x-request-id", "id-1"), ("x-request-id", "id-2")]
    for headers in ([parent, *ids], [*ids, parent]):
        assert record_of(*headers).identity == {"request_id": "id-1", "trace_id": TRACE}
    assert record_of(parent).request_id != record_of(parent).request_id
