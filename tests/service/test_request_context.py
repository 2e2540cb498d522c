"""Tests of service/request_context.py."""

import pytest

from service.request_context import RequestContext

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


def context_of(*headers: tuple[str, str]) -> RequestContext:
    """Return the context of a request with *headers*."""
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    return RequestContext.begin({"type": "http", "path": "/predict", "headers": encoded})


@pytest.mark.parametrize(
    "value",
    [f"00-{TRACE}-{PARENT}-01", f" 00-{TRACE}-{PARENT}-ff\t", f"cc-{TRACE}-{PARENT}-01",
     f"cc-{TRACE}-{PARENT}-01-what-may-come", f"cc-{TRACE}-{PARENT}-01-"],
)  # fmt: skip
def test_the_trace_of_a_well_formed_parent_is_kept(value: str) -> None:
    """Version 00, and later versions as far as version 00 defines them."""
    assert context_of(("traceparent", value)).trace_id == TRACE


@pytest.mark.parametrize(
    "value",
    ["", TRACE, f"00-{TRACE}-{PARENT}", f"00-{TRACE}-{PARENT}-1", f"00-{TRACE}-{PARENT}-01-more",
     f"cc-{TRACE}-{PARENT}-01more", f"ff-{TRACE}-{PARENT}-01", f"0-{TRACE}-{PARENT}-01",
     f"00-{TRACE.upper()}-{PARENT}-01", f"00-{TRACE}-{PARENT.upper()}-01",
     f"00-{TRACE[1:]}-{PARENT}-01", f"00-{TRACE[:-1]}鬼-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01",
     f"00-{TRACE}-{'0' * 16}-01", f"00_{TRACE}_{PARENT}_01"],
)  # fmt: skip
def test_a_malformed_parent_is_ignored(value: str) -> None:
    """Wrong lengths, capitals, ids of zeros, version ff, version 00 with more after it."""
    assert set(context_of(("traceparent", value)).identity) == {"request_id"}


def test_two_parents_are_ignored() -> None:
    """Of two `traceparent` headers, neither is trusted."""
    parent = ("traceparent", f"00-{TRACE}-{PARENT}-01")
    assert context_of(parent, parent).trace_id == ""


def test_the_request_id_is_independent_of_the_trace() -> None:
    """The first well-formed request id is kept next to the trace, in any order of headers."""
    parent = ("traceparent", f"00-{TRACE}-{PARENT}-01")
    ids = [("x-request-id", "not one"), ("x-request-id", "id-1"), ("x-request-id", "id-2")]
    for headers in ([parent, *ids], [*ids, parent]):
        assert context_of(*headers).identity == {"request_id": "id-1", "trace_id": TRACE}
    assert context_of(parent).request_id != context_of(parent).request_id
