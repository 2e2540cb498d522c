"""A model side that answers at once and does as the text says: for tests of the service alone.

Texts that begin with a word of `FakeScheduler` make trouble: ``poison`` fails its own decoder, ``exhaust`` its own
memory, ``collapse`` the whole scheduler, ``die`` the engine's thread, ``hold`` is not answered before
`FakeModel.release` is set, ``slow`` takes 200 rounds, and ``stuck`` holds up the whole scheduler until
`FakeModel.stuck` is set.
"""

import re
import threading
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any, cast

from model.errors import CheckpointError, QueryError
from model.queries import (
    Blank,
    Candidate,
    ClozeQuery,
    ClozeResult,
    Filling,
    Limits,
    PredictQuery,
    PredictResult,
    Query,
    Result,
    ScoreResult,
    Usage,
    check_choice_lists,
    check_query,
)
from service.model_loader import LoadedModel

DESCRIPTION = {
    "name": "fake",
    "version": "1",
    "digest": "0" * 64,
    "architecture": {"cell": "lstm"},
    "parameters": 7,
    "languages": ["zh", "en"],
    "capabilities": ["predict", "cloze", "score"],
    "scores": {},
}
_BLANK = re.compile("_{2,}")
_SLOW_ROUNDS = 200


class FakeModel:
    """Predictor and scheduler factory in one; what it was asked to do can be read from it.

    Args:
        limits: as the real predictor's.
        later: what becomes of every load after the first: ``broken`` is refused and ``hung`` never ends.
    """

    cache = SimpleNamespace(bytes=0)

    def __init__(self, limits: Limits | None = None, later: str = "") -> None:
        self.later = later
        self.limits = limits or Limits()
        self.release = threading.Event()
        self.holding = threading.Event()
        self.stuck = threading.Event()
        self.largest_batch = 0
        self.cancelled = 0
        self.loads = 0

    def load(self, on_call: Any = None) -> LoadedModel:
        """Load the fake checkpoint, a new version each time: for `create_app`."""
        if self.loads and self.later == "broken":
            raise CheckpointError("weights.safetensors differs from SHA256SUMS; copy it again")
        if self.loads and self.later == "hung":
            threading.Event().wait()
        self.loads += 1
        description = DESCRIPTION | {"version": str(self.loads), "digest": f"{self.loads:064}"}
        new_scheduler = lambda: FakeScheduler(self, on_call)  # noqa: E731
        return LoadedModel(cast("Any", self), cast("Any", new_scheduler), description)

    def end(self) -> None:
        """Answer whatever is held."""
        self.release.set()
        self.stuck.set()

    def start(self, query: Query, _tenant: str = "", /) -> Generator[None, None, Result]:
        """A decoder; refuses what the real predictor refuses."""
        check_query(query, self.limits)
        if isinstance(query, ClozeQuery):
            blanks = len(_BLANK.findall(query.text))
            if not 1 <= blanks <= self.limits.blanks:
                raise QueryError(
                    "/text", f"has {blanks} blanks; 1 to {self.limits.blanks} are filled"
                )
            check_choice_lists(query.choices or [[]] * blanks, blanks)
        if query.text.startswith("refuse to start"):
            raise RuntimeError(query.text)
        return self._decode(query)

    def _decode(self, query: Query) -> Generator[None, None, Result]:
        if query.text.startswith("poison"):
            raise RuntimeError(query.text)
        if query.text.startswith("exhaust"):
            raise MemoryError(query.text)
        if query.text.startswith("die"):
            raise SystemExit(query.text)
        if query.text.startswith("stuck"):
            self.stuck.wait()
        if query.text.startswith("slow"):
            for _ in range(_SLOW_ROUNDS):
                yield
        while query.text.startswith("hold") and not self.release.is_set():
            self.holding.set()
            self.release.wait(0.001)
            yield
        return answer(query)


class FakeScheduler:
    """Resumes every decoder once a round."""

    def __init__(self, model: FakeModel, on_call: Any) -> None:
        self._model = model
        self._on_call = on_call
        self._live: dict[Any, Generator[None, None, Result]] = {}
        self._texts: dict[Any, str] = {}

    def add(self, ticket: Any, decoder: Any, /) -> None:
        """Take one in."""
        self._live[ticket] = decoder
        self._texts[ticket] = ticket.job.queries[ticket.index].text

    def cancel(self, ticket: Any, /) -> None:
        """Forget one."""
        self._model.cancelled += ticket in self._live
        self._live.pop(ticket, None)
        self._texts.pop(ticket, None)

    def step(self) -> list[tuple[Any, Any]]:
        """One round."""
        self._model.largest_batch = max(self._model.largest_batch, len(self._live))
        if self._on_call:
            self._on_call("next", len(self._live), len(self._live))
        collapsing = [text for text in self._texts.values() if text.startswith("collapse")]
        if collapsing:
            raise RuntimeError(collapsing[0])
        finished: list[tuple[Any, Any]] = []
        for ticket, decoder in self._live.items():
            try:
                next(decoder)
            except StopIteration as stop:
                finished.append((ticket, stop.value))
            except Exception as error:  # as the real one does
                finished.append((ticket, error))
        for ticket, _ in finished:
            del self._live[ticket], self._texts[ticket]
        return finished


def answer(query: Query) -> Result:
    """What the fake answers: fixed words, probabilities that sum to less than 1."""
    usage = Usage(len(query.text), min(1, len(query.text)))
    words = [f"word{number}" for number in range(getattr(query, "top_k", 0))]
    probabilities = [0.5 ** (number + 1) for number in range(len(words))]
    if isinstance(query, PredictQuery):
        return PredictResult(tuple(map(Candidate, words, words, probabilities)), usage)
    if isinstance(query, ClozeQuery):
        spans = [match.span() for match in _BLANK.finditer(query.text)]
        fillings = tuple(map(Filling, words, probabilities))
        blanks = tuple(Blank(start, end, fillings) for start, end in spans)
        return ClozeResult(_BLANK.sub("word0", query.text), blanks, usage)
    return ScoreResult(-2.0 * len(query.text), len(query.text), len(query.text), usage)
