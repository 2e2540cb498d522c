"""Divisions of a text: by language, and into blocks that are trained on, held out, or for tests."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from model.text import LANGUAGES

# Neighbouring lines that share a fate; fewer if a source is small.
BLOCK_LINES = 50
# Lines of a language that are held out if no share is given, within limits of the share
HELD_OUT_LINES = 1000
MIN_SHARE, MAX_SHARE = 0.005, 0.1
# Lines of a language with a smaller share of a text count as lines of the other one.
MIN_LANGUAGE_SHARE = 0.05

TextSplit = Literal["train", "heldout", "test"]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Numbers of the blocks that are not for training."""

    lines: int = BLOCK_LINES  # of each block
    held_out: frozenset[int] = frozenset()
    test: frozenset[int] = frozenset()

    def split_of(self, block: int) -> TextSplit:
        """Return the split of a block."""
        return "heldout" if block in self.held_out else "test" if block in self.test else "train"

    def count(self, lines: int) -> Mapping[TextSplit, int]:
        """Return how many of this number of lines are in each split."""
        counts = Counter[TextSplit]()
        for block in range(_ceil(lines, self.lines)):
            counts[self.split_of(block)] += min(self.lines, lines - block * self.lines)
        return counts


def group_languages(lines: Mapping[str, int]) -> list[tuple[str, ...]]:
    """Return the groups of languages whose lines belong together, given the number of each.

    The group with most lines comes first, and a language before the one that counts as it.
    """
    found = sorted(language for language in LANGUAGES if lines.get(language))
    found.sort(key=lambda language: -lines[language])
    if len(found) == 2 and lines[found[1]] < MIN_LANGUAGE_SHARE * sum(lines.values()):
        return [(found[0], found[1])]
    return [(language,) for language in found]


def share_to_hold_out(lines: int) -> float:
    """Return the share of this number of lines that gives enough of them for figures."""
    return min(MAX_SHARE, max(MIN_SHARE, HELD_OUT_LINES / max(1, lines)))


def choose_blocks(lines: int, held_out_share: float, test_share: float, key: str) -> Blocks:
    """Choose blocks by a hash of *key* and their numbers, at least one for each share above 0.

    One block is always left for training.
    """
    size = block_size(lines)
    blocks = sorted(range(_ceil(lines, size)), key=lambda block: stable_hash(f"{key}:{block}"))
    held_out = _count(held_out_share, len(blocks), len(blocks) - 1)
    test = _count(test_share, len(blocks), len(blocks) - 1 - held_out)
    return Blocks(size, frozenset(blocks[:held_out]), frozenset(blocks[held_out : held_out + test]))


def block_size(lines: int) -> int:
    """Return the lines of a block, so that a small source too has some to hold out."""
    return min(BLOCK_LINES, max(1, lines // 20))


def is_taken(block: int, share: float) -> bool:
    """Spread evenly: of any n neighbouring blocks, ``share * n`` are taken, give or take one."""
    return int((block + 1) * share) > int(block * share)


def stable_hash(text: str) -> int:
    """Return a 64-bit hash that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _count(share: float, blocks: int, most: int) -> int:
    return min(max(0, most), max(1, round(share * blocks))) if share else 0


def _ceil(lines: int, size: int) -> int:
    return -(-lines // size)
