"""Count the words of training lines; the frequent ones are the known words of a checkpoint."""

from collections import Counter

from model.words import words_file, words_in

# Different words after which the rarer half is forgotten: some 500 MB.
MAX_WORDS = 4_000_000


class WordCounts:
    """How often each word with a letter was added; it may be less once the rare are forgotten."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, line: str) -> None:
        """Count the words of a line."""
        self._counts.update(words_in(line))
        if len(self._counts) > MAX_WORDS:
            self._counts = Counter(dict(self._counts.most_common(MAX_WORDS // 2)))

    def file(self, min_count: int) -> bytes:
        """Return the list of the words with at least so many occurrences, or of the first that fit.

        The most frequent come first, equal ones by text.
        """
        ranked = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        return words_file(word for word, count in ranked if count >= min_count)
