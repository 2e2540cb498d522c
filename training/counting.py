"""Count the n-grams of a text of any length: sorted runs on disk, merged in parts.

    1  count      the windows of *order* tokens of each block of text, sorted -> one run
    2  merge      in parts, between two bigrams
    3  leave out  rare n-grams of three tokens or more, if memory cannot hold all

A window begins at each token. After the end of its line it is filled with <s>, which it has nowhere
else but at its start. So the n-grams of every order are the beginnings of windows. A run is an
array of distinct windows; a command that was interrupted finds its complete runs again.

Memory is bounded by the tokens of a block and the windows of a part, some 70 bytes each and job,
and by the n-grams that stay.
"""

import tempfile
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import PreparedDataError
from model.files import write_atomically
from model.tokenizer import START
from training.data.shards import release
from training.kneser_ney import KINDS, Grams
from training.progress import progress_bar

PART_WINDOWS = 1 << 22
# From so many occurrences on, n-grams stay however many they are
MAX_CUT_OFF = 1000
# Token ids of lines, back to back (tokens,), and the tokens of each line (lines,)
Text = tuple[NDArray[np.uint16], NDArray[np.integer[Any]]]
# All tokens but the last, 16 bits each; the last; occurrences
_WINDOW = np.dtype([("head", "<u8"), ("token", "<u2"), ("times", "<u4")], align=True)
Part = list[Grams]  # from two tokens on; ranks are those in the part, suffixes follow later


@dataclass(frozen=True, slots=True)
class Counting:
    """Resources for counting; only *max_ngrams* has an influence on the result."""

    runs: Path | None = None  # folder for the runs; by default a temporary one
    jobs: int = 1  # threads
    max_ngrams: int = 40_000_000  # to hold, some 65 bytes each


def count_grams(
    texts: Sequence[Text], vocabulary_size: int, order: int, counting: Counting | None = None
) -> list[Grams]:
    """Return the n-grams of each order; those of one token are all tokens, seen or not.

    Each text makes a run, and is held in memory meanwhile.

    Raises:
        PreparedDataError: the texts are empty.
    """
    counting = counting or Counting()
    if counting.runs is None:
        with tempfile.TemporaryDirectory() as directory:
            counting = replace(counting, runs=Path(directory))
            return count_grams(texts, vocabulary_size, order, counting)
    texts = [text for text in texts if len(text[0])]
    if not texts:
        raise PreparedDataError("no text to count; prepare at least one line")
    runs = [counting.runs / f"{number:06}.run" for number in range(len(texts))]
    tokens = sum(len(ids) for ids, _ in texts)
    with ThreadPoolExecutor(counting.jobs) as pool:
        with progress_bar("count", tokens, "tokens", unit_scale=True) as bar:
            for now in _groups(len(texts), counting.jobs):
                list(pool.map(partial(_write_run, order), runs[now], texts[now]))
                bar.update(sum(len(ids) for ids, _ in texts[now]))
        parts = _merge(runs, order, counting, pool)
    return _join(parts, vocabulary_size)


def _groups(items: int, size: int) -> Iterator[slice]:
    """Divide work, so that an interrupt waits for little of it."""
    for start in range(0, items, size):
        yield slice(start, start + size)


def _write_run(order: int, path: Path, text: Text) -> None:
    """Write the windows of a text, unless that is done."""
    if path.exists():
        return
    ids, lengths = text
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    stream = np.insert(ids, starts, START).astype(np.uint16, copy=False)
    release(ids, lengths)
    filled = np.append(stream, np.full(order - 1, START, dtype=np.uint16))
    windows = np.empty(len(stream), dtype=_WINDOW)
    windows["head"], windows["times"] = stream, 1
    ended = np.zeros(len(stream), dtype=np.bool_)
    for place in range(1, order):
        token = filled[place : place + len(stream)]
        ended |= token == START
        token = np.where(ended, np.uint16(START), token)
        if place < order - 1:
            windows["head"] = windows["head"] << np.uint64(16) | token
    windows["token"] = token
    write_atomically(path, _distinct(windows).tobytes())


