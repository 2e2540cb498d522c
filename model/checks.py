"""Check the queries of a request before anything is computed."""

import math
from collections.abc import Iterable, Sequence
from typing import cast

from model.completions import CompletionQuery
from model.errors import QueryError
from model.queries import (
    MAX_CORRECTIONS,
    MAX_WEIGHT,
    MAX_WORD,
    Choices,
    ClozeQuery,
    LexiconEntry,
    Limits,
    PredictQuery,
    Query,
    ScoreQuery,
)
from model.text import normalise

# A list of choices, by normal form: as sent. Those with one normal form are one question.
ReadChoices = dict[str, tuple[str, ...]]


class RequestCheck:
    """Checks the queries of one request. What they share, as the same object, is read once."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._history: str | None = None
        self._lexicon: tuple[LexiconEntry, ...] = ()
        self._block: tuple[str, ...] = ()
        self._choices: Choices | None = None
        self._lists: list[ReadChoices] = []

    def check(self, query: Query) -> list[ReadChoices] | None:
        """Refuse a query that no checkpoint can answer; return its lists of choices, if any.

        Each choice is in normal form, without outer spaces, and comes with its originals.

        Raises:
            QueryError: its field is a JSON pointer relative to the query (``/text``,
                ``/choices/0/2``).
        """
        limits = self._limits
        _check_text("/text", query.text, limits.characters)
        if isinstance(query, CompletionQuery):
            return None
        if isinstance(query, ScoreQuery):
            _check_text("/context", query.context, limits.characters)
            if not normalise(query.text):
                raise QueryError("/text", "is empty; send at least 1 character to score")
            return None
        if query.history is not self._history:
            _check_text("/history", query.history, limits.history)
            self._history = query.history
        self._check_words(query)
        choices = query.choices if isinstance(query, ClozeQuery) else None
        # All choices are returned, whatever top_k says.
        if choices is None and not 1 <= query.top_k <= limits.top_k:
            raise QueryError("/top_k", f"must be a whole number from 1 to {limits.top_k}")
        if isinstance(query, PredictQuery) and not 1 <= query.words <= limits.words:
            raise QueryError("/words", f"must be a whole number from 1 to {limits.words}")
        if isinstance(query, PredictQuery) and query.after:
            _check_text("/after", query.after, limits.characters)
        if isinstance(query, PredictQuery) and not 0 <= query.corrections <= MAX_CORRECTIONS:
            raise QueryError("/corrections", f"must be a whole number from 0 to {MAX_CORRECTIONS}")
        if isinstance(query, ClozeQuery) and not 1 <= query.fillings <= limits.fillings:
            raise QueryError("/fillings", f"must be a whole number from 1 to {limits.fillings}")
        if isinstance(query, ClozeQuery) and query.blank is not None:
            _check_text("/blank", query.blank, limits.characters)
            if not normalise(query.blank).strip():
                raise QueryError("/blank", "must hold at least one visible character")
        if choices is None:
            return None
        if choices is not self._choices:
            self._lists = _read_choices(choices, limits)
            self._choices = choices
        return self._lists

    def _check_words(self, query: PredictQuery | ClozeQuery) -> None:
        """Check lexicon and blocked words. A word may be in both: then it is blocked."""
        limit = self._limits.lexicon
        if query.lexicon is not self._lexicon:
            _check_count("/lexicon", len(query.lexicon), limit)
            words = [(f"/lexicon/{n}/word", each.word) for n, each in enumerate(query.lexicon)]
            _check_distinct(words)
            for n, each in enumerate(query.lexicon):
                if not (math.isfinite(each.weight) and 0 < each.weight <= MAX_WEIGHT):
                    raise QueryError(
                        f"/lexicon/{n}/weight", f"must be above 0 and at most {MAX_WEIGHT}"
                    )
            self._lexicon = query.lexicon
        if query.block is not self._block:
            _check_count("/block", len(query.block), limit)
            _check_distinct((f"/block/{n}", word) for n, word in enumerate(query.block))
            self._block = query.block


def clean_word(word: str) -> str:
    """Return a word of a lexicon, a blocked word or a choice as it is compared and read."""
    return normalise(word).strip()


def fit_choices(query: ClozeQuery, lists: list[ReadChoices], blanks: int) -> list[ReadChoices]:
    """Return the choices of each blank, from the *lists* of :meth:`RequestCheck.check`.

    Raises:
        QueryError: the number of lists is not the number of blanks.
    """
    if query.choices is not None and isinstance(query.choices[0], str):
        return lists * blanks
    if len(lists) != blanks:
        raise QueryError(
            "/choices", f"has {len(lists)} lists for {blanks} blanks; give one list per blank"
        )
    return lists


def _check_text(field: str, text: str, limit: int) -> None:
    if len(text) > limit:
        raise QueryError(field, f"has {len(text)} code points; send at most {limit}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise QueryError(
            field, f"has a lone surrogate at code point {error.start}; send valid Unicode"
        ) from None


def _check_count(field: str, count: int, limit: int) -> None:
    if count > limit:
        raise QueryError(field, f"has {count} words; send at most {limit}")


def _check_distinct(words: Iterable[tuple[str, str]]) -> None:
    """Check words, each with its pointer."""
    found: dict[str, int] = {}
    for number, (pointer, word) in enumerate(words):
        _check_text(pointer, word, MAX_WORD)
        _check_line(pointer, word)
        if (first := found.setdefault(word.strip(), number)) != number:
            raise QueryError(pointer, f"repeats word {first}; send each word once")


def _check_line(pointer: str, word: str) -> str:
    """Return *word* without outer spaces, in normal form."""
    clean = clean_word(word)
    if not clean:
        raise QueryError(pointer, "is empty or only spaces; send at least 1 character")
    if "\n" in clean:
        raise QueryError(pointer, "has a line break; send one line")
    return clean


def _read_choices(choices: Choices, limits: Limits) -> list[ReadChoices]:
    """Check the lists of choices; return each choice, in normal form, with its originals."""
    if all(isinstance(choice, str) for choice in choices):
        return [_read_list("/choices", cast("Sequence[str]", choices), limits)]
    return [_read_list(f"/choices/{n}", group, limits) for n, group in enumerate(choices)]


def _read_list(field: str, choices: Sequence[str], limits: Limits) -> ReadChoices:
    if not choices:
        raise QueryError(field, "is empty; offer at least 1 choice")
    if len(choices) > limits.choices:
        raise QueryError(field, f"has {len(choices)} choices; send at most {limits.choices}")
    if (characters := sum(map(len, choices))) > (limit := limits.choice_characters):
        raise QueryError(
            field, f"has {characters} code points in all; send at most {limit} for a blank"
        )
    found: ReadChoices = {}
    places: dict[str, int] = {}
    for index, choice in enumerate(choices):
        pointer = f"{field}/{index}"
        _check_text(pointer, choice, limits.characters)
        clean = _check_line(pointer, choice)
        first = places.setdefault(choice.strip(), index)
        if first != index:
            raise QueryError(pointer, f"repeats choice {first}; send each choice once")
        found[clean] = (*found.get(clean, ()), choice)
    return found
