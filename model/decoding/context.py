"""What every decoder needs of a checkpoint, and the readings that they share."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from model.config import Calibration, NetworkConfig
from model.decoding.cache_lm import STRENGTHS, CacheLM
from model.decoding.prefix_cache import Prefix, PrefixCache, Reading
from model.decoding.token_index import TokenIndex
from model.runtime import Float32Array, Tower, initial_states, output_of
from model.steps import Advance, Decoder, ask
from model.text import language_at_end
from model.tokenizer import START, Tokenizer

# A long text is read in stretches of so many characters, and the state after each is kept, so that a text that differs
# from it at the end only is not read from its start.
STRETCH = 192
# Tokens before a place that its memory looks at.
CONTEXT = len(STRENGTHS)
# Below it, a bar saves nothing: most of a row stands above.
LOWEST_BAR = 1e-6


@dataclass(frozen=True, slots=True)
class DecoderContext:
    """A checkpoint as decoders see it; built once, shared by all.

    Attributes:
        tokenizer: tokens.
        index: the tokens by spelling.
        network: sizes.
        calibration: temperatures and weights.
        cache: of the texts that were read.
        word_end_probs: by token, how often a word ends after it (:attr:`model.checkpoint.Checkpoint.word_end_probs`).
        use_cache_lm: whether what was written makes its words likelier; without it for comparisons.
    """

    tokenizer: Tokenizer
    index: TokenIndex
    network: NetworkConfig
    calibration: Calibration
    cache: PrefixCache
    word_end_probs: Sequence[float]
    use_cache_lm: bool = True

    def initial(self, tower: Tower) -> Float32Array:
        """The state before anything is read, (S,)."""
        return cast("Float32Array", initial_states(self.network, tower, 1)[0])

    def output(self, tower: Tower, state: Float32Array) -> Float32Array:
        """What the heads read of a state: (S,) -> (H,)."""
        return output_of(self.network, tower, state)

    def memory(self, prefix: Prefix, least: int = 0) -> CacheLM | None:
        """What is remembered at the end of a prefix; None where that is no more than *least* tokens."""
        if not self.use_cache_lm or len(prefix.written) <= least:
            return None
        if prefix.memory is None:
            prefix.memory = CacheLM(prefix.written.astype(np.int64), self.tokenizer.background)
            prefix.tree_bytes += prefix.memory.nbytes
        return prefix.memory

    def next_temperature(self, before: str) -> float:
        """What divides the next head's logits after *before*, all text so far, by its language."""
        return self.calibration.next_temperature[language_at_end(before)]


def salted(tenant: str, history: str) -> str:
    """Whose prefixes a query may use: another history remembers other words, so its prefixes are others."""
    return f"{tenant}\0{hashlib.sha256(history.encode()).hexdigest()}" if history else tenant


def read_text(
    resources: DecoderContext, text: str, tenant: str = "", history: str = ""
) -> Decoder[tuple[Prefix, int]]:
    """The forward tower after *text*, from the longest prefix of it that is known.

    Args:
        resources: of the checkpoint.
        text: normalised; it ends at a seam of what follows, or where what follows is encoded apart.
        tenant: whose prefixes may be used, as :func:`salted` says.
        history: normalised; remembered, and not read by the network.

    Returns:
        The prefix that is *text*, and how many of its tokens need not have been read now.
    """
    index, cache = resources.index, resources.cache
    prefix = cache.find(tenant, text, index.is_seam)
    known = 0 if prefix is None else prefix.tokens
    if prefix is None:
        prefix = cache.get(tenant, "")
    if prefix is None:
        (state,) = yield from ask([Advance("forward", resources.initial("forward"), (START,))])
        written = np.array([*index.encode(history), START] if history else [START], dtype=np.uint16)
        prefix = Prefix("", 0, Reading(state, before=(START,)), written)
        cache.keep(tenant, prefix)
    while len(prefix.text) < len(text):
        start = len(prefix.text)
        end = (
            index.last_seam(text[: start + STRETCH + 1], start)
            if len(text) > start + STRETCH
            else len(text)
        )
        end = end if end > start else len(text)
        further = cache.get(tenant, text[:end])
        if further is not None:
            known += further.tokens - prefix.tokens
            prefix = further
            continue
        tokens = index.encode(text[start:end])
        reading, walked = prefix.reading, 0
        while walked < len(tokens) and tokens[walked] in reading.further:
            reading = reading.further[tokens[walked]]
            walked += 1
        if known == prefix.tokens:
            known += walked
        if walked < len(tokens):
            (state,) = yield from ask([Advance("forward", reading.state, tuple(tokens[walked:]))])
            reading = Reading(state)
        written = np.append(prefix.written, np.array(tokens, dtype=np.uint16))
        reading.before = tuple(written[-CONTEXT:].tolist())
        prefix = Prefix(text[:end], prefix.tokens + len(tokens), reading.alone(), written)
        cache.keep(tenant, prefix)
    return prefix, known


def largest(values: NDArray[np.floating[Any]], count: int, above: float) -> NDArray[np.int64]:
    """Indices of the *count* largest of *values* (n,) that are above *above*, largest first; ties by index."""
    chosen = (values > above).nonzero()[0]
    if (
        len(chosen) > 4 * count
    ):  # to sort them all would take longer than to find the last of those that count
        picked = values[chosen]
        chosen = chosen[picked >= np.partition(picked, len(picked) - count)[len(picked) - count]]
    return chosen[(-values[chosen]).argsort(kind="stable")[:count]]


def most_probable(row: Float32Array, count: int) -> NDArray[np.int64]:
    """The same for probabilities above 0: where enough are high, no other need be looked at."""
    bar = 1.0 / (16 * count)
    while bar > LOWEST_BAR:
        chosen = (row > bar).nonzero()[0]
        if len(chosen) >= count:
            return chosen[(-row[chosen]).argsort(kind="stable")[:count]]
        bar /= 8.0
    return largest(row, count, 0.0)