def _distinct(windows: NDArray[Any]) -> NDArray[Any]:
    """Sort windows, and add the occurrences of equal ones."""
    by_head = np.argsort(windows["head"])
    # A rank of a head leaves room for the token in 64 bits.
    keys = np.cumsum(_changes(windows["head"][by_head]), dtype=np.uint64) << np.uint64(16)
    keys |= windows["token"][by_head]
    by_key = np.argsort(keys)
    starts = np.flatnonzero(_changes(keys[by_key]))
    del keys
    order = by_head[by_key]
    del by_head, by_key
    distinct = windows[order[starts]]
    distinct["times"] = np.add.reduceat(windows["times"][order], starts)
    return distinct


def _changes(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return True for each value that differs from the one before it."""
    changes = np.ones(len(values), dtype=np.bool_)
    np.not_equal(values[1:], values[:-1], out=changes[1:])
    return changes


def _merge(
    runs: Sequence[Path], order: int, counting: Counting, pool: ThreadPoolExecutor
) -> list[Part]:
    """Return the n-grams by parts, without rare ones if they are too many."""
    windows = sum(run.stat().st_size for run in runs) // _WINDOW.itemsize
    # Some windows of each run show where to divide all.
    step = max(1, PART_WINDOWS // 64)
    sample = np.sort(np.concatenate([_heads(run)[::step] for run in runs]))
    shift = np.uint64(16 * max(0, order - 3))
    bounds = np.unique(sample[:: PART_WINDOWS // step] >> shift)[1:] << shift
    places = [_places(_heads(run), bounds) for run in runs]
    work = list(zip(*map(pairwise, places), strict=True))  # start and end in each run, by part
    parts: list[Part] = []
    cut_off = 1
    with progress_bar("merge", windows, "windows", unit_scale=True) as bar:
        for now in _groups(len(work), counting.jobs):
            parts += pool.map(partial(_merge_part, runs, order, cut_off), work[now])
            while cut_off < MAX_CUT_OFF and _ngrams(parts) > counting.max_ngrams:
                cut_off += 1
                parts = [_leave_out(part, cut_off) for part in parts]
            bar.update(sum(end - start for places in work[now] for start, end in places))
    return parts


def _heads(run: Path) -> NDArray[np.uint64]:
    """Map the heads of a run; pages that are read count as memory until it is dropped."""
    heads: NDArray[np.uint64] = np.memmap(run, _WINDOW, "r")["head"]
    return heads


def _places(heads: NDArray[np.uint64], bounds: NDArray[np.uint64]) -> list[int]:
    """Return the start of each part and the end of the last."""
    return [0, *(bisect_left(heads, bound) for bound in bounds), len(heads)]


def _ngrams(parts: Sequence[Part]) -> int:
    return sum(len(grams.tokens) for part in parts for grams in part)


def _merge_part(
    runs: Sequence[Path], order: int, cut_off: int, places: Sequence[tuple[int, int]]
) -> Part:
    """Return the n-grams between two places of each run."""
    pieces = [
        np.array(np.memmap(run, _WINDOW, "r")[start:end])  # a copy: nothing stays mapped
        for run, (start, end) in zip(runs, places, strict=True)
    ]
    windows = _distinct(np.concatenate(pieces))
    del pieces
    ranks = (windows["head"] >> np.uint64(16 * (order - 2))).astype(np.uint32)  # first tokens
    begins, part = np.arange(1 << 16) == START, list[Grams]()
    for length in range(2, order + 1):
        tokens = windows["token"]
        if length < order:
            shift = np.uint64(16 * (order - 1 - length))
            tokens = (windows["head"] >> shift).astype(np.uint16)
        inside = tokens != START
        windows, ranks, tokens = windows[inside], ranks[inside], tokens[inside]
        first = _changes(ranks) | _changes(tokens)
        starts = np.flatnonzero(first)
        parents, times = len(begins), windows["times"]
        begins = begins[ranks[starts]]
        grams = Grams(
            prefixes=ranks[starts],
            suffixes=ranks[:0],
            tokens=tokens[starts],
            occurrences=(np.add.reduceat(times, starts) if len(starts) else times).astype("u4"),
            begins=begins,
            parents=parents,
            left_out=np.zeros(parents if part else 0, dtype=np.uint32),
            left_out_kinds=np.zeros(KINDS, dtype=np.int64),
        )
        part.append(grams)
        ranks = np.cumsum(first, dtype=np.uint32) - np.uint32(1)
    return _leave_out(part, cut_off)


def _leave_out(part: Part, cut_off: int) -> Part:
    """Leave out n-grams of three tokens or more with fewer occurrences than *cut_off*.

    Prefixes and suffixes of those that stay do not occur less often, so they stay, too.
    """
    if cut_off == 1:
        return part
    kept, stay = part[:1], np.ones(len(part[0].tokens), dtype=np.bool_)  # the parents that stay
    for grams in part[1:]:
        keep = grams.occurrences >= cut_off
        rare = grams.occurrences[~keep]
        left_out = np.bincount(grams.prefixes[~keep], rare, minlength=len(stay))
        ranks = np.cumsum(stay, dtype=np.uint32) - np.uint32(1)
        kinds = np.bincount(np.minimum(rare, KINDS - 1), minlength=KINDS)
        kept.append(
            replace(
                grams,
                prefixes=ranks[grams.prefixes[keep]],
                tokens=grams.tokens[keep],
                occurrences=grams.occurrences[keep],
                begins=grams.begins[keep],
                parents=int(stay.sum()),
                left_out=(grams.left_out + left_out)[stay].astype(np.uint32),
                left_out_kinds=grams.left_out_kinds + kinds,
            )
        )
        stay = keep
    return kept


def _join(parts: Sequence[Part], vocabulary_size: int) -> list[Grams]:
    """Join the parts, which are emptied, and add single tokens and suffixes."""
    tokens = np.arange(vocabulary_size, dtype=np.uint16)
    # Each occurrence of a token follows another one or <s>. That is only a context.
    seen = [np.bincount(part[0].tokens, part[0].occurrences, vocabulary_size) for part in parts]
    zeros = np.zeros(vocabulary_size, dtype=np.uint32)
    kinds = np.zeros(KINDS, dtype=np.int64)
    occurrences = sum(seen, zeros).astype(np.uint32)
    counted = [Grams(zeros, zeros, tokens, occurrences, tokens == START, 1, zeros[:1], kinds)]
    for level in range(len(parts[0])):
        own, shorter = [part.pop(0) for part in parts], counted[-1]
        starts = np.cumsum([0, *(each.parents for each in own[:-1])]) * bool(level)
        shifted = [each.prefixes + np.uint32(by) for each, by in zip(own, starts, strict=True)]
        grams = Grams(
            prefixes=np.concatenate(shifted),
            suffixes=zeros,
            tokens=np.concatenate([each.tokens for each in own]),
            occurrences=np.concatenate([each.occurrences for each in own]),
            begins=np.concatenate([each.begins for each in own]),
            parents=len(shorter.tokens),
            left_out=np.concatenate([each.left_out for each in own]) if level else zeros,
            left_out_kinds=sum((each.left_out_kinds for each in own), kinds),
        )
        del own, shifted
        suffixes = _suffixes(shorter, grams) if level else grams.tokens.astype(np.uint32)
        counted.append(replace(grams, suffixes=suffixes))
    return counted


def _suffixes(shorter: Grams, grams: Grams) -> NDArray[np.uint32]:
    """Return the rank of the last k - 1 tokens of each k-gram."""
    known = (shorter.prefixes.astype(np.uint64) << np.uint64(16)) | shorter.tokens
    wanted = shorter.suffixes[grams.prefixes].astype(np.uint64) << np.uint64(16) | grams.tokens
    order = np.argsort(wanted)  # ordered searches are faster
    suffixes = np.empty(len(wanted), dtype=np.uint32)
    suffixes[order] = known.searchsorted(wanted[order])
    return suffixes
