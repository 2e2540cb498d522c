"""Offer words of the text, of its writer's history and of a lexicon for the word being typed.

A word that occurred c times among N words is expected, before a letter is typed, with a probability
of ``MIXTURE`` c / (N + S), so that little evidence has little weight. The network expects the typed
letters with P(stem | left). Both explain the typed letters, so Bayes' rule weighs them:

    P(append) ∝ P_network(append | stem) P(stem | left) + Σ ``MIXTURE`` c(stem + append) / (N + S)

After `th` the network decides, after `Okonk`, which it hardly expects, the words of the writer do.
Nothing is indexed but the lexicon: to search a text takes less time than to read all its words.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from model.checks import clean_word
from model.queries import LexiconEntry
from model.text import is_word_character
from model.words import spelled_words, word_form

# Characters of an unfinished word, or of the beginning of an entry of the lexicon.
MAX_STEM = 64
# The weight of these words, and S.
MIXTURE, SMOOTHING = 0.3, 200.0
# The share of an occurrence in the text itself: the network has read it, and a sentence seldom
# repeats its words.
OWN_TEXT = 0.1
# The share of a word whose letters were typed in another case.
OTHER_CASE = 0.3
# An entry of the lexicon counts as a word that occurred so many times its weight.
LEXICON_COUNT = 3.0
# Words of the writer with lower odds are left out: they show in few lists.
MIN_ODDS = 2e-3
# Places of the same letters that are looked at in each text, the latest first; and words that are
# offered.
MAX_PLACES, MAX_OFFERED = 128, 32
# Places at which an unknown word is looked for.
MAX_CHECKED = 32
# Characters of a word, to estimate how many words a text has.
WORD_LENGTH = 5
TINY = 1e-30
APOSTROPHES = "'’_"


class Continuation(NamedTuple):
    """A word that begins with the end of the text, at *start*, and goes on with *append*."""

    start: int
    append: str
    prior: float  # P(word) before a letter of it is typed


class Lexicon:
    """A writer's own words, and those that never come.

    Attributes:
        blocks_any: some word never comes.
    """

    def __init__(self, entries: Iterable[LexiconEntry] = (), block: Iterable[str] = ()) -> None:
        self._blocked = {clean_word(word).casefold() for word in block}
        self.blocks_any = bool(self._blocked)
        # By the last character of blocked words, their lengths.
        self._lengths: dict[str, set[int]] = {}
        for word in self._blocked:
            self._lengths.setdefault(word[-1], set()).add(len(word))
        entries = list(entries)
        words = [(clean_word(entry.word), LEXICON_COUNT * entry.weight) for entry in entries]
        # By word, how it was sent, such as in Traditional Chinese.
        sent = [(clean_word(entry.word), entry.word.strip()) for entry in entries]
        self._sent = {word: each for word, each in sent if len(each) == len(word)}
        words = [(word, count) for word, count in words if word.casefold() not in self._blocked]
        self.total = sum([count for _, count in words])
        self._sorted = sorted([(_lower(word), word, count) for word, count in words])
        self._firsts = {lower[0] for lower, _, _ in self._sorted}
        self._forms = {word_form(word) for word, _ in words}

    def __contains__(self, word: str) -> bool:
        return bool(self._forms) and word_form(word) in self._forms

    def as_sent(self, word: str) -> str:
        """Return a word as it was sent, if it is an entry."""
        return self._sent.get(word, word)

    @property
    def counts(self) -> list[tuple[str, float]]:
        """Each word and how often it counts as having occurred."""
        return [(word, count) for _, word, count in self._sorted]

    def __bool__(self) -> bool:
        return bool(self._forms)

    def continue_end(self, text: str) -> list[tuple[int, str, float]]:
        """Return (start, word, count) of entries that begin with the end of *text*, all of it."""
        found: list[tuple[int, str, float]] = []
        lower = _lower(text[-MAX_STEM:]) if self._sorted else ""
        for start, character in enumerate(lower):
            if character not in self._firsts or not _is_edge(lower, start):
                continue
            typed = lower[start:]
            place = bisect_left(self._sorted, (typed,))
            while place < len(self._sorted) and self._sorted[place][0].startswith(typed):
                _, word, count = self._sorted[place]
                found.append((len(text) - len(typed), word, count))
                place += 1
            if len(found) > MAX_PLACES:  # entries that repeat one character
                break
        return found

    def blocks(self, text: str, append: str) -> bool:
        """Return True if *append* completes a blocked word after *text*."""
        before = text[-MAX_STEM:].casefold()
        joined = before + append.casefold()
        return any(
            joined[end - length : end] in self._blocked and _is_edge(joined, end - length)
            for end in range(len(before) + 1, len(joined) + 1)
            if joined[end - 1] in self._lengths and _is_edge(joined, end)
            for length in self._lengths[joined[end - 1]]
            if length <= end
        )


NO_LEXICON = Lexicon()


class SearchedText:
    """A text in normal form whose words are looked up by their beginning.

    Attributes:
        lower: it in lower case.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self.lower = _lower(text)

    def has(self, part: str) -> bool:
        """Return True if *part*, in lower case, is somewhere in the text."""
        return part in self.lower

    def __contains__(self, word: str) -> bool:
        """Return True if *word* is one of the text, in any case."""
        form, end = word_form(word), len(self.lower)
        for _ in range(MAX_CHECKED if form else 0):
            place = self.lower.rfind(form, 0, end)
            if place < 0:
                return False
            if _is_edge(self.lower, place) and _is_edge(self.lower, place + len(form)):
                return True
            end = place + len(form) - 1
        return False

    def all(self) -> list[str]:
        """Return all words, as often as they occur."""
        return spelled_words(self._text)

    def words(self, beginning: str) -> tuple[list[str], int]:
        """Return words with this *beginning* in any case, and how many characters were searched."""
        lower, sought = self.lower, _lower(beginning)
        words, end = list[str](), len(lower)
        if sought not in lower:
            return words, end
        for _ in range(MAX_PLACES):
            place = lower.rfind(sought, 0, end)
            if place < 0:
                return words, len(lower)
            end = place + len(sought) - 1
            if place == 0 or not is_word_character(lower[place - 1]):
                words.append(self._word(place, place + len(sought)))
        return words, len(lower) - end

    def _word(self, start: int, end: int) -> str:
        last = min(len(self._text), start + MAX_STEM)
        while end < last and is_word_character(self._text[end]):
            end += 1
        return self._text[start:end].rstrip(APOSTROPHES)


