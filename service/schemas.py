"""The wire types: what routes take and return, and so what ``/openapi.json`` documents.

Types are strict (``"5"`` and ``true`` are not 5), and unknown fields are refused: a misspelt
``top_k`` must not silently become 5. ``null`` means the default of any optional field. The model
checks limits (`model.checks.RequestCheck`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    Tag,
    field_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from model.queries import (
    MAX_CORRECTIONS,
    MAX_WEIGHT,
    MAX_WORD,
    ClozeQuery,
    ClozeResult,
    LexiconEntry,
    PredictQuery,
    PredictResult,
    Query,
    Result,
    ScoreQuery,
    ScoreResult,
    Usage,
)
from service.settings import MAX_LEXICON, Settings

R = TypeVar("R", bound=Result)


def text_tag(value: object) -> str | None:
    """Return the tag of a string, or of a list."""
    return "one" if isinstance(value, str) else "many" if isinstance(value, list) else None


def _choices_tag(value: object) -> str | None:
    if not isinstance(value, list):
        return None
    return "nested" if value and all(isinstance(item, list) for item in value) else "flat"


def _entry_tag(value: object) -> str | None:
    return "plain" if isinstance(value, str) else "weighted" if isinstance(value, dict) else None


def discriminator(tag: Callable[[object], str | None], message: str) -> Discriminator:
    """Return what chooses a member of a union; *message* is for values without a tag."""
    return Discriminator(tag, custom_error_type="wrong_type", custom_error_message=message)


# Tags of the unions below. pydantic adds them to an error's location.
UNION_TAGS = frozenset(
    {"one", "many", "tokens", "many_tokens", "flat", "nested", "plain", "weighted"}
)

# Fails fast: half a million wrong items in one body must not make half a million errors.
Strings = Annotated[list[str], Field(min_length=1, fail_fast=True)]
StringLists = Annotated[list[Strings], Field(min_length=1, fail_fast=True)]
Text = Annotated[
    Annotated[str, Tag("one")] | Annotated[Strings, Tag("many")],
    discriminator(text_tag, "must be a string or a list of strings"),
]
Choices = Annotated[
    Annotated[Strings, Tag("flat")] | Annotated[StringLists, Tag("nested")],
    discriminator(_choices_tag, "must be null, a list of strings, or a list of lists of strings"),
]


# Of a body: no coercion, no unknown fields, immutable.
BODY = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

Word = Annotated[str, Field(min_length=1, max_length=MAX_WORD)]


class WeightedWord(BaseModel):
    """A word of a lexicon with its weight."""

    model_config = BODY

    word: Word
    weight: Annotated[float, Field(gt=0, le=MAX_WEIGHT, allow_inf_nan=False)] | None = Field(
        None, description="preference among the words of the lexicon; 1 if it is not given"
    )


LexiconItem = Annotated[
    Annotated[Word, Tag("plain")] | Annotated[WeightedWord, Tag("weighted")],
    discriminator(_entry_tag, "must be a string or an object with word and weight"),
]
Words = Annotated[list[Word], Field(max_length=MAX_LEXICON, fail_fast=True)]
Lexicon = Annotated[list[LexiconItem], Field(max_length=MAX_LEXICON, fail_fast=True)]
_EMPTY: Any = ()  # pydantic would copy a list for each request


class Body(BaseModel):
    """The body of any request for answers. ``null`` means the default of an optional field."""

    @classmethod
    def without_nulls(cls, body: Any) -> Any:
        """Drop the optional fields of a decoded *body* that are null."""
        if not isinstance(body, dict) or None not in body.values():
            return body
        optional = {name for name, each in cls.model_fields.items() if not each.is_required()}
        return {key: body[key] for key in body if body[key] is not None or key not in optional}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Document that every optional field may be null."""
        schema = handler(core_schema)
        fields = handler.resolve_ref_schema(schema)["properties"]
        for name, field in cls.model_fields.items():
            if not field.is_required() and {"type": "null"} not in fields[name].get("anyOf", ()):
                kept = ("default", "description", "title")
                notes = {key: fields[name].pop(key) for key in kept if key in fields[name]}
                if isinstance(notes.get("default"), dict):  # which generators of clients refuse
                    del notes["default"]
                fields[name] = {"anyOf": [fields[name], {"type": "null"}], **notes}
        return schema

    def excess(self, settings: Settings) -> "FieldError | None":
        """Return the error of a list that is too long: count before anything reads its items."""
        raise NotImplementedError

    def queries(self) -> list[Query]:
        """Return the question about each text."""
        raise NotImplementedError

    def pointer(self, field: str, item: int) -> str:
        """Return the place in this body of a *field* of query number *item*."""
        raise NotImplementedError


