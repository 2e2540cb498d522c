"""The OpenAPI document: FastAPI's, with examples, headers, keys and the media type of errors."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from service.errors import PROBLEM_TYPE, Problem, problem_response, unprocessable
from service.schemas import FieldError

_DESCRIPTION = (
    "Predicts the next word of a partial sentence and fills blanks, in Chinese and English. "
    "Errors are problem documents (RFC 9457) and never hold text that was sent."
)
_TAGS = {
    "questions": "Next words, blanks and probabilities.",
    "other clients": "Contracts of OpenAI's and Hugging Face's clients.",
    "model": "The checkpoint that answers.",
    "operation": "Probes, metrics and reloading.",
}
_REQUEST_ID = "5f2c9a7e0b1d4c83a6e4f0719d2b8c35"
# Description, schema and example of each.
_HEADERS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "X-Request-Id": (
        "the one of the request, or a new one; it finds the request in the log",
        {"type": "string"},
        _REQUEST_ID,
    ),
    "Server-Timing": (
        "milliseconds in the queue and of inference; without keys rounded up to 10 ms",
        {"type": "string"},
        "queue;dur=10.000, inference;dur=10.000",
    ),
    "Retry-After": ("seconds until another try may succeed", {"type": "integer", "minimum": 0}, 2),
}
_DETAILS = {
    400: "the header host came 2 times; send it once",
    401: "send an API key: Authorization: Bearer KEY",
    403: "send an administrator's key: lacuna keys new NAME --admin",
    404: "/model: is not the name of the model; send lacuna, or the name that GET /v1/models lists",
    408: "the body did not arrive within 10 s",
    413: "the body is longer than 1048576 bytes",
    415: "the body must be application/json; set the Content-Type header",
    421: "the Host header names another host; allowed_hosts can allow it",
    422: "the checkpoint is refused",
    429: "the limit is 600 texts per minute",
    500: "the request failed inside the service; its request_id finds it in the log",
    503: "the checkpoint is still loading",
    504: "not answered within 10 s; send less at once, or later",
}


def describe(routes: Sequence[APIRoute]) -> dict[str, Any]:
    """Return the document of *routes*."""
    examples = json.loads((Path(__file__).parent / "static" / "examples.json").read_text("utf-8"))
    tags = [{"name": name, "description": text} for name, text in _TAGS.items()]
    document = get_openapi(
        title="Lacuna", version="1", description=_DESCRIPTION, routes=routes, tags=tags
    )
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _complete(path, operation, **examples[operation["operationId"]])
    document["components"]["headers"] = {
        name: {"description": text, "schema": schema, "example": example}
        for name, (text, schema, example) in _HEADERS.items()
    }
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {**document, "security": [{}, {"key": []}]}


def _complete(path: str, operation: Any, answer: Any, requests: Sequence[Any] = ()) -> None:
    """Add to an operation what FastAPI does not know."""
    if requests:
        named = {str(number): {"value": each} for number, each in enumerate(requests, 1)}
        operation["requestBody"]["content"]["application/json"]["examples"] = named
    if path.startswith("/v1/"):  # its errors of fields are 400
        operation["responses"].pop("422", None)
    for status, response in operation["responses"].items():
        names = ["X-Request-Id"]
        names += ["Server-Timing"] if requests and status in ("200", "504") else []
        names += ["Retry-After"] if status in ("429", "503") else []
        response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
        if status == "200":
            media = next(iter(response["content"].values()))
            media["examples"] = {"1": {"value": answer}}  # to the first request
        else:
            example = _problem(path, int(status), bool(requests))
            schema = response["content"].popitem()[1]["schema"]
            response["content"] = {PROBLEM_TYPE: {"schema": schema, "example": example}}


def _problem(path: str, status: int, is_question: bool) -> Any:
    """Return an example of an error."""
    problem = Problem(status, _DETAILS[status])
    if status == 404:
        problem.errors = [FieldError("/model", problem.detail.removeprefix("/model: "))]
    elif status == 422 and is_question:
        field = "inputs" if path.startswith("/hf/") else "text"
        detail = "has 12000 code points; send at most 10000"
        problem = unprocessable(FieldError(f"/{field}/3", detail))
    return json.loads(bytes(problem_response(problem, _REQUEST_ID, path).body))
