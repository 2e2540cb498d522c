"""``python -m training ngram``: a Kneser-Ney n-gram counted from prepared data, the baseline.

Counting sorts; it needs no dictionary. Orders are built on each other: a k-gram is (rank of its
first k - 1 tokens, last token), packed into one uint64. The peak is about 70 bytes for each token
of text (2.3 GB for 33 M tokens), on one core. Every n-gram that occurs is kept.

Lines begin with <s>, have no end symbol (as in /score), and no n-gram crosses a line. The format on
disk is described in model/ngram.py.
"""

import json
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model.checkpoint import TOKENIZER, WORDS
from model.config import Calibration
from model.errors import PreparedDataError
from model.files import replaced_directory
from model.listed_files import write_sums
from model.ngram import DESCRIPTION, NGramConfig, array_types
from model.tokenizer import END_OF_GAP, NEVER_PREDICTED, START
from training.data.shards import open_prepared
from training.options import argument, option

DISCOUNTS = ("D1", "D2", "D3+")
# Token ids of lines, back to back (tokens,), and their starts and the last end (lines + 1,)
Text = tuple[NDArray[np.uint16], NDArray[np.int64]]
# For texts so small that no discount can be estimated, as KenLM's --discount_fallback.
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)


@dataclass(frozen=True, slots=True)
class NgramOptions:
    """Options of the command."""

    prepared: Path = argument("directory written by `python -m training prepare`")
    output: Path = option("directory to make; it must not exist", metavar="DIR")
    order: Literal[2, 3, 4, 5] = option("tokens of the longest n-gram", 5)


def run(options: NgramOptions) -> int:
    """Run the command; 0 on success."""
    found = build(options.prepared, options.output, options.order)
    counts = " + ".join(f"{count:,}" for count in found.counts)
    sys.stdout.write(
        f"{options.output}: {counts} n-grams, {found.bytes:,} bytes,"
        f" from {found.text['tokens']:,} tokens in {found.seconds:.0f} s\n"
    )
    return 0


def build(prepared: Path, output: Path, order: int) -> NGramConfig:
    """Count the training text of prepared data, write the n-gram and return its description.

    Raises:
        PreparedDataError: *prepared* cannot be read or is empty, or *output* exists.
    """
    if output.exists():
        raise PreparedDataError(f"{output}: exists; remove it, or name another --output")
    started = time.monotonic()
    data = open_prepared(prepared)
    texts = [(source.ids, source.offsets) for source in data.sources]
    predictable = np.ones(data.tokenizer.size, dtype=np.bool_)
    predictable[[*NEVER_PREDICTED, END_OF_GAP]] = False
    with replaced_directory(output) as work:
        result = estimate(texts, predictable, order, work)
        shutil.copyfile(prepared / TOKENIZER, work / TOKENIZER)
        (work / WORDS).write_bytes(data.words)
        config = NGramConfig(
            order=order,
            smoothing="interpolated modified Kneser-Ney, no cut-offs",
            **result,
            text={
                "tokens": sum(len(source.ids) for source in data.sources),
                "prepared_sha256": data.sha256,
            },
            calibration=Calibration(forward_weight=1.0),
            bytes=sum((work / name).stat().st_size for name in array_types(order)),
            seconds=round(time.monotonic() - started, 1),
        )
        write_description(work, config)
    return config


def write_description(directory: Path, config: NGramConfig) -> None:
    """Write ``ngram.json`` and the sums of all files."""
    content = json.dumps(asdict(config), indent=1, ensure_ascii=False)
    (directory / DESCRIPTION).write_text(content, encoding="utf-8")
    write_sums(directory, (DESCRIPTION, TOKENIZER, WORDS, *array_types(config.order)))


