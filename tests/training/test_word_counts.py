"""Counts of words."""

import pytest

from model.words import read_words
from training.data import word_counts
from training.data.word_counts import WordCounts


def test_rare_words_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for words is limited: the rarer half goes."""
    monkeypatch.setattr(word_counts, "MAX_WORDS", 4)
    counts = WordCounts()
    for line in ("the cat, the dog", "the cow and the cat", "the owl"):
        counts.add([line])
    assert read_words(counts.file(1)) == ["cat", "owl", "the"]
    assert read_words(counts.file(2)) == ["cat", "the"]
