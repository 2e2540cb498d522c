"""Tests of service/openapi.py: the document, and the service held against it by schemathesis."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from service import schemas
from tests.service.client import ask, running

_ASKING = {"PredictRequest": "/predict", "ClozeRequest": "/cloze", "ScoreRequest": "/score"}
# Routes without parameters: of those nothing can be wrong.
_BARE = ("/admin/reload", "/model", "/livez", "/readyz", "/metrics")
_OPERATIONS = {
    **dict.fromkeys(_ASKING.values(), 50),
    **dict.fromkeys(_BARE, 2),
}


# The document cannot promise that fitting data are accepted: it cannot say that a text must have a blank,
# or that a directory holds a checkpoint. The others are about resources that come and go; there are none.
_NOT_CHECKED = frozenset(
    {
        "positive_data_acceptance",
        "use_after_free",
        "ensure_resource_availability",
        "object_level_authorization",
        "ignored_auth",  # the service of these tests has no keys
    }
)


def applicable_checks() -> list[Any]:
    """Return the checks of schemathesis that apply."""
    load_all_checks()
    return [check for check in CHECKS.get_all() if check.__name__ not in _NOT_CHECKED]


@pytest.fixture(scope="module")
def document() -> Any:
    """The document as the service serves it."""
    return ask(lambda client: client.get("/openapi.json")).json()


def test_every_reference_resolves(document: Any) -> None:
    """The document names no component that it lacks."""
    text = json.dumps(document)
    named = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert named == set(document["components"]["schemas"]) & named


@pytest.mark.parametrize("name", _ASKING)
def test_examples_are_answered(name: str) -> None:
    """Each example of a request is one that the service answers."""
    examples: Any = getattr(schemas, name).model_config["json_schema_extra"]
    for example in examples["examples"]:
        assert (
            ask(lambda client, body=example: client.post(_ASKING[name], json=body)).status_code
            == 200
        )


@pytest.mark.parametrize("name", ["PredictAnswer", "ClozeAnswer", "ScoreAnswer"])
def test_examples_of_answers_are_of_their_type(document: Any, name: str) -> None:
    """Each example of an answer has exactly the fields that answers have, and stands in the document."""
    answer = getattr(schemas, name)
    for example in answer.model_config["json_schema_extra"]["examples"]:
        assert answer.model_validate(example).model_dump(mode="json") == example
        assert example in document["components"]["schemas"][name]["examples"]


@pytest.mark.parametrize("path", _ASKING.values())
def test_problems_are_documented(document: Any, path: str) -> None:
    """Every status that a question may get is in the document, errors as problem documents."""
    responses = document["paths"][path]["post"]["responses"]
    assert set(responses) == {
        "200",
        "400",
        "401",
        "408",
        "413",
        "415",
        "421",
        "422",
        "429",
        "500",
        "503",
        "504",
    }
    assert all(
        "application/problem+json" in responses[status]["content"]
        for status in responses
        if status != "200"
    )


class _Service:
    """One app for a whole run of schemathesis, on one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._context = running()
        self._client: httpx.AsyncClient = self._loop.run_until_complete(self._context.__aenter__())

    def send(self, case: Any) -> httpx.Response:
        """Send what schemathesis made."""
        prepared = requests.Request(
            **case.as_transport_kwargs(base_url="http://localhost")
        ).prepare()
        request = self._client.request(
            str(prepared.method),
            str(prepared.url),
            content=prepared.body,
            headers=dict(prepared.headers),
        )
        return self._loop.run_until_complete(request)

    def close(self) -> None:
        """End it."""
        self._loop.run_until_complete(self._context.__aexit__(None, None, None))
        self._loop.close()


@pytest.fixture(scope="module")
def service() -> Iterator[_Service]:
    """See `_Service`."""
    running_service = _Service()
    yield running_service
    running_service.close()


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize(("path", "examples"), _OPERATIONS.items())
def test_service_keeps_to_its_document(
    document: Any, service: _Service, path: str, examples: int, mode: GenerationMode
) -> None:
    """What schemathesis makes of the document, fitting and not, is answered as the document says, never with a 5xx."""
    (method,) = document["paths"][path]
    operation = schemathesis.openapi.from_dict(document)[path][method.upper()]
    applied = applicable_checks()
    statuses: set[int] = set()

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        response = service.send(case)
        statuses.add(response.status_code)
        case.validate_response(response, checks=applied)

    if path in _BARE and mode is GenerationMode.NEGATIVE:
        with pytest.raises(Unsatisfiable):
            check()
    else:
        check()
        assert statuses & ({400, 422} if mode is GenerationMode.NEGATIVE else {200, 409, 422})


def test_every_operation_is_asked(document: Any) -> None:
    """No route of the document is left out above."""
    assert set(document["paths"]) == set(_OPERATIONS)