def estimate(
    texts: Iterable[Text], predictable: NDArray[np.bool_], order: int, directory: Path
) -> dict[str, Any]:
    """Count, discount and write the arrays of model/ngram.py; return counts and discounts by order.

    The adjusted count of an n-gram is its number of occurrences at the highest order and if it
    begins with <s>, else the number of different tokens that precede it. D1, D2, D3+ are estimated
    for each order. Chen & Goodman 1999; <s> as in Heafield et al. 2013, Scalable modified
    Kneser-Ney language model estimation.

    The uniform distribution below the unigrams covers the *predictable* tokens, (V,).

    Raises:
        PreparedDataError: the texts are empty.
    """
    stream = _join(texts)
    level = _unigrams(stream, len(predictable))
    ranks = stream.astype(np.uint32)  # of the (k-1)-gram that ends at each position
    inside = np.ones(len(stream), dtype=np.bool_)  # True if that (k-1)-gram lies in one line
    discounts, counts = [], [level.size]
    for k in tqdm(range(2, order + 1), desc="n-grams", unit=" order", disable=None):
        inside[1:] = inside[:-1] & (stream[1:] != START)
        inside[0] = False
        longer, adjusted = _extend(level, stream, ranks, inside)
        discounts.append(_write_level(directory, k - 1, level, adjusted, predictable))
        level = longer
        counts.append(level.size)
    discounts.append(_write_level(directory, order, level, level.occurrences, predictable))
    return {"counts": tuple(counts), "discounts": discounts}


@dataclass(frozen=True, slots=True)
class _Level:
    """All n k-grams of one order, sorted by (prefix, token)."""

    prefixes: NDArray[np.uint32]  # (n,) ranks of their first k - 1 tokens
    tokens: NDArray[np.uint16]  # (n,) their last tokens
    occurrences: NDArray[np.uint32]  # (n,)
    begins: NDArray[np.bool_]  # (n,) True if they begin with <s>
    parents: int  # number of (k-1)-grams

    @property
    def size(self) -> int:
        return len(self.tokens)


def _unigrams(stream: NDArray[np.uint16], size: int) -> _Level:
    """Return all tokens, seen or not, ranked by id; <s> is a context and is not counted."""
    tokens = np.arange(size, dtype=np.uint16)
    occurrences = np.bincount(stream, minlength=size).astype(np.uint32)
    occurrences[START] = 0
    return _Level(np.zeros(size, dtype=np.uint32), tokens, occurrences, tokens == START, 1)


def _extend(
    level: _Level, stream: NDArray[np.uint16], ranks: NDArray[np.uint32], inside: NDArray[np.bool_]
) -> tuple[_Level, NDArray[Any]]:
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
    # Each different k-gram gives its (k-1)-gram suffix one more different left neighbour.
    neighbours = np.bincount(ranks[ends[heads]], minlength=level.size)
    adjusted = np.where(level.begins, level.occurrences, neighbours)
    ranks[ends] = np.cumsum(first, dtype=np.uint32) - np.uint32(1)
    prefixes = (distinct >> np.uint64(16)).astype(np.uint32)
    longer = _Level(
        prefixes=prefixes,
        tokens=(distinct & np.uint64(0xFFFF)).astype(np.uint16),
        occurrences=np.diff(heads, append=len(ends)).astype(np.uint32),
        begins=level.begins[prefixes],
        parents=level.size,
    )
    return longer, adjusted


def _write_level(
    directory: Path,
    k: int,
    level: _Level,
    adjusted: NDArray[Any],
    predictable: NDArray[np.bool_],
) -> dict[str, Any]:
    """Discount the k-grams; write them and what their contexts, the (k-1)-grams, need."""
    discounts = _discounts(adjusted)
    # Index 0: a token that does not occur in the text.
    by_count = np.array([0.0, *(discounts[name] for name in DISCOUNTS)], dtype=np.float32)
    taken = by_count[np.minimum(adjusted, 3)]
    totals = np.bincount(level.prefixes, weights=adjusted, minlength=level.parents)
    # A context that nothing follows, as at a line's end, leaves all to the shorter one.
    followed = totals > 0
    backoff = np.ones(level.parents, dtype=np.float32)
    weights = np.bincount(level.prefixes, weights=taken, minlength=level.parents)
    backoff[followed] = weights[followed] / totals[followed]
    discounted = ((adjusted - taken) / totals[level.prefixes]).astype(np.float32)
    if k == 1:  # interpolated with the uniform distribution over predictable tokens
        unigram = np.where(predictable, discounted + backoff[0] / np.float32(predictable.sum()), 0)
        np.save(directory / "unigram.npy", unigram.astype(np.float32))
        return discounts
    children = np.zeros(level.parents + 1, dtype=np.uint32)
    np.cumsum(np.bincount(level.prefixes, minlength=level.parents), out=children[1:])
    np.save(directory / f"discounted.{k}.npy", discounted)
    np.save(directory / f"tokens.{k}.npy", level.tokens)
    np.save(directory / f"children.{k - 1}.npy", children)
    np.save(directory / f"backoff.{k - 1}.npy", backoff)
    return discounts


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