class AddedWord(NamedTuple):
    """The part of a candidate's probability that a word of the writer adds."""

    prob: float
    start: int  # of the word in the text


class Weights(NamedTuple):
    """Changes to the network's candidates by the words of a writer.

    Attributes:
        continued: factor of candidates that continue the unfinished word.
        ended: factor of those that end it.
        words: by appended text.
    """

    continued: float
    ended: float
    words: Mapping[str, AddedWord]

    def prob(self, append: str, network_prob: float) -> float:
        """Return the probability of a candidate; the network's is *network_prob*."""
        factor = self.continued if is_word_character(append[0]) else self.ended
        added = self.words.get(append)
        return network_prob * factor + (added.prob if added else 0.0)


class WriterWords:
    """The words of text, history and lexicon for the end of a *text* in normal form.

    Its unfinished word begins at *start*.

    Attributes:
        blocks_any: some word never comes.
    """

    def __init__(self, text: str, start: int, history: SearchedText, lexicon: Lexicon) -> None:
        self._text, self._start, self._stem = text, start, text[start:]
        self._before, self._history, self._lexicon = SearchedText(text[:start]), history, lexicon
        self.blocks_any = lexicon.blocks_any
        # Most unfinished words begin none of the writer's: that is seen at once.
        stem = _lower(self._stem)
        self._is_new = not (lexicon or self._before.has(stem) or history.has(stem))

    @property
    def before(self) -> str:
        """The text before the unfinished word, in lower case."""
        return self._before.lower

    @property
    def has_other_words(self) -> bool:
        """True if there are words apart from those of the text."""
        return bool(self._lexicon) or bool(self._history.lower)

    def __contains__(self, word: str) -> bool:
        """Return True if *word* is in the text, the history or the lexicon, in any case."""
        if self._is_new and word.startswith(self._stem):
            return False
        return word in self._lexicon or word in self._before or word in self._history

    def continuations(self) -> list[Continuation]:
        """Return the words that begin with the end of the text; *append* may be empty."""
        if self._is_new or not (self._stem or self._lexicon):
            return []
        found = self._lexicon.continue_end(self._text)
        total = SMOOTHING + self._lexicon.total
        if self._stem:
            for text, share in ((self._history, 1.0), (self._before, OWN_TEXT)):
                words, searched = text.words(self._stem)
                total += share * searched / WORD_LENGTH
                found += [(self._start, word, share) for word in words]
        counts: dict[tuple[int, str], float] = {}
        for start, word, count in found:
            typed = self._text[start:]
            if not word.startswith(typed):
                if word.isupper():
                    word = _lower(word)
                if not _fits_case(typed, word):
                    continue
                count *= OTHER_CASE
            append = self._lexicon.as_sent(word)[len(typed) :]
            key = start, append
            counts[key] = counts.get(key, 0.0) + count
        most = sorted(counts, key=lambda key: (-counts[key], key))[:MAX_OFFERED]
        return [
            Continuation(*key, MIXTURE * counts[key] / total)
            for key in most
            if not (self.blocks_any and key[1] and self.blocks(key[1]))
        ]

    def blocks(self, append: str) -> bool:
        """Return True if *append* completes a blocked word."""
        return self._lexicon.blocks(self._text, append)


