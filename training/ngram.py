"""``python -m training ngram``: count n-grams in prepared data, and put them into a checkpoint.

1  count    all n-grams, or the frequent ones of a large text (training/counting.py)
2  choose   those that are missed most, if there is a largest size (training/pruning.py)
3  smooth   those n-grams (training/kneser_ney.py)
4  write    quantised counts (model/counts.py) into a checkpoint, without a network or a copy

If it is interrupted, the same command continues.
"""

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

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
from model.config import STRICT, Calibration
from model.counts import CountsFiles, Level, counts_files, file_sizes
from model.errors import CheckpointError, PreparedDataError
from model.runtime import Float32Array
from model.tokenizer import END_OF_GAP, NEVER_PREDICTED
from training.cached_json import check_writable, require_same_settings
from training.counting import Counting, Text, count_grams
from training.data.shards import BLOCK_TOKENS, Prepared, languages_of, open_prepared
from training.evaluation.model_card import model_card
from training.kneser_ney import smooth
from training.options import argument, option
from training.pruning import choose, relative_entropy
from training.word_end_probs import word_end_probs

# Smoothing again changes which n-grams are missed most; a second choice gains a quarter more.
ROUNDS = 2


@dataclass(frozen=True, slots=True, config=STRICT)
class NgramOptions:
    """Options of the command."""

    prepared: Path = argument("directory written by `python -m training prepare`")
    output: Path = option("checkpoint directory to write; it must not exist", metavar="DIR")
    checkpoint: Path | None = option(
        "checkpoint to copy with these counts (default: write one without a network)", None, "DIR"
    )
    megabytes: Annotated[float, Field(gt=0)] | None = option(
        "largest size of the counts (default: keep all)", None, "MB"
    )
    order: Literal[2, 3, 4, 5] = option("tokens of the longest n-gram", 5)
    max_ngrams: Annotated[int, Field(ge=1)] = option(
        "n-grams to hold in memory, some 65 bytes each; above, rare long ones are left out",
        Counting().max_ngrams,
        "N",
    )
    jobs: Annotated[int, Field(ge=1)] = option("threads that count, 0.4 GB each", 1, "N")


def run(options: NgramOptions) -> int:
    """Run the command; 0 on success."""
    (counts, *_) = build(options).counts
    if left_out := counts.config.training.get("left_out"):
        sys.stdout.write(
            f"{left_out:,} n-grams of 3 tokens or more were left out before they were weighed;"
            " --max-ngrams keeps more\n"
        )
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
        CheckpointError: the checkpoint cannot be read or takes no counts, or the output exists.
        RunError: the output was begun with other data or another order.
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
    if base and "predict" not in base.capabilities:
        raise CheckpointError(
            f"{options.checkpoint} only fills blanks; name a checkpoint with a forward tower"
        )
    max_bytes = None if options.megabytes is None else int(options.megabytes * 1e6)
    started = time.process_time()
    # Complete runs stay if the command is interrupted, but not on a full disk.
    runs = options.output.with_name(f".{options.output.name}.runs")
    settings = {"data": data.sha256, "order": options.order, "block_tokens": BLOCK_TOKENS}
    counting = Counting(runs, options.jobs, options.max_ngrams)
    try:
        require_same_settings(runs, settings)
        counts = count(data, options.order, max_bytes, counting)
    except OSError:
        shutil.rmtree(runs, ignore_errors=True)
        raise
    shutil.rmtree(runs)
    counts[0].training["cpu_seconds"] = round(time.process_time() - started, 1)
    if base:
        # The scores were those of other probabilities.
        return revise_checkpoint(
            base.directory, scores={}, counts={0: counts}, output=options.output
        )
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


def count(
    data: Prepared, order: int, max_bytes: int | None = None, counting: Counting | None = None
) -> CountsFiles:
    """Return counts of the training text of prepared data, pruned if they have a largest size.

    Raises:
        PreparedDataError: the text is empty, or *max_bytes* are too few.
    """
    predictable = np.ones(data.tokenizer.size, dtype=np.bool_)
    predictable[[*NEVER_PREDICTED, END_OF_GAP]] = False
    blocks = (block for source in data.sources for block in source.blocks(BLOCK_TOKENS))
    texts = [(block.ids, block.table[:, 0]) for block in blocks]
    unigram, levels, discounts, left_out = estimate(texts, predictable, order, max_bytes, counting)
    return counts_files(
        unigram,
        levels,
        {
            "smoothing": "interpolated modified Kneser-Ney",
            "discounts": discounts,
            **({"left_out": left_out} if left_out else {}),
            "tokens": sum(len(source.ids) for source in data.sources),
            "data_sha256": data.sha256,
        },
    )


def estimate(
    texts: Sequence[Text],
    predictable: NDArray[np.bool_],
    order: int,
    max_bytes: int | None = None,
    counting: Counting | None = None,
) -> tuple[Float32Array, list[Level], list[dict[str, Any]], int]:
    """Count, prune and smooth.

    Return p of the unigrams (V,), the longer orders, discounts, and how many n-grams were left out.

    Raises:
        PreparedDataError: the text is empty, or *max_bytes* are too few.
    """
    counted = count_grams(texts, len(predictable), order, counting)
    unigram, smoothed = smooth(counted, predictable)
    kept = [np.ones(len(grams.tokens), dtype=np.bool_) for grams in counted[1:]]
    for _ in range(ROUNDS if max_bytes is not None else 0):
        losses = [relative_entropy(*each) for each in zip(counted[1:], smoothed, strict=True)]
        del smoothed  # the arrays are as long as the text
        kept = choose(counted, losses, max_bytes or 0)
        del losses
        unigram, smoothed = smooth(counted, predictable, kept)
    levels, stays = [], np.ones(len(unigram), dtype=np.bool_)
    for grams, each, keep in zip(counted[1:], smoothed, kept, strict=True):
        followers = np.bincount(grams.prefixes[keep], minlength=grams.parents)[stays]
        levels.append(Level(followers, grams.tokens[keep], each.shares[keep]))
        stays = keep
    left_out = sum(int(grams.left_out_kinds.sum()) for grams in counted)
    return unigram, levels, [each.discounts for each in smoothed], left_out
