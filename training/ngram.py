"""``python -m training ngram``: count n-grams in prepared data, and put them into a checkpoint.

Counting sorts; it needs no dictionary. Orders are built on each other: a k-gram is (rank of its
first k - 1 tokens, last token), packed into one uint64. The peak is about 70 bytes for each token
of text, on one core. Without --megabytes every n-gram that occurs is kept.

Lines begin with <s>, have no end symbol (as in /score), and no n-gram crosses a line. The files are
described in model/counts.py.
"""

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model.checkpoint import (
    CARD,
    COUNTS,
    TOKENIZER,
    WORD_END_PROBS,
    WORDS,
    Checkpoint,
    CheckpointConfig,
    check_target,
    load_checkpoint,
    revise_checkpoint,
    word_end_probs_file,
    write_checkpoint,
)
from model.config import Calibration
from model.counts import CountsFiles, Level, counts_files, file_sizes
from model.errors import PreparedDataError
from model.runtime import Float32Array
from model.tokenizer import END_OF_GAP, NEVER_PREDICTED, START
from training.cached_json import check_writable
from training.data.shards import Prepared, languages_of, open_prepared
from training.evaluation.model_card import model_card
from training.options import argument, option
from training.progress import progress_bar
from training.pruning import prune, relative_entropy
from training.word_end_probs import word_end_probs

DISCOUNTS = ("D1", "D2", "D3+")
# Token ids of lines, back to back (tokens,), and their starts and the last end (lines + 1,)
Text = tuple[NDArray[np.uint16], NDArray[np.int64]]
# For texts so small that no discount can be estimated, as KenLM's --discount_fallback.
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)


@dataclass(frozen=True, slots=True)
class NgramOptions:
    """Options of the command."""

    prepared: Path = argument("directory written by `python -m training prepare`")
    output: Path = option("checkpoint directory to write; it must not exist", metavar="DIR")
    checkpoint: Path | None = option(
        "checkpoint to copy with these counts (default: write one without a network)", None, "DIR"
    )
    megabytes: float | None = option("largest size of the counts (default: keep all)", None, "MB")
    order: Literal[2, 3, 4, 5] = option("tokens of the longest n-gram", 5)


def run(options: NgramOptions) -> int:
    """Run the command; 0 on success."""
    (counts, *_) = build(options).counts
    ngrams = " + ".join(f"{ngrams:,}" for ngrams in counts.ngrams)
    sys.stdout.write(
        f"{options.output}: {ngrams} n-grams, {sum(file_sizes(counts.config)):,} bytes,"
        f" from {counts.config.training['tokens']:,} tokens\n"
    )
    return 0


def build(options: NgramOptions) -> Checkpoint:
    """Count the training text of prepared data and write a checkpoint with the counts.

    Raises:
        PreparedDataError: the data cannot be read or are empty, or have another tokenizer than the
            checkpoint.
        CheckpointError: the checkpoint cannot be read, or the output exists.
    """
    name = f"{options.order}-gram"
    check_target(options.output, name, "1", overwrite=False)
    check_writable(options.output)  # before the work
    data = open_prepared(options.prepared)
    base = load_checkpoint(options.checkpoint) if options.checkpoint else None
    if base and base.tokenizer.digest != data.tokenizer.digest:
        raise PreparedDataError(
            f"{options.prepared} has another tokenizer than {options.checkpoint}; prepare the text"
            " with --tokenizer"
        )
    max_bytes = None if options.megabytes is None else int(options.megabytes * 1e6)
    counts = count(data, options.order, max_bytes)
    if base:
        return revise_checkpoint(base.directory, counts={0: counts}, output=options.output)
    described = CheckpointConfig(
        name=name,
        version="1",
        network=None,
        counts=(counts[0],),
        calibration=Calibration(),
        languages=languages_of(data.sources),
        scores={},
        training=counts[0].training,
    )
    word_ends = word_end_probs(data.sources, data.tokenizer)
    files = {
        TOKENIZER: data.tokenizer.model_proto,
        WORDS: data.words,
        WORD_END_PROBS: word_end_probs_file(word_ends),
        CARD: model_card(described).encode(),
        **{f"{COUNTS[0]}/{name}": content for name, content in counts[1].items()},
    }
    return write_checkpoint(options.output, described, files)


