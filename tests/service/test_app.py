"""Tests of service/app.py: the OpenAPI document, and the app held against it by schemathesis."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from tests.service.client import METRICS, METRICS_PORT, get, post, synchronous

_QUESTIONS = {"PredictRequest": "/predict", "ClozeRequest": "/cloze", "ScoreRequest": "/score"}
_OPERATION_IDS = {
    "predict", "fillBlanks", "score", "getModel", "reload", "isAlive", "isReady", "getMetrics",
    "complete", "listModels", "retrieveModel", "fillMask",
}  # fmt: skip
# The document cannot promise that valid data are accepted: a text must have a blank. The other
# checks are about resources that come and go, and about keys.
_NOT_CHECKED = {
    "positive_data_acceptance",
    "use_after_free",
    "ensure_resource_availability",
    "object_level_authorization",
    "ignored_auth",
}


@pytest.fixture(scope="module")
def document() -> Any:
    """The document as the service serves it."""
    return get("/openapi.json").json()


@pytest.fixture(scope="module")
def send() -> Iterator[Callable[..., httpx.Response]]:
    """A running app as a function."""
    with synchronous() as request:
        yield request


def test_operation_ids_are_short(document: Any) -> None:
    """Generated clients get readable names."""
    operations = [each for path in document["paths"].values() for each in path.values()]
    assert {operation["operationId"] for operation in operations} == _OPERATION_IDS


@pytest.mark.parametrize(
    ("path", "address"),
    [("/livez", "/livez"), ("/readyz", "/readyz"), ("/metrics", METRICS)],
)
def test_text_routes_declare_text(document: Any, path: str, address: str) -> None:
    """Probes and metrics are plain text, in the document and in the answer."""
    assert list(document["paths"][path]["get"]["responses"]["200"]["content"]) == ["text/plain"]
    answer = get(address, metrics_port=METRICS_PORT)
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(("name", "path"), _QUESTIONS.items())
def test_questions_are_documented(document: Any, name: str, path: str) -> None:
    """Body, answer, and every status that a question may get, errors as problem documents."""
    operation = document["paths"][path]["post"]
    reference = f"#/components/schemas/{name}"
    assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"] == reference
    problems = {status: response["content"] for status, response in operation["responses"].items()}
    assert list(problems.pop("200")) == ["application/json"]
    statuses = (400, 401, 408, 413, 415, 421, 422, 429, 500, 503, 504)
    assert set(problems) == set(map(str, statuses))
    assert all(list(content) == ["application/problem+json"] for content in problems.values())


@pytest.mark.parametrize(("name", "path"), _QUESTIONS.items())
def test_null_is_the_default_of_every_optional_field(document: Any, name: str, path: str) -> None:
    """The document says that they may be null, and the answer is the same as without them."""
    schema = document["components"]["schemas"][name]
    optional = schema["properties"].keys() - set(schema["required"])
    assert "text" in schema["required"] and "user" in optional
    for field in optional:
        assert {"type": "null"} in schema["properties"][field]["anyOf"]
    body = {"text": "a ____"}
    answers = [post(path, each).json() for each in (body, body | dict.fromkeys(optional))]
    assert answers[0] == answers[1]


def test_answers_have_only_the_fields_that_were_asked_for() -> None:
    """Without `fillings`, `details`, `letters` and `steps`, it does not have them, even as null."""
    for path in ("/predict", "/cloze", "/score"):
        (result,) = post(path, {"text": "a ____"}).json()["results"]
        assert not {"fillings", "details", "letters"} & result.keys()
        for each in result.get("candidates", ()):
            assert each.keys() == {"word", "append", "probability", "ended", "origins"}


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("path", [*_QUESTIONS.values(), "/v1/completions", "/hf/fill-mask"])
def test_questions_keep_to_the_document(
    document: Any, send: Callable[..., httpx.Response], path: str, mode: GenerationMode
) -> None:
    """Generated bodies, valid and not, are answered as the document says, never with a 5xx."""
    load_all_checks()
    checks = [check for check in CHECKS.get_all() if check.__name__ not in _NOT_CHECKED]
    operation = schemathesis.openapi.from_dict(document)[path]["POST"]
    statuses: set[int] = set()

    @settings(
        max_examples=30,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and "model" in case.body:
            case.body["model"] = "lacuna"  # any other one is 404
        made = requests.Request(**case.as_transport_kwargs(base_url="http://localhost")).prepare()
        response = send(
            str(made.method), str(made.url), content=made.body, headers=dict(made.headers)
        )
        statuses.add(response.status_code)
        case.validate_response(response, checks=checks)

    check()
    assert statuses & ({400, 422} if mode is GenerationMode.NEGATIVE else {200, 400, 422})
