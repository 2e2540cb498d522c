"""Known words: the words of the training text, in the file ``words`` of a checkpoint.

Tokens can spell words that do not exist, such as `kindergartown`. So /predict and /cloze offer a
word of several tokens only if it is known.

The file has one word a line in UTF-8, each as :func:`word_form` returns it, sorted by code points.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import accumulate, groupby, pairwise

import numpy as np

from model.native.library import address
from model.native.search import HASH, search_library
from model.text import APOSTROPHES, LETTER, is_word_character

MAX_BYTES = 1 << 20  # of the file
# Characters of most texts, in which a word is a run of ASCII; much faster than is_word_character
_UNCOMMON = re.compile(
    "[^\0-\x7f\u2010-\u2027\u3000-\u303f\u3400-\u4dbf\u4e00-\u9fff\uff01-\uff0f\uff1a-\uff20]"
)
_COMMON_WORD = re.compile(f"[0-9A-Za-z_{APOSTROPHES}]+")
_ENDING = re.compile("'(?:s|d|ll|re|ve)$")
_LAST_CAPITAL = re.compile("[a-z]{2}['’]?[A-Z]$")


class KnownWords:
    """A set of words, without regard to case, quotes around them or an ending such as `'s`.

    A capital after small letters ends no known word (`catS`). Words without a letter, such as
    numbers, are always known. An empty set knows every word: the training text may have had none.

    It keeps 64-bit hashes, a tenth of the memory of the words. An unknown word has the hash of a
    known one once in 10^14 times.

    Args:
        words: in the form of :func:`word_form`, without line ends.

    Attributes:
        hashes: of the words, sorted, (n,) uint64.
    """

    def __init__(self, words: Iterable[str] = ()) -> None:
        data = "".join([f"{word}\n" for word in words]).encode()
        self.hashes = np.empty(data.count(b"\n"), dtype=HASH)
        search_library().lacuna_hash_words(data, len(data), address(self.hashes, HASH))
        self.hashes.sort()
        self._address, self._is_known = address(self.hashes, HASH), search_library().lacuna_is_known

    def __len__(self) -> int:
        return len(self.hashes)

    def __contains__(self, word: str) -> bool:
        form = word_form(word)
        if not len(self.hashes) or not LETTER.search(form):
            return True
        if _LAST_CAPITAL.search(word):
            return False
        data = form.encode(errors="surrogatepass")
        return bool(self._is_known(self._address, len(self.hashes), data, len(data)))


def read_words(data: bytes) -> list[str]:
    """Return the words of the content of a file.

    Raises:
        ValueError: it is not a list of words. The message quotes none of it.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes of words")
    try:
        words = data.decode().split("\n")
    except UnicodeDecodeError:
        raise ValueError("words are not UTF-8") from None
    if words.pop() or (words and not words[0]):
        raise ValueError("a line is blank or has no end")
    if any(word >= later for word, later in pairwise(words)):
        raise ValueError("words are not in order, each once")
    return words


def word_form(word: str) -> str:
    """Return the form in which a word is listed.

    >>> word_form("'Theatre’s"), word_form("dogs'"), word_form("don’t"), word_form("she'll")
    ('theatre', 'dogs', "don't", 'she')
    """
    return _ENDING.sub("", word.casefold().replace("’", "'").rstrip("'")).lstrip("'")


def words_in(text: str) -> Iterator[str]:
    """Yield the form of each word of a text that has a letter."""
    return filter(LETTER.search, map(word_form, spelled_words(text)))


def spelled_words(text: str) -> list[str]:
    """Return the maximal runs of word characters (:func:`model.text.is_word_character`)."""
    if _UNCOMMON.search(text) is None:
        return _COMMON_WORD.findall(text)
    groups = groupby(text, is_word_character)
    return ["".join(characters) for inside, characters in groups if inside]


def words_file(words: Iterable[str]) -> bytes:
    """Return the content of the file for forms of words, of which the first that fit are taken."""
    taken = list(dict.fromkeys(words))
    ends = accumulate(len(word.encode()) + 1 for word in taken)
    count = sum(end <= MAX_BYTES for end in ends)
    return "".join(f"{word}\n" for word in sorted(taken[:count])).encode()
