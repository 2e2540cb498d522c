"""Known words: the words of the training text, in the file ``words`` of a checkpoint.

Tokens can spell words that nobody writes, such as `kindergartown`, so /predict and /cloze offer a
word of several tokens only if it is known.

The file has one word a line in UTF-8, each as :func:`word_form` returns it, sorted by code points.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate, groupby, pairwise

from model.text import LETTER, is_word_character

MAX_BYTES = 1 << 20  # of the file


class KnownWords:
    """A set of words, without regard to case, quotes around them or a possessive `'s`.

    Words without a letter, such as numbers, are always known. An empty list knows every word: the
    training text may have had none.

    Args:
        data: content of the file.

    Raises:
        ValueError: it is no such file. The message has no text of it.
    """

    def __init__(self, data: bytes = b"") -> None:
        if len(data) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes of words")
        words = data.split(b"\n")
        if words.pop() or (words and not words[0]):
            raise ValueError("a line is blank or has no end")
        if any(word >= later for word, later in pairwise(words)):
            raise ValueError("words are not in order, each once")
        try:
            data.decode()
        except UnicodeDecodeError:
            raise ValueError("words are not UTF-8") from None
        # Python strings would take ten times as much memory.
        self._data = data
        self._starts = array("I", accumulate((len(word) + 1 for word in words), initial=0))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __iter__(self) -> Iterator[str]:
        return (self._word(index).decode() for index in range(len(self)))

    def __contains__(self, word: str) -> bool:
        form = word_form(word)
        if not self or not LETTER.search(form):
            return True
        data = form.encode()
        index = bisect_left(range(len(self)), data, key=self._word)
        return index < len(self) and self._word(index) == data

    def _word(self, index: int) -> bytes:
        return self._data[self._starts[index] : self._starts[index + 1] - 1]


def word_form(word: str) -> str:
    """Return the form in which a word is listed.

    >>> word_form("‘Theatre’s"), word_form("dogs'"), word_form("don’t")
    ('theatre', 'dogs', "don't")
    """
    plain = word.casefold().replace("’", "'").rstrip("'_")
    return plain.removesuffix("'s").lstrip("'_")


def words_in(text: str) -> Iterator[str]:
    """Yield the form of each word of a text that has a letter."""
    for inside, characters in groupby(text, is_word_character):
        if inside and LETTER.search(form := word_form("".join(characters))):
            yield form


def words_file(words: Iterable[str]) -> bytes:
    """Return the content of the file for forms of words, of which the first that fit are taken."""
    sizes = 0
    taken = set()
    for word in words:
        sizes += len(word.encode()) + 1
        if sizes > MAX_BYTES:
            break
        taken.add(word)
    return "".join(f"{word}\n" for word in sorted(taken)).encode()
