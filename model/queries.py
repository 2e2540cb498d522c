"""Questions, answers and limits: plain frozen values.

Queries are checked before anything is computed (checks.py), so decoders trust their input. Answers
are sent to clients as they are, but for fields that are marked as internal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from operator import is_
from typing import Annotated

from pydantic import Field

from model.completions import CompletionQuery, CompletionResult

# Strings, offered for every blank, or one list of strings per blank.
Choices = Sequence[str] | Sequence[Sequence[str]]
# Code points of a word of a lexicon, or of a blocked one, the highest weight, and typing errors.
MAX_WORD, MAX_WEIGHT, MAX_CORRECTIONS = 64, 1_000, 2


@dataclass(frozen=True, slots=True)
class LexiconEntry:
    """A word of the writer's own, as it is to be written; those of more *weight* are preferred."""

    word: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class PredictQuery:
    """Predict the continuation of *text*, by *top_k* candidates; empty text starts a text.

    Words of *history*, which is earlier text of the same writer, become more probable, and so do
    those of *lexicon*. Words of *block* are never candidates. The first candidates go on for up to
    so many *words*. With *letters*, the distribution of the next character comes, too. With
    *corrections*, what was meant by a last word of at most so many typing errors is a candidate.
    What comes *after* the text weighs the first candidates.
    """

    text: str
    top_k: int = 5
    history: str = ""
    lexicon: tuple[LexiconEntry, ...] = ()
    block: tuple[str, ...] = ()
    words: int = 1
    letters: bool = False
    corrections: int = 0
    after: str = ""

    @property
    def is_plain(self) -> bool:
        """Only the next word is asked for."""
        return self.words == 1 and not (self.letters or self.corrections or self.after)


@dataclass(frozen=True, slots=True)
class ClozeQuery:
    """Fill the blanks of *text*: *top_k* candidates for each, or all *choices* if there are any.

    *blank* is a marker of a blank, literally; None means the usual ones
    (:func:`find_markers`). The best *fillings* of all blanks together are listed if they are more
    than 1. The other fields are as for :class:`PredictQuery`.
    """

    text: str
    top_k: int = 5
    blank: str | None = None
    choices: Choices | None = None
    history: str = ""
    lexicon: tuple[LexiconEntry, ...] = ()
    block: tuple[str, ...] = ()
    fillings: int = 1


@dataclass(frozen=True, slots=True)
class ScoreQuery:
    """Compute the probability of *text* after *context*, or after the start of a text.

    With *details*, list the probability of each token.
    """

    text: str
    context: str = ""
    details: bool = False