def count(data: Prepared, order: int, max_bytes: int | None = None) -> CountsFiles:
    """Return counts of the training text of prepared data, pruned if they have a largest size.

    Raises:
        PreparedDataError: the text is empty, or *max_bytes* are too few.
    """
    started = time.process_time()
    texts = [(source.ids, source.offsets) for source in data.sources]
    predictable = np.ones(data.tokenizer.size, dtype=np.bool_)
    predictable[[*NEVER_PREDICTED, END_OF_GAP]] = False
    unigram, levels, losses, discounts = estimate(texts, predictable, order)
    counted = [len(level.tokens) for level in levels]
    if max_bytes is not None:
        levels = prune(len(unigram), levels, losses, max_bytes)
    return counts_files(
        unigram,
        levels,
        {
            "smoothing": "interpolated modified Kneser-Ney",
            "discounts": discounts,
            "tokens": sum(len(source.ids) for source in data.sources),
            "data_sha256": data.sha256,
            "counted": counted,  # n-grams before pruning, by order from 2
            "cpu_seconds": round(time.process_time() - started, 1),
        },
    )


def estimate(
    texts: Iterable[Text], predictable: NDArray[np.bool_], order: int
) -> tuple[Float32Array, list[Level], list[Float32Array], list[dict[str, Any]]]:
    """Count and discount; return p of the unigrams (V,), the longer orders, losses, discounts.

    The adjusted count of an n-gram is its number of occurrences at the highest order and if it
    begins with <s>, else the number of different tokens that precede it. D1, D2, D3+ are estimated
    for each order. Chen & Goodman 1999; <s> as in Heafield et al. 2013, Scalable modified
    Kneser-Ney language model estimation.

    The uniform distribution below the unigrams covers the *predictable* tokens, (V,). Losses are
    those of :func:`training.pruning.relative_entropy`, by order from 2.

    Raises:
        PreparedDataError: the texts are empty.
    """
    stream = _join(texts)
    grams = _unigrams(stream, len(predictable))
    ranks = stream.astype(np.uint32)  # of the (k-1)-gram that ends at each position
    inside = np.ones(len(stream), dtype=np.bool_)  # True if that (k-1)-gram lies in one line
    lower = np.full(1, 1 / predictable.sum(), dtype=np.float32)  # p of the empty n-gram
    levels, losses, discounts = [], [], []
    progress = progress_bar("n-grams", order, "orders")
    for k in range(1, order + 1):
        longer, adjusted = grams, grams.occurrences
        if k < order:
            inside[1:] = inside[:-1] & (stream[1:] != START)
            inside[0] = False
            longer, adjusted = _extend(grams, stream, ranks, inside)
        else:
            del stream, ranks, inside
        discounts.append(_discounts(adjusted))
        level, loss, lower = _smooth(grams, adjusted, discounts[-1], lower)
        levels.append(level)
        losses.append(loss)
        if k == 1:
            lower = unigram = np.where(predictable, lower, np.float32(0))
        grams = longer
        progress.update()
    progress.close()
    return unigram, levels[1:], losses[1:], discounts


@dataclass(frozen=True, slots=True)
class _Grams:
    """All n k-grams of one order, sorted by (prefix, token)."""

    prefixes: NDArray[np.uint32]  # (n,) ranks of their first k - 1 tokens
    suffixes: NDArray[np.uint32]  # (n,) ranks of their last k - 1 tokens
    tokens: NDArray[np.uint16]  # (n,) their last tokens
    occurrences: NDArray[np.uint32]  # (n,)
    begins: NDArray[np.bool_]  # (n,) True if they begin with <s>
    parents: int  # number of (k-1)-grams


def _unigrams(stream: NDArray[np.uint16], size: int) -> _Grams:
    """Return all tokens, seen or not, ranked by id; <s> is a context and is not counted."""
    tokens = np.arange(size, dtype=np.uint16)
    occurrences = np.bincount(stream, minlength=size).astype(np.uint32)
    occurrences[START] = 0
    empty = np.zeros(size, dtype=np.uint32)
    return _Grams(empty, empty, tokens, occurrences, tokens == START, 1)


