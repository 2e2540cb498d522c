"""Read word benchmarks, Penn Treebank and WikiText-2, whose words are separated by spaces.

The vocabulary is that of the training file, ``<unk>`` included. Every line ends in ``<eos>``, which
is predicted and counted like a word (Mikolov et al. 2010), so that perplexities are comparable with
published ones.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.errors import CorpusError
from model.runtime import Int64Array
from training.data.compression import read_chunks


@dataclass(frozen=True, slots=True)
class WordCorpus:
    """The three parts of a benchmark as word ids.

    Attributes:
        words: by id; ``<eos>`` is 0, the others follow in the order of the training text.
        train, valid, test: (words,) int64; 0 after each line.
    """

    words: tuple[str, ...]
    train: Int64Array
    valid: Int64Array
    test: Int64Array

    @property
    def sha256(self) -> str:
        """Digest of words and texts; ids depend on the order of the training text."""
        digest = hashlib.sha256("\n".join(self.words).encode())
        for part in (self.train, self.valid, self.test):
            digest.update(part.astype("<i8").tobytes() + b"|")
        return digest.hexdigest()


def read_word_corpus(train: Path, valid: Path, test: Path) -> WordCorpus:
    """Read the three files; ``.gz``, ``.xz`` and ``.zst`` are decompressed.

    Raises:
        CorpusError: a file cannot be read or is empty, or has a word that *train* lacks.
    """
    ids = {"<eos>": 0}
    parts = []
    for path in (train, valid, test):
        found: list[int] = []
        for number, line in enumerate(_lines(path), 1):
            words = line.split()
            if path == train:
                for word in words:
                    ids.setdefault(word, len(ids))
            elif not ids.keys() >= set(words):
                raise CorpusError(
                    f"{path}: line {number} has a word that {train} lacks; replace it by <unk>"
                )
            found += [*map(ids.__getitem__, words), 0]
        if len(found) < 2:
            raise CorpusError(f"{path}: has no words")
        parts.append(np.array(found, dtype=np.int64))
    return WordCorpus(tuple(ids), *parts)


def _lines(path: Path) -> list[str]:
    """Return the lines of a file, empty ones included."""
    try:
        return b"".join(read_chunks(path)).decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 (byte {error.start}); convert it") from error
