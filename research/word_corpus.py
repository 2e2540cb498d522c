"""Benchmarks that come as words: Penn Treebank and WikiText-2, whose tokens are separated by spaces.

Their vocabulary is what the training file holds, ``<unk>`` included, and each line ends with ``<eos>``, which is
predicted and counted like a word (Mikolov et al. 2010), so that perplexities compare with published ones.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import CorpusError
from training.data.text_sources import read_lines

END_OF_LINE = "<eos>"

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class WordCorpus:
    """A benchmark's three parts as word ids.

    Attributes:
        words: by id; ``<eos>`` is 0, the others follow in the order in which training text has them.
        train, valid, test: (tokens,) int64, each line followed by 0.
    """

    words: tuple[str, ...]
    train: Ids
    valid: Ids
    test: Ids

    @property
    def sha256(self) -> str:
        """Of words and texts: another order of the training text gives other ids."""
        digest = hashlib.sha256("\n".join(self.words).encode())
        for part in (self.train, self.valid, self.test):
            digest.update(part.astype("<i8").tobytes() + b"|")
        return digest.hexdigest()


def read_word_corpus(train: Path, valid: Path, test: Path) -> WordCorpus:
    """Read the three files, compressed or not.

    Raises:
        CorpusError: a file cannot be read or is empty, or valid or test holds a word that train lacks.
    """
    ids = {END_OF_LINE: 0}
    parts = []
    for path in (train, valid, test):
        tokens: list[int] = []
        for number, line, _ in read_lines(path, None):
            for word in line.split():
                if word not in ids:
                    if path != train:
                        raise CorpusError(
                            f"{path}: line {number} holds a word that {train} lacks; such words must read <unk>"
                        )
                    ids[word] = len(ids)
                tokens.append(ids[word])
            tokens.append(0)
        if not tokens:
            raise CorpusError(f"{path}: holds no words")
        parts.append(np.array(tokens, dtype=np.int64))
    return WordCorpus(tuple(ids), *parts)
