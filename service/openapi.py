"""``/openapi.json``: what FastAPI works out of the routes, and what it cannot know: the service reads bodies itself."""

from collections.abc import Sequence
from typing import Any

from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute

from service.errors import PROBLEM_TYPE, TITLES
from service.schemas import ClozeRequest, PredictRequest, ProblemAnswer, ReloadRequest, ScoreRequest

_COMPONENTS = "#/components/schemas/"
# Statuses of every route that asks the model, beside 200.
_ASKING = (400, 401, 408, 413, 415, 421, 422, 429, 500, 503, 504)
# Of the routes that change what answers.
_CHANGING = (400, 401, 403, 408, 409, 413, 415, 421, 422, 500, 503)
_DESCRIPTION = (
    "Predicts the next word of a partial sentence and fills blanks, in Chinese and English. "
    "Errors are problem documents (RFC 9457) and never hold text that was sent."
)


def asks(body: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """Keywords for a route that reads *body*, which may be left out unless it is *required*."""
    content = {"application/json": {"schema": {"$ref": _COMPONENTS + body.__name__}}}
    return {"openapi_extra": {"requestBody": {"required": required, "content": content}}}


def answers(
    body: type[BaseModel] | None,
    *,
    asking: bool = False,
    changing: bool = False,
    unavailable: bool = False,
) -> dict[str, Any]:
    """Keywords for a route that answers *body* (None: plain text), and the problems that it may answer instead."""
    good: dict[str, Any] = (
        {"model": body} if body else {"content": {"text/plain": {"schema": {"type": "string"}}}}
    )
    statuses = (
        _ASKING if asking else _CHANGING if changing else (401, 421, 503) if unavailable else (401,)
    )
    problem = {PROBLEM_TYPE: {"schema": {"$ref": _COMPONENTS + ProblemAnswer.__name__}}}
    responses = {status: {"description": TITLES[status], "content": problem} for status in statuses}
    return {"responses": {200: {"description": "OK", **good}, **responses}, "response_model": None}


def describe(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """The whole document."""
    document = get_openapi(title="Lacuna", version="1", description=_DESCRIPTION, routes=routes)
    bodies = (PredictRequest, ClozeRequest, ScoreRequest, ReloadRequest, ProblemAnswer)
    _, definitions = models_json_schema(
        [(body, "validation") for body in bodies], ref_template=_COMPONENTS + "{model}"
    )
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(definitions["$defs"])
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{}, {"key": []}]
    return document
