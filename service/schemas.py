"""The wire types: what routes take and return, and so what ``/openapi.json`` documents.

Types are strict (``"5"`` and ``true`` are not 5), and unknown fields are refused: a misspelt
``top_k`` must not silently become 5. The model checks limits (`model.queries.check_query`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from model.queries import (
    ClozeQuery,
    ClozeResult,
    PredictQuery,
    PredictResult,
    Query,
    Result,
    ScoreQuery,
    ScoreResult,
    Usage,
)
from service.settings import Settings

R = TypeVar("R", bound=Result)


def _text_tag(value: object) -> str | None:
    return "one" if isinstance(value, str) else "many" if isinstance(value, list) else None


def _choices_tag(value: object) -> str | None:
    if not isinstance(value, list):
        return None
    return "nested" if value and all(isinstance(item, list) for item in value) else "flat"


def _discriminator(tag: Callable[[object], str | None], message: str) -> Discriminator:
    return Discriminator(tag, custom_error_type="wrong_type", custom_error_message=message)


# Tags of the unions below. pydantic adds them to an error's location.
UNION_TAGS = frozenset({"one", "many", "flat", "nested"})

# Fails fast: half a million wrong items in one body must not make half a million errors.
Strings = Annotated[list[str], Field(min_length=1, fail_fast=True)]
StringLists = Annotated[list[Strings], Field(min_length=1, fail_fast=True)]
Text = Annotated[
    Annotated[str, Tag("one")] | Annotated[Strings, Tag("many")],
    _discriminator(_text_tag, "must be a string or a list of strings"),
]
Choices = Annotated[
    Annotated[Strings, Tag("flat")] | Annotated[StringLists, Tag("nested")],
    _discriminator(_choices_tag, "must be null, a list of strings, or a list of lists of strings"),
]


def _config(*examples: dict[str, Any]) -> ConfigDict:
    """Return the configuration of a body: no coercion, no unknown fields, immutable."""
    return ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        json_schema_extra={"examples": list(examples)},
    )


class ScoreRequest(BaseModel):
    """Ask how probable one or several texts are."""

    model_config = _config({"text": "How are you?"}, {"text": ["你好吗", "吗你好"]})

    text: Text = Field(description="one text or several")
    user: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="any name of the writer: cached texts are kept apart for each; never logged",
    )

    @property
    def texts(self) -> list[str]:
        """The texts as a list, even if only one was sent."""
        return [self.text] if isinstance(self.text, str) else self.text

    def excess(self, settings: Settings) -> "FieldError | None":
        """Return the error of a list that is too long: count before anything reads its items."""
        count, limit = len(self.texts), settings.max_texts
        if count <= limit:
            return None
        return FieldError("/text", f"has {count} texts; at most {limit} are allowed")

    def query(self, text: str) -> Query:
        """Return the question about one of the texts."""
        return ScoreQuery(text)


class PredictRequest(ScoreRequest):
    """Ask for the next word."""

    model_config = _config({"text": "go to the theat", "top_k": 3}, {"text": ["迟", "I like "]})

    top_k: int = Field(5, ge=1, description="candidates to return, most probable first")
    history: str = Field(
        "", description="earlier text of the same writer: its words are likelier to come again"
    )

    def query(self, text: str) -> Query:
        """Return the question about one of the texts."""
        return PredictQuery(text, self.top_k, self.history)


class ClozeRequest(PredictRequest):
    """Ask for the words in the blanks."""

    model_config = _config(
        {"text": "我的手机坏了,我打算____一部新手机。", "top_k": 3},
        {"text": "I have ____ apples.", "choices": ["a", "two", "green"]},
    )

    blank: str | None = Field(
        None,
        min_length=1,
        description="another marker than the usual ones: "
        "two or more _ or ＿, [MASK], <mask>, <blank>, {blank}",
    )
    choices: Choices | None = Field(
        None,
        description="answers to choose from: one list for every blank of every text, "
        "or one list per blank of a single text",
    )

    @field_validator("choices")
    @classmethod
    def _lists_go_with_one_text(cls, choices: Any, info: ValidationInfo) -> Any:
        text = info.data.get("text")
        if choices and isinstance(choices[0], list) and isinstance(text, list) and len(text) > 1:
            raise PydanticCustomError(
                "choices_per_blank",
                "per-blank choices are only allowed with a single text; got {texts} texts",
                {"texts": len(text)},
            )
        return choices

    def excess(self, settings: Settings) -> "FieldError | None":
        """Return the error of a list that is too long: count before anything reads its items."""
        choices = self.choices or []
        if choices and isinstance(choices[0], list):
            if len(choices) > settings.max_blanks:
                detail = (
                    f"has {len(choices)} lists; at most {settings.max_blanks} blanks are filled"
                )
                return FieldError("/choices", detail)
            lists = {f"/choices/{index}": each for index, each in enumerate(choices)}
        else:
            lists = {"/choices": choices}
        for pointer, each in lists.items():
            if len(each) > settings.max_choices:
                detail = f"has {len(each)} choices; send at most {settings.max_choices}"
                return FieldError(pointer, detail)
        return super().excess(settings)

    def query(self, text: str) -> Query:
        """Return the question about one of the texts."""
        return ClozeQuery(text, self.top_k, self.blank, self.choices, self.history)


class ModelName(BaseModel):
    """The checkpoint that answered."""

    name: str
    version: str


class Answer(BaseModel, Generic[R]):
    """One result for each text, in the order sent."""

    model: ModelName
    results: list[R]
    usage: Usage


class PredictAnswer(Answer[PredictResult]):
    """The next words of each text."""


class ClozeAnswer(Answer[ClozeResult]):
    """Each text with its blanks filled, and the candidates of each blank."""


class ScoreAnswer(Answer[ScoreResult]):
    """The probability of each text."""


class ModelIdentity(ModelName):
    """A checkpoint's name, version and digest."""

    digest: str


class ModelAnswer(ModelIdentity):
    """The checkpoint that answers: its sizes, its questions, its scores."""

    architecture: dict[str, Any]
    parameters: int
    languages: list[str]
    capabilities: list[Literal["predict", "cloze", "score"]]
    scores: dict[str, Any]
    limits: dict[str, int | float] = Field(description="the largest request that is accepted")


class ReloadAnswer(BaseModel):
    """The checkpoint that answers now, and the one before it."""

    model: ModelIdentity
    previous: ModelIdentity
    seconds: float


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with a request.

    Attributes:
        pointer: JSON pointer (RFC 6901) into the body, such as ``/text/3``; empty for the body.
        detail: the mistake and the remedy, without the client's text.
    """

    pointer: str
    detail: str


class ProblemDocument(BaseModel):
    """An error (RFC 9457). It holds numbers, fields and paths, never text that was sent."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[FieldError] | None = None