class Question(Body):
    """The body of any question: one or several texts, which share all other fields."""

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

    def pointer(self, field: str, item: int) -> str:
        """Return the place in this body of a *field* of query number *item*."""
        is_list = field == "/text" and not isinstance(self.text, str)
        return f"/text/{item}" if is_list else field


class ScoreRequest(Question):
    """Ask how probable one or several texts are."""

    model_config = BODY

    context: str = Field("", description="what precedes each text: log P(text | context) is asked")
    details: bool = Field(False, description="list the probability of each token")

    def queries(self) -> list[Query]:
        """Return the question about each text."""
        return [ScoreQuery(text, self.context, self.details) for text in self.texts]


class WordsRequest(Question):
    """Fields that all questions for words share."""

    top_k: int = Field(5, ge=1, description="candidates to return, most probable first")
    history: str = Field(
        "", description="earlier text of the same writer: its words are likelier to come again"
    )
    lexicon: Lexicon = Field(
        _EMPTY,
        description="the writer's own words, which become likelier; offered as they are written",
    )
    block: Words = Field(_EMPTY, description="words that are never candidates, whatever their case")

    def excess(self, settings: Settings) -> "FieldError | None":
        """Return the error of a list that is too long: count before anything reads its items."""
        limit = settings.max_lexicon
        for name, words in (("lexicon", self.lexicon), ("block", self.block)):
            if len(words) > limit:
                return FieldError(f"/{name}", f"has {len(words)} words; send at most {limit}")
        return super().excess(settings)

    def own_words(self) -> tuple[LexiconEntry, ...]:
        """Return the lexicon, each word with its weight."""
        return tuple(
            LexiconEntry(each)
            if isinstance(each, str)
            else LexiconEntry(each.word, 1.0 if each.weight is None else each.weight)
            for each in self.lexicon
        )


class PredictRequest(WordsRequest):
    """Ask for the next word."""

    model_config = BODY

    words: int = Field(1, ge=1, description="most words of a candidate, its `steps`")
    letters: bool = Field(False, description="add the distribution of the next character")
    corrections: int = Field(0, ge=0, le=MAX_CORRECTIONS, description="most errors of a word")
    after: str = Field("", description="what follows the cursor")

    def queries(self) -> list[Query]:
        """Return the question about each text."""
        words = self.own_words(), tuple(self.block)
        more = self.words, self.letters, self.corrections, self.after
        shared = (self.top_k, self.history, *words, *more)
        return [PredictQuery(text, *shared) for text in self.texts]


class ClozeRequest(WordsRequest):
    """Ask for the words in the blanks."""

    model_config = BODY

    blank: str | None = Field(
        None,
        min_length=1,
        description="another marker than the usual ones: "
        "two or more _ or ＿, [MASK], <mask>, <blank>, {blank}, in any case",
    )
    choices: Choices | None = Field(
        None,
        description="answers to choose from: one list for every blank of every text, "
        "or one list per blank of a single text",
    )

    fillings: int = Field(
        1, ge=1, description="fillings of all blanks together to list, if more than 1"
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

    def queries(self) -> list[Query]:
        """Return the question about each text."""
        words = self.own_words(), tuple(self.block)
        shared = (self.top_k, self.blank, self.choices, self.history, *words, self.fillings)
        return [ClozeQuery(text, *shared) for text in self.texts]


class ModelName(BaseModel):
    """The checkpoint that answered."""

    name: str
    version: str


class Answer(BaseModel, Generic[R]):
    """One result for each text, in the order sent."""

    # Fields that have a default, in Python, are in every answer.
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

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


class ModelCounts(BaseModel):
    """Counts that are mixed with the network."""

    ngrams: list[int] = Field(description="by order, from 1")
    bytes: int
    weights: dict[str, list[float]] = Field(
        description="share of the probability of the next token, by language and class of evidence"
    )


class ModelAnswer(ModelIdentity):
    """The checkpoint that answers: its sizes, its questions, its scores."""

    runtime: str = Field(description="of the network: native, onnxruntime, torch, or counts alone")
    architecture: dict[str, Any]
    parameters: int
    counts: list[ModelCounts]
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
