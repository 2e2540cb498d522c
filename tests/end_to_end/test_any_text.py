"""Any text, sent to a service with a real checkpoint, and any bytes, prepared as a corpus: answered or refused.

FUZZ_CHECKPOINT and FUZZ_EXAMPLES choose another checkpoint and more examples.
"""

import asyncio
import gzip
import json
import lzma
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.model_loader import load
from service.schemas import ClozeAnswer, PredictAnswer, ScoreAnswer
from service.settings import Settings
from tests.fixtures_checkpoint import tiny_tokenizer
from tests.service.client import running
from training.__main__ import main
from training.data.shards import open_prepared

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))
SETTLED = partial(
    settings,
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
ANSWERS: dict[str, Any] = {"/predict": PredictAnswer, "/cloze": ClozeAnswer, "/score": ScoreAnswer}


def is_sane(answer: dict[str, Any]) -> bool:
    """Return True if probabilities are from 0 to 1 and do not rise, and log-probabilities are finite."""
    lists = [answer.get("candidates", [])]
    lists += [blank["candidates"] for blank in answer.get("blanks", [])]
    for candidates in lists:
        shares = [candidate["probability"] for candidate in candidates]
        ordered = all(one >= other for one, other in pairwise(shares))
        if not (ordered and all(0 <= share <= 1 for share in shares) and sum(shares) <= 1 + 1e-6):
            return False
    return "log_probability" not in answer or -math.inf < answer["log_probability"] <= 0


class _Service:
    """An app with a real checkpoint, on one event loop for all examples."""

    def __init__(self, checkpoint: Path) -> None:
        self.statuses: Counter[int] = Counter()
        self._settings = Settings(threads=1, device="cpu", checkpoint=checkpoint)
        self._loop = asyncio.new_event_loop()
        self._context = running(self)
        self._client: httpx.AsyncClient = self._loop.run_until_complete(self._context.__aenter__())

    def load(self, on_call: Any) -> Any:
        """As `service.app.Load`."""
        return load(self._settings, on_call)

    def end(self) -> None:
        """Nothing is held."""

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """One request, its text escaped where it is not ASCII."""
        headers = {"Content-Type": "application/json"}
        sent = self._client.post(path, content=json.dumps(body).encode(), headers=headers)
        response = self._loop.run_until_complete(sent)
        self.statuses[response.status_code] += 1
        return response

    def close(self) -> None:
        """End it."""
        self._loop.run_until_complete(self._context.__aexit__(None, None, None))
        self._loop.close()


@pytest.fixture(scope="module")
def service(tiny_checkpoint: Path) -> Iterator[_Service]:
    """See `_Service`; in the end, both kinds of answers must have come, and no other."""
    asked = _Service(Path(os.environ.get("FUZZ_CHECKPOINT", tiny_checkpoint)))
    yield asked
    asked.close()
    assert set(asked.statuses) == {200, 422}


@SETTLED(max_examples=EXAMPLES)
@given(
    texts=st.lists(TEXT, min_size=1, max_size=3),
    history=st.just("") | TEXT,
    top_k=st.integers(1, 20),
)
def test_any_text_is_typed_on(
    service: _Service, texts: list[str], history: str, top_k: int
) -> None:
    """/predict answers whatever is text, and refuses what holds half a character."""
    results = _ask(
        service, "/predict", {"text": texts, "history": history, "top_k": top_k}, [*texts, history]
    )
    for result in results:
        assert len(result["candidates"]) <= top_k
        assert all(
            candidate["append"].rstrip(" ") == candidate["append"]
            for candidate in result["candidates"]
        )


@SETTLED(max_examples=EXAMPLES)
@given(left=TEXT, right=TEXT, choices=st.none() | st.lists(TEXT, min_size=1, max_size=4))
def test_any_text_around_a_blank_is_filled(
    service: _Service, left: str, right: str, choices: list[str] | None
) -> None:
    """/cloze answers whatever is text; what comes back as filled is the text around the blank with something in it."""
    body = {"text": f"{left}[MASK]{right}", "choices": choices}
    for result in _ask(service, "/cloze", body, [left, right, *(choices or ())]):
        text = json.loads(json.dumps(body["text"]))
        first, last = result["blanks"][0], result["blanks"][-1]
        assert result["filled"].startswith(text[: first["start"]].rstrip(" "))
        assert result["filled"].endswith(text[last["end"] :].lstrip(" "))
        assert choices is None or {c["word"] for c in first["candidates"]} <= set(
            json.loads(json.dumps(choices))
        )


@SETTLED(max_examples=EXAMPLES)
@given(text=TEXT)
def test_any_text_has_a_probability(service: _Service, text: str) -> None:
    """/score answers whatever is text and is not empty."""
    for result in _ask(service, "/score", {"text": text}, [text]):
        assert result["characters"] > 0


def _ask(
    service: _Service, path: str, body: dict[str, Any], sent: list[str]
) -> list[dict[str, Any]]:
    """The results, checked; none where the request was rightly refused."""
    response = service.post(path, body)
    if any(
        "\ud800" <= character <= "\udfff"
        for text in sent
        for character in json.loads(json.dumps(text))
    ):
        assert response.status_code == 422
        return []
    if response.status_code == 422:  # an empty text, choices that are alike
        assert response.json()["errors"][0]["pointer"].startswith(("/text", "/choices"))
        assert path != "/predict"
        return []
    assert response.status_code == 200, response.text
    answer = response.json()
    assert ANSWERS[path].model_validate(answer).model_dump(mode="json") == answer
    results: list[dict[str, Any]] = answer["results"]
    assert all(map(is_sane, results))
    return results


# Files that a corpus may be made of.

LINE = st.binary(max_size=40) | TEXT.map(lambda text: text.encode("utf-8", "surrogatepass"))
LINES = st.lists(LINE, max_size=12).map(b"\n".join)
MEMBER = st.dictionaries(
    st.sampled_from(["text", "other"]), TEXT | st.none() | st.integers(), max_size=2
)
JSON_LINES = st.lists(MEMBER.map(json.dumps) | TEXT, max_size=6).map(
    lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")
)

SUFFIXES: dict[str, Callable[[bytes], bytes]] = {
    ".txt": bytes,
    ".jsonl": bytes,
    ".txt.gz": gzip.compress,
    ".jsonl.xz": lzma.compress,
    ".txt.zst": bytes,  # which it is not
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary, so that none has to be trained."""
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.model"
    path.write_bytes(tiny_tokenizer().to_bytes())
    return path


def test_any_bytes_are_prepared_or_refused_by_name(tokenizer: Path, tmp_path: Path) -> None:
    """`training prepare` ends with data that can be opened, or with status 2; compressed and torn files too."""
    statuses: Counter[int] = Counter()

    @SETTLED(max_examples=EXAMPLES)
    @given(content=LINES | JSON_LINES, suffix=st.sampled_from(sorted(SUFFIXES)), cut=st.booleans())
    def check(content: bytes, suffix: str, cut: bool) -> None:
        output = tmp_path / str(statuses.total())
        content = SUFFIXES[suffix](content)
        path = tmp_path / f"any{suffix}"
        path.write_bytes(content[: len(content) // 2] if cut else content)
        options = ["--tokenizer", str(tokenizer), "--output", str(output), "--field", "text"]
        status = main(["prepare", str(path), *options])
        statuses[status] += 1
        assert status == 2 or open_prepared(output, verify=True).sources

    check()
    assert set(statuses) == {0, 2}
