"""What a client is told when a request fails: one table from exception to status, as RFC 9457 problem documents.

Details carry numbers, lengths, fields and paths, never text that the client sent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response

from model.errors import QueryError
from service.admission import TooManyRequests
from service.engine import NotReady

PROBLEM_TYPE = "application/problem+json"
# The titles of RFC 9110 (http.HTTPStatus of Python 3.11 still has older names for 413 and 422).
TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    421: "Misdirected Request",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
# nginx's number for a client that hung up: nobody reads the answer, but logs and metrics count it.
CLIENT_CLOSED = 499
# After which a service that loads, drains or is stuck is worth asking again.
RETRY_SECONDS = 2


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with a request.

    Attributes:
        pointer: JSON pointer (RFC 6901) into the body, such as ``/text/3``; empty for the body itself.
        detail: what is wrong and what would be right, without the client's text.
    """

    pointer: str
    detail: str


class Problem(Exception):  # noqa: N818 - RFC 9457's name for it
    """A request that gets an error answer, and the answer's content."""

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}


def unprocessable(errors: Sequence[FieldError]) -> Problem:
    """A 422 that names every field in *errors*; the first one is also the detail."""
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Problem(422, f"{first.pointer or 'body'}: {first.detail}{more}", errors)


def unavailable(detail: str) -> Problem:
    """A 503 that says when to come back."""
    return Problem(503, detail, headers={"Retry-After": str(RETRY_SECONDS)})


def as_problem(error: Exception) -> Problem:
    """The one table from exception to status; what is not in it is our fault and gets a 500 without details."""
    match error:
        case Problem():
            return error
        case QueryError():
            return unprocessable([FieldError(error.field, error.message)])
        case TooManyRequests():
            return Problem(429, error.detail, headers={"Retry-After": str(error.retry_after)})
        case NotReady():
            return unavailable(str(error))
        case HTTPException(status_code=404):
            return Problem(404, "no such path; GET /docs lists them")
        case HTTPException(status_code=405):
            allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
            return Problem(405, f"this path answers {allowed}", headers={"Allow": allowed})
        case _:
            return Problem(
                500, "the request failed inside the service; its request_id finds it in the log"
            )


def problem_response(problem: Problem, request_id: str) -> Response:
    """Write *problem* as ``application/problem+json``."""
    content: dict[str, object] = {
        "type": "about:blank",
        "title": TITLES[problem.status],
        "status": problem.status,
        "detail": problem.detail,
        "request_id": request_id,
    }
    if problem.errors:
        content["errors"] = [
            {"pointer": error.pointer, "detail": error.detail} for error in problem.errors
        ]
    return Response(to_json(content), problem.status, dict(problem.headers), PROBLEM_TYPE)