def weigh(
    words: Sequence[Continuation],
    found: Mapping[str, Sequence[Any]],
    typed_prob: Callable[[int], float],
) -> Weights | None:
    """Weigh *words* against the candidates of the network; return None if that changes nothing.

    Args:
        words: of the writer.
        found: what the network's candidates append, first of all with their probabilities.
        typed_prob: returns the network's probability of the text from a place to its end.
    """
    odds: dict[str, float] = {}
    starts: dict[str, int] = {}
    typed_probs = {start: max(typed_prob(start), TINY) for start in {each.start for each in words}}
    for start, append, prior in words:
        odds[append] = odds.get(append, 0.0) + prior / typed_probs[start]
        starts.setdefault(append, start)
    if not sum(odds.values()) > MIN_ODDS:
        return None
    continued = ended = 1.0 / (1.0 + sum(odds.values()))
    # The word that was typed is whole: its probability goes to the candidates that end it.
    if whole := odds.pop("", 0.0):
        probs = [prob for append, (prob, *_) in found.items() if is_word_character(append[0])]
        ended *= 1.0 + whole / max(TINY, 1.0 - sum(probs))
    added = {append: AddedWord(each * continued, starts[append]) for append, each in odds.items()}
    return Weights(continued, ended, added)


def _lower(text: str) -> str:
    """Return *text* in lower case, or as it is if that has another length."""
    lower = text.lower()
    return lower if len(lower) == len(text) else text


def _fits_case(typed: str, word: str) -> bool:
    """Return True if *word* can go on after *typed*, which has other capitals."""
    same = typed[1:] == word[1 : len(typed)] or typed == typed.lower()
    return same and word[len(typed) :] == word[len(typed) :].lower()


def _is_edge(text: str, place: int) -> bool:
    """Return True if no word of letters continues across *place*; an apostrophe may."""
    around = text[max(0, place - 1) : place + 1]
    return (
        len(around) < 2
        or not (is_word_character(around[0]) and is_word_character(around[1]))
        or (around[0] in APOSTROPHES or around[1] in APOSTROPHES)
    )
