"""Tests of service/errors.py."""

import json

import pytest
from starlette.exceptions import HTTPException

from service.admission import TooManyRequests
from service.engine import NotReady
from service.errors import Problem, as_problem, problem_response, unprocessable
from service.schemas import FieldError


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


def test_a_problem_is_written_as_rfc_9457_says() -> None:
    """The document has all fields; its detail names the first one and counts the others."""
    errors = [FieldError("/text/3", "what"), FieldError("", "y"), FieldError("/c", "z")]
    response = problem_response(unprocessable(*errors), "id-1")
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert json.loads(bytes(response.body)) == {
        "type": "about:blank", "title": "Unprocessable Content", "status": 422,
        "detail": "/text/3: what (and 2 more)", "request_id": "id-1",
        "errors": [{"pointer": each.pointer, "detail": each.detail} for each in errors],
    }  # fmt: skip