def _extend(
    grams: _Grams, stream: NDArray[np.uint16], ranks: NDArray[np.uint32], inside: NDArray[np.bool_]
) -> tuple[_Grams, NDArray[Any]]:
    """Return the k-grams and the adjusted counts of the (k-1)-grams; *ranks* become k-grams'."""
    ends = np.flatnonzero(inside).astype(np.uint32)
    keys = ranks[ends - np.uint32(1)].astype(np.uint64) << np.uint64(16)
    keys |= stream[ends]
    by_key = np.argsort(keys)
    keys, ends = keys[by_key], ends[by_key]
    del by_key  # the arrays are as long as the text
    first = np.ones(len(keys), dtype=np.bool_)
    first[1:] = keys[1:] != keys[:-1]
    heads = np.flatnonzero(first)
    distinct = keys[heads]
    del keys
    suffixes = ranks[ends[heads]]
    # Each different k-gram gives its (k-1)-gram suffix one more different left neighbour.
    neighbours = np.bincount(suffixes, minlength=len(grams.tokens)).astype(np.uint32)
    adjusted = np.where(grams.begins, grams.occurrences, neighbours)
    ranks[ends] = np.cumsum(first, dtype=np.uint32) - np.uint32(1)
    prefixes = (distinct >> np.uint64(16)).astype(np.uint32)
    longer = _Grams(
        prefixes=prefixes,
        suffixes=suffixes,
        tokens=(distinct & np.uint64(0xFFFF)).astype(np.uint16),
        occurrences=np.diff(heads, append=len(ends)).astype(np.uint32),
        begins=grams.begins[prefixes],
        parents=len(grams.tokens),
    )
    return longer, adjusted


def _smooth(
    grams: _Grams, adjusted: NDArray[Any], discounts: dict[str, Any], lower: Float32Array
) -> tuple[Level, Float32Array, Float32Array]:
    """Return the k-grams with their shares, what each is worth, and p of each, (n,).

    *lower* is p of each (k-1)-gram.
    """
    # Index 0: a token that does not occur in the text.
    by_count = np.array([0.0, *(discounts[name] for name in DISCOUNTS)], dtype=np.float32)
    taken = by_count[np.minimum(adjusted, 3)]
    totals = _sums(grams, adjusted)
    # A context that nothing follows, as at a line's end, is asked for nothing.
    shares = (adjusted.astype(np.float32) - taken) / totals[grams.prefixes]
    backoffs = (_sums(grams, taken) / np.maximum(totals, 1)).astype(np.float32)[grams.prefixes]
    lower = lower[grams.suffixes]
    seen = _sums(grams, grams.occurrences)[grams.prefixes]
    loss = relative_entropy(seen, shares, backoffs, lower)
    followers = np.bincount(grams.prefixes, minlength=grams.parents).astype(np.uint32)
    return Level(followers, grams.tokens, shares), loss, shares + backoffs * lower


def _sums(grams: _Grams, values: NDArray[Any]) -> Float32Array:
    """Return the sum of the values of each parent's k-grams, (parents,)."""
    sums = np.bincount(grams.prefixes, weights=values, minlength=grams.parents)
    return sums.astype(np.float32)


def _discounts(adjusted: NDArray[Any]) -> dict[str, Any]:
    """Estimate the discounts of one order from the counts of counts.

    D_i = i - (i + 1) Y n_{i+1} / n_i, with n_i n-grams of adjusted count i and
    Y = n1 / (n1 + 2 n2); D3+ is D_3.
    """
    n = np.bincount(np.minimum(adjusted, 5), minlength=6).astype(float)
    if n[1:5].all():
        y = n[1] / (n[1] + 2 * n[2])
        discounts = [float(i - (i + 1) * y * n[i + 1] / n[i]) for i in (1, 2, 3)]
        if all(0 < discount <= i for i, discount in enumerate(discounts, start=1)):
            return {**dict(zip(DISCOUNTS, discounts, strict=True)), "estimated": True}
    return {**dict(zip(DISCOUNTS, FALLBACK_DISCOUNTS, strict=True)), "estimated": False}


def _join(texts: Iterable[Text]) -> NDArray[np.uint16]:
    """Join all lines, each after its <s>."""
    parts = [np.insert(ids, offsets[:-1], START) for ids, offsets in texts]
    if not any(map(len, parts)):
        raise PreparedDataError("no text to count; prepare at least one line")
    return np.concatenate(parts).astype(np.uint16, copy=False)
