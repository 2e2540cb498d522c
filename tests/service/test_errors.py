"""Tests of service/errors.py."""

import json

import pytest
from starlette.exceptions import HTTPException

from service.admission import TooManyRequests
from service.engine import NotReady
from service.errors import TITLES, Problem, as_problem, problem_response, unprocessable
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


@pytest.mark.parametrize("status", TITLES)
def test_problem_is_a_problem_document(status: int) -> None:
    """A problem is written in the form of RFC 9457, with its headers and the request's id."""
    problem = Problem(status, "why", [FieldError("/text/3", "what")], {"Retry-After": "1"})
    response = problem_response(problem, "id-1")
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"] == "1"
    assert json.loads(bytes(response.body)) == {
        "type": "about:blank", "title": TITLES[status], "status": status, "detail": "why",
        "request_id": "id-1",
        "errors": [{"pointer": "/text/3", "detail": "what"}],
    }  # fmt: skip


def test_detail_names_the_first_field_and_counts_the_others() -> None:
    """The detail alone names one field, and says that there are more."""
    problem = unprocessable(FieldError("/a", "x"), FieldError("", "y"), FieldError("/c", "z"))
    assert problem.detail == "/a: x (and 2 more)"
    assert unprocessable(FieldError("", "y")).detail == "body: y"
