"""An interpolated modified Kneser-Ney n-gram over token ids, behind the Runtime protocol.

It reads what ``python -m training ngram`` wrote (training/ngram.py estimates it) and answers the
same calls as a recurrent network: its "state" is the last tokens read. So the decoders of the
network also run over the n-gram, and the two are compared with nothing else changed. It has no
backward tower and no gap head.

A directory holds a trie in flat, memory-mapped arrays, one level for each order k:

    ngram.json         sizes, discounts, description of the counted text
    tokenizer.model    SentencePiece model
    words              known words (model/words.py)
    unigram.npy        float32 (V,), p(w) interpolated with the uniform distribution
    tokens.K.npy       uint16 (n_K,), last token of each K-gram, K >= 2, sorted by (prefix, token)
    discounted.K.npy   float32 (n_K,), (a(hw) - D(a(hw))) / sum_v a(hv)
    children.K.npy     uint32 (n_K + 1,), K < order: first (K+1)-gram that continues each K-gram
    backoff.K.npy      float32 (n_K,), K < order: gamma(h), the weight of the shorter context
    SHA256SUMS         every file above, in the format of sha256sum

The rank of a K-gram is its position in that order; the rank of a unigram is its token id.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
from numpy.typing import NDArray

from model.checkpoint import CONFIG, TOKENIZER, WORDS, Checkpoint
from model.config import STRICT, Calibration, WindowSizes, parse
from model.errors import CheckpointError, LacunaError
from model.listed_files import MAX_TOTAL_BYTES, SUMS, open_listed, read_listed_files, read_sums
from model.runtime import Float32Array, Int64Array, WindowRuntime, check_runtime
from model.tokenizer import Tokenizer
from model.words import KnownWords, read_words

DESCRIPTION = "ngram.json"
BUILD_AGAIN = "build it again with `python -m training ngram`"


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class NGramConfig:
    """The content of ``ngram.json``."""

    format_version: Literal[2] = 2
    order: Annotated[int, pydantic.Field(ge=2, le=5)]
    smoothing: str
    counts: Annotated[
        tuple[Annotated[int, pydantic.Field(ge=1)], ...],
        pydantic.Field(min_length=2, max_length=5),
    ]  # n-grams by order
    discounts: list[dict[str, Any]]  # by order
    text: dict[str, Any]  # tokens, prepared_sha256
    calibration: Calibration
    bytes: int  # of the arrays
    seconds: float


@dataclass(frozen=True, slots=True)
class Level:
    """The K-grams of one order as contexts, and the (K+1)-grams that continue them."""

    children: NDArray[np.uint32]
    backoff: Float32Array
    tokens: NDArray[np.uint16]
    discounted: Float32Array


class NGramRuntime(WindowRuntime):
    """A modified Kneser-Ney n-gram; every row is computed alone, so no answer depends on its batch.

    States and outputs hold ``order - 1`` tokens.
    """

    def __init__(self, unigram: Float32Array, levels: Sequence[Level]) -> None:
        self.order = len(levels) + 1
        self.head_rows = 64
        self.sizes = WindowSizes(len(unigram), self.order - 1)
        self._unigram = unigram
        self._levels = tuple(levels)

    def score_next(self, contexts: Int64Array) -> Float32Array:
        """Return probabilities (N, V) of the next token after contexts (N, order - 1)."""
        return np.stack([self.distribution(context) for context in contexts.tolist()])

    def distribution(self, context: Sequence[int]) -> Float32Array:
        """Return P(next token | the last tokens of *context*), (V,) float32, which sums to 1.

        From the unigrams upwards, p_k(w | h) = discounted(hw) + gamma(h) p_{k-1}(w | h less its
        first token). Unseen contexts, and those with a control token inside, leave everything to
        the shorter ones.

        Chen & Goodman 1999, An empirical study of smoothing techniques for language modeling,
        equations 26-28.
        """
        probabilities = self._unigram.copy()
        for length in range(1, min(len(context), self.order - 1) + 1):
            node = self._find(context[-length:])
            if node is None:  # every longer context contains this one and is unseen, too
                break
            level = self._levels[length - 1]
            begin, end = int(level.children[node]), int(level.children[node + 1])
            if begin < end:
                probabilities *= level.backoff[node]
                probabilities[level.tokens[begin:end]] += level.discounted[begin:end]
        return probabilities

    def check(self) -> None:
        """Check the trie: every place that it names exists, every weight is between 0 and 1.

        Raises:
            ValueError: it is not one that ``python -m training ngram`` writes.
        """
        shares = [self._unigram]
        for level in self._levels:
            children, tokens = level.children, level.tokens
            shares += [level.backoff, level.discounted]
            if children[0] or children[-1] != len(tokens) or (children[1:] < children[:-1]).any():
                raise ValueError("children are not in order")
            if tokens.max() >= len(self._unigram):
                raise ValueError("a token is not in the vocabulary")
        # NaN is neither
        if not all(share.min() >= 0 and share.max() <= 1 for share in shares):
            raise ValueError("a weight is not between 0 and 1")

    def _find(self, tokens: Sequence[int]) -> int | None:
        """Return the rank of an n-gram among those of its order, or None if it is unseen."""
        node = tokens[0]
        for token, level in zip(tokens[1:], self._levels, strict=False):
            begin, end = int(level.children[node]), int(level.children[node + 1])
            # np.uint16: a plain int would make numpy convert the whole slice first
            place = begin + int(level.tokens[begin:end].searchsorted(np.uint16(token)))
            if place == end or level.tokens[place] != token:
                return None
            node = place
        return node


def open_ngram(
    directory: Path, max_bytes: int = MAX_TOTAL_BYTES
) -> tuple[Checkpoint, NGramRuntime]:
    """Verify and open an n-gram, as if it were a checkpoint.

    Raises:
        CheckpointError: the directory is missing, torn, altered or of another format version.
    """
    listed = read_listed_files(directory, (DESCRIPTION, TOKENIZER, WORDS), max_bytes)
    try:
        config = parse(NGramConfig, listed.contents.get(DESCRIPTION, b""))
        for name in (TOKENIZER, WORDS, *array_types(config.order)):
            if name not in listed.sums:
                raise CheckpointError(f"{SUMS} does not list {name}")
        if len(config.counts) != config.order:
            raise CheckpointError(f"{DESCRIPTION}: counts are of another order")
        ngram = map_arrays(directory, config.counts)
        tokenizer = Tokenizer(listed.contents[TOKENIZER])
        if tokenizer.size != ngram.sizes.vocabulary_size:
            raise CheckpointError(
                f"{TOKENIZER} has {tokenizer.size} tokens, not {config.counts[0]}"
            )
        words = KnownWords(read_words(listed.contents[WORDS]))
        ngram.check()
        check_runtime(ngram)
    except (LacunaError, ValueError) as error:
        raise CheckpointError(f"{directory}: {error}; {BUILD_AGAIN}") from error
    checkpoint = Checkpoint(
        directory=directory,
        name=f"{ngram.order}-gram",
        version="1",
        digest=listed.digest,
        network=ngram.sizes,
        calibration=config.calibration,
        tokenizer=tokenizer,
        languages=("zh", "en"),
        word_end_probs=(0.0,) * tokenizer.size,
        words=words,
        training=asdict(config),
        sums=listed.sums,
    )
    return checkpoint, ngram


def is_ngram(directory: Path) -> bool:
    """Return True if SHA256SUMS lists the description of an n-gram, and no checkpoint's.

    Raises:
        CheckpointError: SHA256SUMS is missing next to an n-gram, or lists no files.
    """
    if not os.access(directory / SUMS, os.F_OK):
        if os.access(directory / DESCRIPTION, os.F_OK):
            raise CheckpointError(f"{directory} has an n-gram without {SUMS}; {BUILD_AGAIN}")
        return False
    _, sums = read_sums(directory)
    return DESCRIPTION in sums and CONFIG not in sums


def array_types(order: int) -> dict[str, type[np.generic]]:
    """Return the arrays of an n-gram and what they hold, by file name."""
    types: dict[str, type[np.generic]] = {"unigram.npy": np.float32}
    for k in range(1, order):
        types |= {f"children.{k}.npy": np.uint32, f"backoff.{k}.npy": np.float32}
        types |= {f"tokens.{k + 1}.npy": np.uint16, f"discounted.{k + 1}.npy": np.float32}
    return types


def map_arrays(directory: Path, counts: Sequence[int]) -> NGramRuntime:
    """Map the arrays of an n-gram with these *counts*, by order.

    Raises:
        CheckpointError: an array is missing or has another type or size.
    """
    arrays = {}
    for name, kind in array_types(len(counts)).items():
        field, _, order = name.removesuffix(".npy").partition(".")
        length = counts[int(order or 1) - 1] + (field == "children")
        arrays[name] = _map(directory, name, kind, length)
    levels = [
        Level(
            *(arrays[f"{field}.{k}.npy"] for field in ("children", "backoff")),
            *(arrays[f"{field}.{k + 1}.npy"] for field in ("tokens", "discounted")),
        )
        for k in range(1, len(counts))
    ]
    return NGramRuntime(arrays["unigram.npy"], levels)


def _map(directory: Path, name: str, kind: type[np.generic], length: int) -> NDArray[Any]:
    """Map an array. Its header is compared, not parsed: numpy would evaluate it as Python."""
    kind_of, header = np.dtype(kind), BytesIO()
    described = {"descr": kind_of.str, "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(header, described)
    start = header.tell()
    with open_listed(directory, name) as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(start) != header.getvalue() or size != start + length * kind_of.itemsize:
            raise CheckpointError(
                f"{directory / name} is not an array of {length} {kind_of}; {BUILD_AGAIN}"
            )
        array = np.memmap(file, kind_of, "r", start, (length,))
    # A plain array: each slice of an np.memmap costs several microseconds more.
    return np.asarray(array)
