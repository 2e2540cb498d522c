"""Any text, sent to a service with a real checkpoint, is answered or refused by name.

FUZZ_CHECKPOINT and FUZZ_EXAMPLES choose another checkpoint and more examples.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.service.client import real_model, synchronous

SETTLED = partial(
    settings,
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "40")),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)  # the same examples every time
# Surrogates too, alone and in pairs: JSON can escape what no text can hold.
ANY = st.text(alphabet=st.characters(), max_size=60)
ODD = st.text(
    alphabet=st.sampled_from("a _＿▁\u0301\u200d\ud83d\ude00\udc00\n\r\x00我。é\ufeff\U0001f468"),
    max_size=40,
)
TEXT = ANY | ODD
Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def ask(tiny_checkpoint: Path) -> Iterator[Ask]:
    """A function that returns checked results, or none if the request was rightly refused.

    In the end, both kinds of answers must have come, and no other.
    """
    statuses: Counter[int] = Counter()
    checkpoint = Path(os.environ.get("FUZZ_CHECKPOINT", tiny_checkpoint))
    with synchronous(real_model(checkpoint)) as request:

        def send(path: str, body: dict[str, Any], *sent: str) -> list[dict[str, Any]]:
            headers = {"Content-Type": "application/json"}
            response = request("POST", path, content=json.dumps(body).encode(), headers=headers)
            statuses[response.status_code] += 1
            if any("\ud800" <= character <= "\udfff" for character in joined("".join(sent))):
                assert response.status_code == 422
                return []
            if response.status_code == 422:  # an empty text, choices that are alike
                assert response.json()["errors"][0]["pointer"].startswith(("/text", "/choices"))
                assert path != "/predict"
                return []
            assert response.status_code == 200, response.text
            results: list[dict[str, Any]] = response.json()["results"]
            assert all(map(is_sane, results))
            return results

        yield send
    assert set(statuses) == {200, 422}


def joined(text: str) -> str:
    """Return *text* as JSON carries it: pairs of surrogates become characters."""
    carried: str = json.loads(json.dumps(text))
    return carried


def is_sane(answer: dict[str, Any]) -> bool:
    """Return True if probabilities fall from 1 to 0, and log-probabilities are finite."""
    lists = [answer.get("candidates", [])]
    lists += [blank["candidates"] for blank in answer.get("blanks", [])]
    for candidates in lists:
        shares = [candidate["probability"] for candidate in candidates]
        ordered = all(one >= other for one, other in pairwise(shares))
        if not (ordered and all(0 <= share <= 1 for share in shares) and sum(shares) <= 1 + 1e-6):
            return False
    return "log_probability" not in answer or -math.inf < answer["log_probability"] <= 0


@SETTLED()
@given(
    texts=st.lists(TEXT, min_size=1, max_size=3),
    history=st.just("") | TEXT,
    top_k=st.integers(1, 20),
)
def test_any_text_is_continued(ask: Ask, texts: list[str], history: str, top_k: int) -> None:
    """/predict answers every text, and refuses half a character."""
    body = {"text": texts, "history": history, "top_k": top_k}
    for result in ask("/predict", body, *(f"{text} " for text in texts), history):
        appended = [candidate["append"] for candidate in result["candidates"]]
        assert len(appended) <= top_k
        assert appended == [each.rstrip(" ") for each in appended]


@SETTLED()
@given(left=TEXT, right=TEXT, choices=st.none() | st.lists(TEXT, min_size=1, max_size=4))
def test_any_text_around_a_blank_is_filled(
    ask: Ask, left: str, right: str, choices: list[str] | None
) -> None:
    """/cloze answers every text around a blank, and keeps it."""
    body = {"text": f"{left}[MASK]{right}", "choices": choices}
    sent = (f"{each} " for each in (left, right, *(choices or ())))
    for result in ask("/cloze", body, *sent):
        text = joined(f"{left}[MASK]{right}")
        first, last = result["blanks"][0], result["blanks"][-1]
        assert result["filled"].startswith(text[: first["start"]].rstrip(" "))
        assert result["filled"].endswith(text[last["end"] :].lstrip(" "))
        offered = choices is None or set(map(joined, choices))
        assert offered is True or {each["word"] for each in first["candidates"]} <= offered


@SETTLED()
@given(text=TEXT)
def test_any_text_has_a_probability(ask: Ask, text: str) -> None:
    """/score answers every text that is not empty."""
    assert all(result["characters"] > 0 for result in ask("/score", {"text": text}, text))
