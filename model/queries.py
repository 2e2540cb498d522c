"""What a caller asks and what it gets: plain frozen values. No networks, no decoding, no HTTP.

Every query is checked here, before anything is computed; a decoder may trust what it is given.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from model.errors import QueryError
from model.text import normalise


@dataclass(frozen=True, slots=True)
class PredictQuery:
    """What is typed next after *text*? Empty text is the start of a text.

    Attributes:
        text: what was typed so far.
        top_k: candidates.
        history: earlier text of the same writer, whose words are likelier to come again.
    """

    text: str
    top_k: int = 5
    history: str = ""


@dataclass(frozen=True, slots=True)
class ClozeQuery:
    """What stands in the blanks of *text*?

    Attributes:
        text: text with at least one blank (:mod:`model.decoding.blanks`).
        top_k: candidates per blank; ignored where *choices* are given.
        blank: the marker that stands for a blank, literally; None means the usual ones.
        choices: None for open blanks; strings, offered for every blank; or one list of strings per blank.
        history: earlier text of the same writer, whose words are likelier to come again.
    """

    text: str
    top_k: int = 5
    blank: str | None = None
    choices: Sequence[str] | Sequence[Sequence[str]] | None = None
    history: str = ""


@dataclass(frozen=True, slots=True)
class ScoreQuery:
    """How probable is *text*, from the start of a text?"""

    text: str


Query = PredictQuery | ClozeQuery | ScoreQuery


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of text that a query was read as, and how many of them came from a cache."""

    tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One thing that may be typed next.

    Attributes:
        word: the whole word, the part that stands in the text already included.
        append: what the text must be continued with; never empty, never ends in a space.
        probability: of *append* coming next; the candidates of a query sum to at most 1.
    """

    word: str
    append: str
    probability: float


@dataclass(frozen=True, slots=True)
class PredictResult:
    """Candidates, most probable first.

    Attributes:
        candidates: as many as were asked for, or those that hold more than shreds of the probability.
        usage: tokens of the text.
        inside_word: whether the text stops after a letter, so that its last word may be unfinished.
        network_rows: tokens that were read for it, and distributions asked for.
    """

    candidates: tuple[Candidate, ...]
    usage: Usage
    inside_word: bool = False
    network_rows: int = 0


@dataclass(frozen=True, slots=True)
class Filling:
    """One word for a blank: without the spaces around it; a choice as it was sent."""

    word: str
    probability: float


@dataclass(frozen=True, slots=True)
class Blank:
    """A blank: where it stands, in code points of the text as sent, and its fillings, most probable first."""

    start: int
    end: int
    candidates: tuple[Filling, ...]


@dataclass(frozen=True, slots=True)
class ClozeResult:
    """The text with every blank filled, and each blank's candidates."""

    filled: str
    blanks: tuple[Blank, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """Log-probability of a text in nats, its length in code points (form C) and in tokens."""

    log_probability: float
    characters: int
    tokens: int
    usage: Usage

    @property
    def bits_per_character(self) -> float:
        """Bits that the network needs per code point: comparable between vocabularies."""
        return -self.log_probability / math.log(2.0) / self.characters


Result = PredictResult | ClozeResult | ScoreResult


@dataclass(frozen=True, slots=True)
class Limits:
    """What one query may ask for; the service sets them, offline use keeps the defaults.

    Attributes:
        text: code points of a text.
        top_k: candidates.
        blanks: blanks in a text.
        choices: choices of a blank.
        history: code points of the history.
    """

    text: int = 10_000
    top_k: int = 100
    blanks: int = 64
    choices: int = 256
    history: int = 20_000


def check_query(query: Query, limits: Limits) -> None:
    """Refuse a query that cannot be answered, whatever the checkpoint.

    Raises:
        QueryError: with the field as a JSON pointer relative to the query (``/text``, ``/choices/0/2``).
    """
    check_text("/text", query.text, limits.text)
    if isinstance(query, ScoreQuery):
        if not query.text:
            raise QueryError(
                "/text", "is empty; there is nothing to score, send at least 1 character"
            )
        return
    check_text("/history", query.history, limits.history)
    choices = query.choices if isinstance(query, ClozeQuery) else None
    if choices is not None:  # all of them are answered, whatever top_k says
        pass
    elif (
        isinstance(query.top_k, bool)
        or not isinstance(query.top_k, int)
        or not 1 <= query.top_k <= limits.top_k
    ):
        raise QueryError("/top_k", f"must be a whole number from 1 to {limits.top_k}")
    if isinstance(query, ClozeQuery):
        if query.blank is not None:
            check_text("/blank", query.blank, limits.text)
            if not query.blank.strip():
                raise QueryError("/blank", "must hold at least one character that is not a space")
        if query.choices is not None:
            _check_choices(query.choices, limits)


def check_text(field: str, text: str, limit: int) -> None:
    """Refuse what is not Unicode text, or too long.

    Raises:
        QueryError: a lone surrogate, or more than *limit* code points.
    """
    if len(text) > limit:
        raise QueryError(field, f"has {len(text)} code points; at most {limit} are read, send less")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise QueryError(
                field, f"has a lone surrogate at code point {error.start}; send valid Unicode"
            ) from None


def choice_lists(
    choices: Sequence[str] | Sequence[Sequence[str]], blanks: int
) -> list[dict[str, str]]:
    """The choices of each blank: in form C and without the spaces around them, each with how it was sent."""
    groups = cast(
        "Sequence[Sequence[str]]", [choices] * blanks if isinstance(choices[0], str) else choices
    )
    lists = {id(group): {_clean(choice): choice for choice in group} for group in groups}
    return [lists[id(group)] for group in groups]


def check_choice_lists(choices: Sequence[str] | Sequence[Sequence[str]], blanks: int) -> None:
    """Refuse lists of choices that do not fit the text.

    Raises:
        QueryError: the number of lists is not the number of blanks.
    """
    if not isinstance(choices[0], str) and len(choices) != blanks:
        raise QueryError(
            "/choices", f"has {len(choices)} lists for {blanks} blanks; give one list per blank"
        )


def _check_choices(choices: Sequence[str] | Sequence[Sequence[str]], limits: Limits) -> None:
    if isinstance(choices, str) or not choices:
        raise QueryError("/choices", "is empty; offer at least 1 choice, or leave the field out")
    flat = [choice for choice in choices if isinstance(choice, str)]
    if flat and len(flat) < len(choices):
        raise QueryError("/choices", "mixes strings and lists; give strings, or one list per blank")
    if flat:
        _check_choice_list("/choices", flat, limits)
        return
    for index, group in enumerate(choices):
        _check_choice_list(f"/choices/{index}", group, limits)


def _check_choice_list(field: str, group: Sequence[str], limits: Limits) -> None:
    if not group:
        raise QueryError(field, "is empty; offer at least 1 choice")
    if len(group) > limits.choices:
        raise QueryError(field, f"has {len(group)} choices; at most {limits.choices} are scored")
    seen: dict[str, int] = {}
    for index, choice in enumerate(group):
        pointer = f"{field}/{index}"
        check_text(pointer, choice, limits.text)
        clean = _clean(choice)
        if not clean:
            raise QueryError(
                pointer, "is empty or only spaces; a choice needs at least 1 character"
            )
        if "\n" in clean:
            raise QueryError(pointer, "has a line break; a choice stands on one line")
        if clean in seen:
            raise QueryError(pointer, f"repeats choice {seen[clean]}; send each choice once")
        seen[clean] = index


def _clean(choice: str) -> str:
    return normalise(choice).strip()
