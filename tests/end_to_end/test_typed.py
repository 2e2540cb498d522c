"""Texts as people type them, sent to the service with the bundled checkpoint.

`typed.jsonl` holds one case a line, grouped by kind: a request and what its answer must fulfil.
Cases with a plain number come from public bug reports about keyboards, fill-mask services and
input methods; those with `own` are further texts of the same kind.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.client import real_model, synchronous

ROOT = Path(__file__).resolve().parents[2]
LINES = (Path(__file__).parent / "typed.jsonl").read_text(encoding="utf-8").splitlines()
CASES = {case["id"]: case for case in map(json.loads, LINES)}
# Edition 0.6 prefers 的 or 了 to the right phrase (docs/quality.md).
MISSED = {f"choices-of-several-words-{number}" for number in ("04", "own-08", "own-09")}
PARAMETERS = [
    pytest.param(name, marks=[pytest.mark.xfail(strict=True)] if name in MISSED else [])
    for name in CASES
]
Result = dict[str, Any]
Ask = Callable[[str, dict[str, Any]], Result]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """A function that returns the one result of a request to the bundled checkpoint."""
    with synchronous(real_model(ROOT / "model" / "pretrained" / "default")) as request:

        def send(path: str, body: dict[str, Any]) -> Result:
            response = request("POST", path, json=body)
            assert response.status_code == 200, response.text
            (result,) = response.json()["results"]
            return dict(result)

        yield send


@pytest.mark.parametrize("name", PARAMETERS)
def test_typed_text_gets_a_sensible_answer(ask: Ask, name: str) -> None:
    """The answer to a text of the list fulfils each expectation that the list states."""
    case = CASES[name]
    path, body, expected = case["path"], case["body"], dict(case["expect"])
    result, first = ask(path, body), expected.pop("k", 5)
    begins = expected.pop("begins", "")
    for expectation, value in expected.items():
        other = body | value if isinstance(value, dict) else body
        if expectation == "log_probability_within":
            other = {"text": value["of"]}
        again = ask(path, other) if other != body else result
        wanted = [begins, *value] if expectation == "completions_within" else value
        assert fulfils(expectation, wanted, result, again, first), (expectation, value, result)


def fulfils(name: str, value: Any, result: Result, again: Result, first: int) -> bool:
    """Return True if a result fulfils an expectation.

    Args:
        name: of the expectation.
        value: the expectation: words, a number, or a regular expression that must not match.
        result: of the request.
        again: of the second request to compare with, if the expectation names one.
        first: how many candidates of the first list count.
    """
    every = candidates(result)
    best = every[:first]
    words: list[str] = [each["word"] for each in best]
    appended: list[str] = [each["append" if "append" in each else "word"] for each in best]
    if name != "log_probability_within" and not best:
        return False
    match name:
        case "any_of":  # also "are" if " are" is appended
            return not set(value).isdisjoint([*words, *map(str.strip, appended)])
        case "first":
            return words[:1] == [value]
        case "min_candidates":
            return len(every) >= int(value)
        case "filled_not":
            return not re.search(value, result["filled"])
        case "words_not":
            return not any(re.search(value, word) for word in words)
        case "appends_not":
            return not any(re.search(value, append) for append in appended)
        case "completions_within":  # words that complete the typed letters are real words
            begins, *known = value
            completions = [word.lower() for word in words if word.lower().startswith(begins)]
            return {word.removesuffix("'s") for word in completions} <= set(known)
        case "first_three_of":  # the shorter list begins the longer one, probabilities included
            return best == candidates(again)[: len(best)]
        case "same_first_word_as":
            return candidates(again)[0]["word"] in words
        case "log_probability_within":
            distance = result["log_probability"] - again["log_probability"]
            return bool(abs(distance) <= value["nats"])
    raise ValueError(f"unknown expectation: {name}")


def candidates(result: Result) -> list[Result]:
    """Return the candidates of /predict, or of the first blank of /cloze."""
    blanks: list[Result] = result.get("blanks", [result])
    found: list[Result] = blanks[0].get("candidates", [])
    return found
