"""Queries in, answers out: checks a query and hands it to its decoder. Service and offline evaluation stand on this.

``run`` drives its own scheduler; a service that batches across requests takes decoders from ``start`` instead.
"""

from collections.abc import Hashable, Sequence
from typing import Any

from model.checkpoint import Capability, Checkpoint
from model.decoding.cloze import fill_blanks, lay_out
from model.decoding.context import DecoderContext
from model.decoding.masked import fill_masked
from model.decoding.next_word import SearchOptions, next_words
from model.decoding.prefix_cache import PrefixCache
from model.decoding.score import score_text
from model.decoding.token_index import TokenIndex
from model.errors import LacunaError, UnsupportedError
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
    ScoreQuery,
    ScoreResult,
    Usage,
    check_query,
)
from model.runtime import Runtime
from model.scheduler import Scheduler
from model.steps import Decoder

__all__ = [
    "Blank",
    "Candidate",
    "ClozeQuery",
    "ClozeResult",
    "Filling",
    "Limits",
    "PredictQuery",
    "PredictResult",
    "Predictor",
    "Query",
    "Result",
    "ScoreQuery",
    "ScoreResult",
    "Usage",
]

# Decoders that run side by side in Predictor.run: enough to fill batches, few enough for their rows to fit in memory.
LIVE = 64
CACHE_BYTES = 64 * 1024 * 1024


class Predictor:
    """Answers queries with one checkpoint on one runtime.

    Args:
        checkpoint: vocabulary, sizes and calibration.
        runtime: runs its network.
        limits: what one query may ask for.
        search: how far the search for next words goes; None for the defaults.
        cache_bytes: what the cache of prefixes may take; 0 for none.
        use_cache_lm: whether what a text and its history hold is likelier to come again (model/decoding/cache_lm.py).

    Attributes:
        cache: of the texts that were read; only the thread that runs the decoders may touch it.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        runtime: Runtime,
        limits: Limits | None = None,
        search: SearchOptions | None = None,
        cache_bytes: int = CACHE_BYTES,
        use_cache_lm: bool = True,
    ) -> None:
        self.checkpoint = checkpoint
        self.runtime = runtime
        self.limits = limits or Limits()
        self._search = search
        self.cache = PrefixCache(cache_bytes)
        self._resources = DecoderContext(
            checkpoint.tokenizer,
            TokenIndex(checkpoint.tokenizer),
            checkpoint.network,
            checkpoint.calibration,
            self.cache,
            checkpoint.word_end_probs,
            use_cache_lm,
        )

    def start(self, query: Query, tenant: str = "") -> Decoder[Result]:
        """Check a query and make the decoder that will answer it; nothing runs yet.

        Args:
            query: what is asked.
            tenant: who asks; what a tenant's texts left in the cache is found by no other.

        Raises:
            QueryError: the query cannot be answered; its field is a JSON pointer relative to the query.
            UnsupportedError: the checkpoint cannot answer this kind of question.
        """
        check_query(query, self.limits)
        if isinstance(query, PredictQuery):
            self._require("predict")
            return next_words(self._resources, query, self._search, tenant)
        if isinstance(query, ScoreQuery):
            self._require("score")
            return score_text(self._resources, query)
        self._require("cloze")
        layout = lay_out(query, self.limits.blanks)
        if self.checkpoint.network.architecture == "stacked_bidirectional":
            return fill_masked(self._resources, query, layout)
        return fill_blanks(self._resources, query, layout, tenant)

    def run(self, queries: Sequence[Query]) -> list[Result | LacunaError]:
        """Answer queries, batched as they come, each as if it were alone.

        Returns:
            One result per query, in order; a named error in the place of one that cannot be answered.

        Raises:
            Exception: what a decoder or the runtime raised that has no name: a bug, never the query's fault.
        """
        scheduler = Scheduler(self.runtime)
        answers: dict[Hashable, Any] = {}
        waiting = iter(enumerate(queries))
        exhausted = False
        while not exhausted or scheduler.pending:
            while not exhausted and scheduler.pending < LIVE:
                number, query = next(waiting, (-1, None))
                exhausted = query is None
                if query is None:
                    break
                try:
                    scheduler.add(number, self.start(query))
                except LacunaError as error:
                    answers[number] = error
            for ticket, answer in scheduler.step():
                if isinstance(answer, Exception) and not isinstance(answer, LacunaError):
                    raise answer
                answers[ticket] = answer
        return [answers[number] for number in range(len(queries))]

    def _require(self, capability: Capability) -> None:
        if capability not in self.checkpoint.capabilities:
            able = ", ".join(self.checkpoint.capabilities) or "no question"
            raise UnsupportedError(
                "/text", f"this checkpoint can answer {able}, not {capability}; load another one"
            )
