"""Encode the lines of a part: cuts, half-width copies, shards, and plain text for tests."""

import itertools
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from model.tokenizer import Tokenizer
from training.data.cuts import choose_cuts, half_width
from training.data.reading import Part
from training.data.shards import ShardWriter, Split
from training.data.splits import TextSplit
from training.data.word_counts import WordCounts

CUT_SHARE = 0.25
HALF_WIDTH_SHARE = 0.10
BATCH_LINES = 256


def encode_part(
    part: Part,
    tokenizer: Tokenizer,
    directory: Path,
    words: WordCounts,
    seed: int,
    bar: "tqdm[Any]",  # of characters
) -> dict[str, Any]:
    """Write the shards of a part and count its words; return its entry in the manifest.

    Lines for tests go to ``test/LANGUAGE.txt``.
    """
    rng = random.Random(f"{seed}:{part.name}")
    surfaces = frozenset(surface for surface in tokenizer.surfaces if surface)
    lines = part.split_lines()
    with (
        ShardWriter(directory, part.name, "train") as train,
        ShardWriter(directory, part.name, "heldout") as held_out,
    ):
        writers: dict[TextSplit, ShardWriter] = {"train": train, "heldout": held_out}
        while batch := list(itertools.islice(lines, BATCH_LINES)):
            words.add(line for split, line in batch if split == "train")
            _write_tests((line for split, line in batch if split == "test"), part, directory)
            chosen = []
            for split, line in _with_copies(batch, part, rng):
                cuts = choose_cuts(line, surfaces, rng) if rng.random() < CUT_SHARE else ()
                chosen.append((split, line, cuts))
            # Each part of a divided line is encoded apart, as in serving.
            pieces = [
                line[start:end]
                for _, line, cuts in chosen
                for start, end in itertools.pairwise([0, *cuts, len(line)])
            ]
            encoded = iter(tokenizer.encode_all(pieces))
            for split, line, cuts in chosen:
                tokens, ends = next(encoded), []
                for _ in cuts:
                    ends.append(len(tokens))
                    tokens += next(encoded)
                writers[split].write(tokens, len(line), ends)
            bar.update(sum(len(line) for _, line in batch))
        entries = {"train": train.entry(), "heldout": held_out.entry()}
    return {
        "name": part.name,
        "language": part.language,
        "consecutive": part.consecutive,
        "weight": part.options.weight,
        "files": list(part.files),
        "bytes": part.size,
        "block_lines": part.blocks.lines,
        "counts": part.counts,
        "split": entries,
    }


def _write_tests(lines: Iterable[str], part: Part, directory: Path) -> None:
    text = "".join(f"{line}\n" for line in lines)
    if text:
        (directory / "test").mkdir(exist_ok=True)
        with (directory / "test" / f"{part.language}.txt").open("a", encoding="utf-8") as file:
            file.write(text)


def _with_copies(
    lines: Iterable[tuple[TextSplit, str]], part: Part, rng: random.Random
) -> Iterator[tuple[Split, str]]:
    """Yield the lines that are encoded, some training lines with or as a half-width copy."""
    for split, line in lines:
        if split == "test":
            continue
        if split == "train" and rng.random() < HALF_WIDTH_SHARE:
            changed = half_width(line, rng)
            if changed is not None:
                yield split, changed
                # If lines continue each other, the copy takes the place of the line.
                if part.consecutive:
                    continue
        yield split, line
