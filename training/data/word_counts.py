"""Count the words of training lines; the frequent ones are the known words of a checkpoint."""

from collections import Counter
from collections.abc import Iterable

from model.text import LETTER
from model.words import spelled_words, word_form, words_file

# Different spellings after which the rarer half is dropped: some 500 MB.
MAX_WORDS = 4_000_000


class WordCounts:
    """Counts of words with a letter. Those of rare words are lost when there are too many."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()  # by spelling: their forms take longer

    def add(self, lines: Iterable[str]) -> None:
        """Count the words of some lines."""
        for line in lines:
            self._counts.update(spelled_words(line))
        if len(self._counts) > MAX_WORDS:
            self._counts = Counter(dict(self._counts.most_common(MAX_WORDS // 2)))

    def file(self, min_count: int) -> bytes:
        """Return the file of the words with at least *min_count* occurrences.

        If not all fit, the most frequent are listed.
        """
        counts = Counter[str]()
        for spelling, count in self._counts.items():
            counts[word_form(spelling)] += count
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return words_file(
            word for word, count in ranked if count >= min_count and LETTER.search(word)
        )
