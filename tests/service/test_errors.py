"""Tests of service/errors.py."""

import pytest
from starlette.exceptions import HTTPException

from service.admission import TooManyRequests
from service.engine import NotReady
from service.errors import Problem, as_problem


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Problem(413, "long"), 413),
        (NotReady("it drains"), 503),
        (TooManyRequests("queue_full", "the queue is full", 3), 429),
        (HTTPException(404), 404),
        (HTTPException(405, headers={"Allow": "POST"}), 405),
        (HTTPException(418), 500),
        (ValueError("鬼"), 500),
        (MemoryError(), 500),
    ],
)
def test_each_exception_has_one_status(error: Exception, status: int) -> None:
    """An unknown exception is 500, without its message."""
    problem = as_problem(error)
    assert problem.status == status
    assert "鬼" not in problem.detail
    assert ("Retry-After" in (problem.headers or {})) is (status in (429, 503))
