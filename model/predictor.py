"""Open a checkpoint and answer queries with it, for the service and for offline evaluation.

:meth:`Predictor.run` drives its own scheduler. A service that batches the queries of many requests
takes decoders from :meth:`Predictor.start_all` and runs a scheduler itself.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from operator import is_not
from pathlib import Path
from typing import Any, Literal

from model.batching import Decoder, Scheduler
from model.checkpoint import Checkpoint, load_checkpoint
from model.checks import RequestCheck
from model.completions import CompletionQuery
from model.decoding.assist import assist
from model.decoding.blanks import find_blanks
from model.decoding.cloze import fill_blanks
from model.decoding.completion import complete_text
from model.decoding.context import DecoderContext, History
from model.decoding.masked import fill_masked
from model.decoding.next_word import next_words
from model.decoding.peak_bytes import PeakBytes
from model.decoding.prefix_cache import PrefixCache
from model.decoding.score import ContextReader, score_text
from model.errors import LacunaError, QueryError
from model.listed_files import MAX_TOTAL_BYTES
from model.onnx_graphs import count_parameters
from model.queries import (
    LexiconEntry,
    Limits,
    PredictQuery,
    Query,
    Result,
    ScoreQuery,
)
from model.runtime import Runtime, open_runtime
from model.text import normalise

# Decoders that Predictor.run runs at the same time: enough to fill batches, few enough for memory.
MAX_LIVE = 64
CACHE_BYTES = 64 * 1024 * 1024
# History, lexicon and blocked words of a query without them.
_NOTHING_SENT: tuple[str, tuple[LexiconEntry, ...], tuple[str, ...]] = ("", (), ())
# What a checkpoint must be able to do; for other queries, to fill blanks.
_CAPABILITIES = {PredictQuery: "predict", ScoreQuery: "score", CompletionQuery: "predict"}


class Predictor:
    """Answers queries with one checkpoint on one runtime.

    A prefix cache of 0 *cache_bytes* keeps nothing. *use_cache_lm* makes words of the text and its
    history more probable (cache_lm.py).
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        runtime: Runtime,
        limits: Limits | None = None,
        cache_bytes: int = CACHE_BYTES,
        use_cache_lm: bool = True,
    ) -> None:
        self.checkpoint = checkpoint
        self._capabilities = checkpoint.capabilities
        self.runtime = runtime
        self.limits = limits or Limits()
        self.cache = PrefixCache(cache_bytes)  # only for the thread that runs the decoders
        normalise("我")  # loads its tables before the first text comes
        self._context = DecoderContext(checkpoint, runtime.sizes, self.cache, use_cache_lm)
        self._peak_bytes = PeakBytes(runtime.sizes, self.limits)

    def start(self, query: Query, cache_salt: str = "") -> Decoder[Result]:
        """Check one query and return its decoder; see :meth:`start_all`."""
        return next(self.start_all([query], cache_salt))

    def start_all(
        self, queries: Iterable[Query], cache_salt: str = ""
    ) -> Iterator[Decoder[Result]]:
        """Check the queries of a request and yield their decoders; nothing runs yet.

        A history, words, choices or context that they share, as the same object, are read once.
        Only queries with the same *cache_salt* find in the cache what these left there.

        Raises:
            QueryError: the query is invalid, or not of a kind that the checkpoint can answer; its
                field is a JSON pointer relative to the query.
        """
        check = RequestCheck(self.limits)
        history, sent = History("", cache_salt), _NOTHING_SENT
        reader: ContextReader | None = None
        read = ""
        for query in queries:
            choices = check.check(query)
            kind = _CAPABILITIES.get(type(query), "cloze")
            if isinstance(query, CompletionQuery) and query.suffix:
                kind = "cloze"
            if kind not in self._capabilities:
                able = ", ".join(self._capabilities) or "no question"
                raise QueryError(
                    "/text", f"this checkpoint can answer {able}, not {kind}; load another one"
                )
            if isinstance(query, ScoreQuery):
                if reader is None or query.context is not read:
                    reader = ContextReader(self._context, query.context, History("", cache_salt))
                    read = query.context
                yield score_text(self._context, query, reader)
                continue
            if isinstance(query, CompletionQuery):
                limits = self.limits
                query.check(limits.characters, limits.tokens, self._context.tokenizer.size)
                yield complete_text(self._context, query, History("", cache_salt))
                continue
            writer = query.history, query.lexicon, query.block
            if any(map(is_not, writer, sent)):
                history, sent = History(writer[0], cache_salt, *writer[1:]), writer
            if isinstance(query, PredictQuery):
                decode = next_words if query.is_plain else assist
                yield decode(self._context, query, history)
                continue
            layout = find_blanks(query, self.limits.blanks, choices)
            if self.runtime.sizes.architecture == "stacked_bidirectional":
                yield fill_masked(self._context, layout, history)
            else:
                yield fill_blanks(self._context, layout, history)

    def peak_bytes(self, query: Query) -> int:
        """Return an upper bound of what the decoder of a query keeps between two steps, in bytes.

        It takes some microseconds, and the query need not be checked.
        """
        return self._peak_bytes.of(query)

    def run(self, queries: Sequence[Query]) -> list[Result | LacunaError]:
        """Answer queries in batches; each gets the answer, or named error, that it gets alone.

        Raises:
            Exception: an unnamed error of a decoder or the runtime, which is a bug.
        """
        scheduler = Scheduler(self.runtime)
        answers: dict[Hashable, Any] = {}
        started = 0
        while started < len(queries) or scheduler.pending:
            while started < len(queries) and scheduler.pending < MAX_LIVE:
                try:
                    scheduler.add(started, self.start(queries[started]))
                except LacunaError as error:
                    answers[started] = error
                started += 1
            for number, answer in scheduler.step():
                if isinstance(answer, Exception) and not isinstance(answer, LacunaError):
                    raise answer
                answers[number] = answer
        return [answers[number] for number in range(len(queries))]


def open_model(
    directory: Path,
    device: Literal["cpu", "cuda"] = "cpu",
    threads: int = 1,
    max_bytes: int = MAX_TOTAL_BYTES,
) -> tuple[Checkpoint, Runtime]:
    """Open a checkpoint and what runs it.

    Raises:
        CheckpointError: it cannot be read, has more than *max_bytes*, or the device cannot run it.
    """
    checkpoint = load_checkpoint(directory, max_bytes)
    return checkpoint, open_runtime(checkpoint, device, threads)


def size_of(checkpoint: Checkpoint) -> int:
    """Return the number of trained parameters, or of counted n-grams."""
    if checkpoint.network:
        return count_parameters(checkpoint.network)
    return sum(sum(each.ngrams) for each in checkpoint.counts)
