"""Map exceptions to HTTP statuses, and write them as problem documents (RFC 9457).

Details carry numbers, lengths, fields and paths, never text that the client sent.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Literal

from starlette.exceptions import HTTPException
from starlette.responses import Response

from service.admission import TooManyRequests
from service.completion_schemas import OpenAIError
from service.engine import NotReady
from service.schemas import FieldError, ProblemDocument

PROBLEM_TYPE = "application/problem+json"
_STATUSES = (400, 401, 403, 404, 405, 408, 413, 415, 421, 422, 429, 500, 503, 504)
# RFC 9110 renamed two titles since Python 3.11.
TITLES = {status: HTTPStatus(status).phrase for status in _STATUSES} | {
    413: "Content Too Large",
    422: "Unprocessable Content",
}
# A client that hung up reads no answer. Logs and metrics count it under nginx's number.
CLIENT_CLOSED = 499
# While the service loads, drains or is stuck.
_RETRY = {"Retry-After": "2"}


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
        self.headers = headers


def unprocessable(*errors: FieldError) -> Problem:
    """Return a 422 that names every field in *errors*; the first one is also the detail."""
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Problem(422, f"{first.pointer or 'body'}: {first.detail}{more}", errors)


def as_problem(error: BaseException) -> Problem:
    """Return the answer for an exception. An unknown one is a bug: 500 without details."""
    match error:
        case Problem():
            return error
        case TooManyRequests():
            return Problem(429, error.detail, headers={"Retry-After": str(error.retry_after)})
        case NotReady():
            return Problem(503, str(error), headers=_RETRY)
        case asyncio.CancelledError():  # the grace period after the drain is over
            return Problem(503, "the service has shut down; ask another one", headers=_RETRY)
        case HTTPException(status_code=404):
            return Problem(404, "no such path; GET /docs lists them")
        case HTTPException(status_code=405):
            allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
            return Problem(405, f"this path answers {allowed}", headers={"Allow": allowed})
        case _:
            detail = "the request failed inside the service; its request_id finds it in the log"
            return Problem(500, detail)


def openai_error(problem: Problem) -> OpenAIError:
    """Return *problem* as OpenAI's clients read it."""
    kind: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    kind = "server_error" if problem.status >= 500 else "invalid_request_error"
    pointer = problem.errors[0].pointer if problem.errors else ""
    return OpenAIError(
        message=problem.detail,
        type="rate_limit_error" if problem.status == 429 else kind,
        param=pointer.split("/")[1] if pointer else None,
        code="model_not_found" if problem.status == 404 and pointer else None,
    )


def problem_response(problem: Problem, request_id: str, path: str = "") -> Response:
    """Write *problem* as ``application/problem+json``, with the error of the API of *path*."""
    error: OpenAIError | str | None = None
    status = problem.status
    if path.startswith("/v1/"):
        error = openai_error(problem)
        status = 400 if status == 422 else status  # which OpenAI's clients expect
    elif path.startswith(("/hf/", "/models/")):
        error = problem.detail
    document = ProblemDocument(
        title=TITLES[status],
        status=status,
        # A path that is not UTF-8 holds surrogates, which JSON cannot.
        detail=problem.detail.encode("utf-8", "backslashreplace").decode(),
        request_id=request_id,
        errors=list(problem.errors) or None,
    )
    fields = document.model_dump(exclude_none=True)
    if error is not None:
        fields["error"] = error if isinstance(error, str) else error.model_dump()
    content = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    return Response(content, status, problem.headers, PROBLEM_TYPE)