Query = PredictQuery | ClozeQuery | ScoreQuery | CompletionQuery
# pydantic writes fields with this mark into no JSON.
_INTERNAL = Field(exclude=True)
# And fields with this one only if they have a value.
_IF_GIVEN = Field(exclude_if=partial(is_, None))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the text of a query, and how many of them came from a cache."""

    tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Origins:
    """The shares of a probability by where they come from; they sum to 1.

    Attributes:
        counts: counts of the training text.
        cache: words of this text, and of the history and lexicon of its writer.
        own: counts of the text that the checkpoint was adapted to; None if there was none.
    """

    network: float = 1.0
    counts: float = 0.0
    cache: float = 0.0
    own: Annotated[float | None, _IF_GIVEN] = None


@dataclass(frozen=True, slots=True)
class Step:
    """One of the words of a candidate: the text it appends, its probability after the others."""

    append: str
    probability: float
    ended: bool = True


@dataclass(frozen=True, slots=True)
class Candidate:
    """A possible continuation.

    Attributes:
        word: the whole word, including the part that the text already has.
        append: the continuation of the text; never empty, never ends in a space.
        probability: of *append*, or of its first step; candidates of a query sum to at most 1.
        ended: the word is complete, so a space or a punctuation mark may follow.
        origins: of the probability of the last token of its likeliest spelling.
        steps: the words of *append*; None unless several were asked.
        replace: code points at the end of the text that *append* replaces; None if it only appends.
    """

    word: str
    append: str
    probability: float
    ended: bool = True
    origins: Origins = Origins()
    steps: Annotated[tuple[Step, ...] | None, _IF_GIVEN] = None
    replace: Annotated[int | None, _IF_GIVEN] = None


@dataclass(frozen=True, slots=True)
class Letter:
    """A next character and its probability."""

    letter: str
    probability: float


@dataclass(frozen=True, slots=True)
class Letters:
    """The distribution of the next character; all sum to 1.

    Attributes:
        next: characters, most probable first.
        end: no character follows on this line.
        other: all that are not listed.
    """

    next: tuple[Letter, ...]
    end: float
    other: float


@dataclass(frozen=True, slots=True)
class PredictResult:
    """Candidates, most probable first; fewer than ``top_k`` if the others are too improbable.

    Attributes:
        letters: None unless they were asked.
        inside_word: the text ends in a letter, so its last word may be unfinished.
        network_rows: tokens run and distributions scored for this answer.
    """

    candidates: tuple[Candidate, ...]
    usage: Annotated[Usage, _INTERNAL] = Usage(0)
    inside_word: Annotated[bool, _INTERNAL] = False
    network_rows: Annotated[int, _INTERNAL] = 0
    letters: Annotated[Letters | None, _IF_GIVEN] = None


@dataclass(frozen=True, slots=True)
class Filling:
    """A word for a blank, without spaces around it; a choice as it was sent.

    Its *origins* are of the probability of the first token of its likeliest spelling, given what
    precedes the blank.
    """

    word: str
    probability: float
    origins: Origins = Origins()


@dataclass(frozen=True, slots=True)
class Blank:
    """A blank: its place in the text as sent, in code points, and its fillings, best first."""

    start: int
    end: int
    candidates: tuple[Filling, ...]


@dataclass(frozen=True, slots=True)
class JointFilling:
    """A word for every blank, the text with them, and the probability of all together."""

    filled: str
    words: tuple[str, ...]
    probability: float


@dataclass(frozen=True, slots=True)
class ClozeResult:
    """The text with every blank filled, and the candidates of each blank.

    Attributes:
        fillings: the best ones of all blanks together, best first; None unless several were asked.
    """

    filled: str
    blanks: tuple[Blank, ...]
    usage: Annotated[Usage, _INTERNAL] = Usage(0)
    fillings: Annotated[tuple[JointFilling, ...] | None, _IF_GIVEN] = None


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token of a text: its place in the text as sent, in code points, and its probability."""

    text: str
    start: int
    end: int
    log_probability: float


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """The probability of one text after its context; the end of the text is not included.

    Attributes:
        log_probability: in nats.
        characters: code points of its normal form, without the space after its context.
        bits_per_character: negative log-probability in bits per code point: comparable between
            tokenizers.
        details: every token of the text; None unless they were asked.
    """

    log_probability: float
    characters: int
    tokens: int
    bits_per_character: float
    usage: Annotated[Usage, _INTERNAL] = Usage(0)
    details: Annotated[tuple[ScoredToken, ...] | None, _IF_GIVEN] = None


Result = PredictResult | ClozeResult | ScoreResult | CompletionResult


@dataclass(frozen=True, slots=True)
class Limits:
    """Most code points, candidates, blanks and choices of a blank; the service sets them.

    ``choice_characters`` are the code points of all choices of a blank. ``lexicon`` are words of
    a lexicon, and as many may be blocked. ``tokens`` are those of a completion.
    """

    characters: int = 10_000
    top_k: int = 100
    blanks: int = 64
    choices: int = 256
    choice_characters: int = 4_096
    history: int = 20_000
    lexicon: int = 256
    fillings: int = 16
    tokens: int = 64
    words: int = 8
