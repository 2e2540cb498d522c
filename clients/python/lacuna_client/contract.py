"""Options of questions, answers and errors. docs/http.md describes the fields.

A newer service may answer with more fields, which are ignored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Generic, TypedDict, TypeVar, get_args, get_origin, get_type_hints

R = TypeVar("R")
Text = str | Sequence[str]
_hints = cache(get_type_hints)


class WordsOptions(TypedDict, total=False):
    top_k: int
    history: str
    lexicon: Sequence[str | Mapping[str, str | float]]
    block: Sequence[str]
    user: str


class PredictOptions(WordsOptions, total=False):
    words: int
    letters: bool
    corrections: int
    after: str


class ClozeOptions(WordsOptions, total=False):
    blank: str
    choices: Sequence[str] | Sequence[Sequence[str]]
    fillings: int


class ScoreOptions(TypedDict, total=False):
    context: str
    details: bool
    user: str


@dataclass(frozen=True)
class Step:
    append: str
    probability: float
    ended: bool


@dataclass(frozen=True)
class Candidate(Step):
    word: str
    origins: dict[str, float]
    steps: tuple[Step, ...] | None = None
    replace: int | None = None


@dataclass(frozen=True)
class Letter:
    letter: str
    probability: float


@dataclass(frozen=True)
class Letters:
    next: tuple[Letter, ...]
    end: float
    other: float


@dataclass(frozen=True)
class PredictResult:
    candidates: tuple[Candidate, ...]
    letters: Letters | None = None


@dataclass(frozen=True)
class Filling:
    word: str
    probability: float
    origins: dict[str, float]


@dataclass(frozen=True)
class Blank:
    start: int
    end: int
    candidates: tuple[Filling, ...]


@dataclass(frozen=True)
class JointFilling:
    filled: str
    words: tuple[str, ...]
    probability: float


@dataclass(frozen=True)
class ClozeResult:
    filled: str
    blanks: tuple[Blank, ...]
    fillings: tuple[JointFilling, ...] | None = None


@dataclass(frozen=True)
class ScoredToken:
    text: str
    start: int
    end: int
    log_probability: float


@dataclass(frozen=True)
class ScoreResult:
    log_probability: float
    characters: int
    tokens: int
    bits_per_character: float
    details: tuple[ScoredToken, ...] | None = None


@dataclass(frozen=True)
class ModelName:
    name: str
    version: str


@dataclass(frozen=True)
class Model(ModelName):
    digest: str
    runtime: str
    architecture: dict[str, Any]
    parameters: int
    counts: tuple[dict[str, Any], ...]
    languages: tuple[str, ...]
    capabilities: tuple[str, ...]
    scores: dict[str, Any]
    limits: dict[str, float]


@dataclass(frozen=True)
class Answer(Generic[R]):
    """One result for each text, in the order sent; *timing_ms* is `Server-Timing`."""

    model: ModelName
    results: tuple[R, ...]
    usage: dict[str, int]
    timing_ms: dict[str, float]

    @property
    def result(self) -> R:
        """The result of the only text."""
        if len(self.results) != 1:
            raise ValueError(f"there are {len(self.results)} results; read `results`")
        return self.results[0]


@dataclass(frozen=True)
class FieldError:
    pointer: str
    detail: str


@dataclass(eq=False)
class Problem(Exception):  # noqa: N818 - RFC 9457's name for it
    """An error that the service answered (RFC 9457). It holds no text that was sent.

    *errors* name the wrong fields of a 422. *retry_after* is in seconds, None if none were given.
    """

    status: int = 0
    title: str = ""
    detail: str = ""
    errors: tuple[FieldError, ...] = ()
    request_id: str = ""
    retry_after: float | None = None

    def __str__(self) -> str:
        return f"{self.status} {self.title}: {self.detail}"


def read(form: Any, value: Any, variable: Any = None) -> Any:
    """Turn JSON into *form*: a class above, a tuple, or either or None. R means *variable*."""
    form = variable if form is R else form
    kind, parts = get_origin(form) or form, get_args(form)
    if kind is UnionType:
        return None if value is None else read(parts[0], value)
    if kind is tuple:
        return tuple([read(parts[0], item, variable) for item in value])
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return value
    fields = {name: each for name, each in _hints(kind).items() if name in value}
    return kind(**{name: read(each, value[name], *parts) for name, each in fields.items()})
