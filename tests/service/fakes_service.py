"""A model side that answers at once and does as the text says: for tests of the service alone.

The first word of a text can ask for trouble: ``poison`` and ``exhaust`` fail the decoder of the
text, ``collapse`` the whole scheduler, ``die`` the engine's thread. ``hold`` waits for
`FakeModel.release`, ``slow`` takes 200 rounds, and ``stuck`` holds up the scheduler until
`FakeModel.stuck` is set. ``pause`` stops the process until SIGCONT. Loads wait while
`FakeModel.load_now` is cleared.
"""

import math
import re
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from types import SimpleNamespace
from typing import Any, cast

from model.checks import RequestCheck, fit_choices
from model.completions import CompletionPart, CompletionQuery, CompletionResult
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
)
from service.estimate import Estimator
from service.model_loader import LoadedModel

DESCRIPTION = {
    "name": "fake",
    "version": "1",
    "digest": "0" * 64,
    "runtime": "fake",
    "architecture": {"cell": "lstm"},
    "parameters": 7,
    "counts": [],
    "languages": ["zh", "en"],
    "capabilities": ["predict", "cloze", "score"],
    "scores": {},
}
_BLANK = re.compile("_{2,}")
_SLOW_ROUNDS = 200
_TROUBLE = {"poison": RuntimeError, "exhaust": MemoryError, "die": SystemExit}


class FakeModel:
    """Predictor and scheduler factory in one, with counters.

    Args:
        limits: as the real predictor's.
        later: ``broken`` and ``exhausted`` fail each load after the first; ``hung`` never ends.
    """

    cache = SimpleNamespace(bytes=0)
    checkpoint = SimpleNamespace(tokenizer=SimpleNamespace(encode=lambda text: [len(text)]))

    def __init__(self, limits: Limits | None = None, later: str = "") -> None:
        self.later = later
        self.limits = limits or Limits()
        self.release = threading.Event()
        self.holding = threading.Event()
        self.stuck = threading.Event()
        self.loading, self.load_now = threading.Event(), threading.Event()
        self.load_now.set()
        self.largest_batch = 0
        self.cancelled = 0
        self.loads = 0

    def load(self, on_call: Any = None) -> LoadedModel:
        """Load the fake checkpoint, a new version each time: for `create_app`."""
        if self.loads and self.later == "broken":
            raise CheckpointError("onnx/int8.weights differs from SHA256SUMS; copy it again")
        if self.loads and self.later == "exhausted":
            raise OSError(24, "Too many open files")
        if self.loads and self.later == "hung":
            threading.Event().wait()
        self.loading.set()
        self.load_now.wait()
        self.loads += 1
        description = DESCRIPTION | {"version": str(self.loads), "digest": f"{self.loads:064}"}
        new_scheduler = lambda: FakeScheduler(self, on_call)  # noqa: E731
        estimator = Estimator(self.limits, 64 << 20)
        return LoadedModel(cast("Any", self), cast("Any", new_scheduler), description, estimator)

    def end(self) -> None:
        """Release every text."""
        self.release.set()
        self.stuck.set()

    def start_all(
        self, queries: Iterable[Query], _cache_salt: str = "", /
    ) -> Iterator[Generator[None, None, Result]]:
        """Yield decoders, or refuse what the real predictor refuses."""
        check = RequestCheck(self.limits)
        for query in queries:
            choices = check.check(query)
            if isinstance(query, CompletionQuery):
                query.check(self.limits.characters, self.limits.tokens, 1000)
            if isinstance(query, ClozeQuery):
                blanks = len(_BLANK.findall(query.text))
                if not 1 <= blanks <= self.limits.blanks:
                    raise QueryError(
                        "/text", f"has {blanks} blanks; 1 to {self.limits.blanks} are filled"
                    )
                if choices is not None:
                    fit_choices(query, choices, blanks)
            if query.text.startswith("refuse to start"):
                raise RuntimeError(query.text)
            yield self._decode(query)

    def peak_bytes(self, query: Query, /) -> int:
        """Return a bound of the bytes of a decoder: of ``hold N MiB``, N MiB."""
        held = re.match("hold ([0-9]+) MiB", query.text)
        return int(held[1]) << 20 if held else 0

    def _decode(self, query: Query) -> Generator[None, None, Result]:
        if error := _TROUBLE.get(query.text.partition(" ")[0]):
            raise error(query.text)
        if query.text.startswith("pause"):
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        if query.text.startswith("stuck"):
            self.stuck.wait()
        if query.text.startswith("slow"):
            for _ in range(_SLOW_ROUNDS):
                yield
        while query.text.startswith("hold") and not self.release.is_set():
            self.holding.set()
            self.release.wait(0.001)
            yield
        if isinstance(query, CompletionQuery):
            return (yield from self._complete(query))
        return answer(query)

    def _complete(self, query: CompletionQuery) -> Generator[None, None, Result]:
        """Write a word each round, and ``trouble`` if the text ends in that."""
        words = [f"word{number} " for number in range(query.max_tokens)]
        parts = [*map(CompletionPart, words), CompletionPart("", (), "length")]
        for number, part in enumerate(parts):
            if query.on_part:
                query.on_part(part)
            if number == 1 and query.text.endswith("trouble"):
                raise RuntimeError(query.text)
            while number == 1 and query.text.endswith("wait") and not self.release.is_set():
                self.release.wait(0.001)
                yield
            yield
        return CompletionResult(tuple(parts), len(query.text), query.max_tokens)


class FakeScheduler:
    """Resumes every decoder once a round."""

    def __init__(self, model: FakeModel, on_call: Any) -> None:
        self._model = model
        self._on_call = on_call
        self._live: dict[Any, Generator[None, None, Result]] = {}

    def add(self, ticket: Any, decoder: Any, /) -> None:
        """Add a decoder."""
        self._live[ticket] = decoder

    def cancel(self, ticket: Any, /) -> None:
        """Drop a decoder."""
        self._model.cancelled += self._live.pop(ticket, None) is not None

    def step(self) -> list[tuple[Any, Any]]:
        """Run one round; return what finished."""
        self._model.largest_batch = max(self._model.largest_batch, len(self._live))
        if self._on_call:
            self._on_call("next", len(self._live), len(self._live))
        finished: list[tuple[Any, Any]] = []
        for ticket, decoder in self._live.items():
            if (text := ticket.job.queries[ticket.index].text).startswith("collapse"):
                raise RuntimeError(text)
            try:
                next(decoder)
            except StopIteration as stop:
                finished.append((ticket, stop.value))
            except Exception as error:  # as the real one does
                finished.append((ticket, error))
        for ticket, _ in finished:
            del self._live[ticket]
        return finished


def answer(query: Query) -> Result:
    """Answer with fixed words, whose probabilities sum to less than 1."""
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
    length = len(query.text)
    return ScoreResult(-2.0 * length, length, length, 2.0 / math.log(2.0), usage)
