"""The wire: what a request and an answer look like, for parsing and for ``/openapi.json``.

Types are strict (``"5"`` and ``true`` are not 5) and unknown fields are refused, so that a misspelt ``top_k`` is not
silently 5. Limits are not here: the model checks them (`model.queries.check_query`), on one text at a time. Answers are
written straight from the model's results (`service.routes`); the answer types here document them, and a test holds the
two together.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from model.queries import ClozeQuery, PredictQuery, Query, ScoreQuery


def _text_form(value: object) -> str | None:
    return "one" if isinstance(value, str) else "many" if isinstance(value, list) else None


def _choices_form(value: object) -> str | None:
    if not isinstance(value, list):
        return None
    return "nested" if value and all(isinstance(item, list) for item in value) else "flat"


# Tags of the unions below; pydantic puts them into an error's location, from which `body` drops them.
TAGS = frozenset({"one", "many", "flat", "nested"})

# Fails fast: half a million wrong items in one body must not cost half a million error reports.
Strings = Annotated[list[str], Field(min_length=1, fail_fast=True)]
Text = Annotated[
    Annotated[str, Tag("one")] | Annotated[Strings, Tag("many")],
    Discriminator(
        _text_form,
        custom_error_type="text_form",
        custom_error_message="must be a string or a list of strings",
    ),
]
Choices = Annotated[
    Annotated[Strings, Tag("flat")]
    | Annotated[Annotated[list[Strings], Field(min_length=1, fail_fast=True)], Tag("nested")],
    Discriminator(
        _choices_form,
        custom_error_type="choices_form",
        custom_error_message="must be null, a list of strings, or a list of lists of strings",
    ),
]
TopK = Annotated[int, Field(ge=1, description="candidates to return, most probable first")]


class Strict(BaseModel):
    """A body: no coercion, no unknown field, no change after parsing."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class ScoreRequest(Strict):
    """Asks how probable one text or several are."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "How are you?"}, {"text": ["你好吗", "吗你好"]}]}
    )

    text: Text = Field(description="one text or several")

    @property
    def texts(self) -> list[str]:
        """The texts as a list, also where one was sent."""
        return [self.text] if isinstance(self.text, str) else self.text

    @property
    def characters(self) -> int:
        """Code points that were sent to be read: of texts, history and choices."""
        return sum(map(len, self.texts))

    def queries(self) -> list[Query]:
        """One query for each text, in order."""
        return [ScoreQuery(text) for text in self.texts]


class PredictRequest(ScoreRequest):
    """Asks what is typed next."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"text": "go to the theat", "top_k": 3}, {"text": ["迟", "I like "]}]
        }
    )

    top_k: TopK = 5
    history: str = Field(
        "", description="earlier text of the same writer: its words are likelier to come again"
    )

    @property
    def characters(self) -> int:
        """Code points that were sent to be read: of texts, history and choices."""
        return super().characters + len(self.history)

    def queries(self) -> list[Query]:
        """One query for each text, in order."""
        return [PredictQuery(text, self.top_k, self.history) for text in self.texts]


class ClozeRequest(PredictRequest):
    """Asks what stands in the blanks."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "我的手机坏了,我打算____一部新手机。", "top_k": 3},
                {"text": "I have ____ apples.", "choices": ["a", "two", "green"]},
            ]
        }
    )

    blank: str | None = Field(
        None,
        min_length=1,
        description="another marker than the usual ones: two or more _ or ＿, [MASK], <mask>, <blank>, {blank}",
    )
    choices: Choices | None = Field(
        None,
        description="answers to choose from: one list for every blank of every text, or a list a blank of one text",
    )

    @property
    def characters(self) -> int:
        """Code points that were sent to be read: of texts, history and choices."""
        choices = self.choices or ()
        return super().characters + sum(
            len(c) if isinstance(c, str) else sum(map(len, c)) for c in choices
        )

    def queries(self) -> list[Query]:
        """One query for each text, in order."""
        return [
            ClozeQuery(text, self.top_k, self.blank, self.choices, self.history)
            for text in self.texts
        ]


class Model(BaseModel):
    """Which checkpoint answered."""

    name: str
    version: str


class Usage(BaseModel):
    """What the request cost."""

    tokens: int = Field(description="vocabulary tokens that the request's texts came to")
    cached_tokens: int = Field(description="of these, tokens whose states were already known")


class Answer(BaseModel):
    """What every answer holds."""

    model: Model
    usage: Usage


class BlankCandidate(BaseModel):
    """One filling of one blank."""

    word: str
    probability: float = Field(ge=0, le=1)


class Candidate(BlankCandidate):
    """One next word."""

    append: str = Field(
        min_length=1, description="text + append is what stands there next; never ends in a space"
    )


class Prediction(BaseModel):
    """The next words of one text, most probable first."""

    candidates: list[Candidate]


class PredictAnswer(Answer):
    """One prediction for each text, in the order sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": {"name": "default", "version": "1"},
                    "results": [
                        {"candidates": [{"word": "theatre", "append": "re", "probability": 0.81}]}
                    ],
                    "usage": {"tokens": 9, "cached_tokens": 0},
                }
            ]
        }
    )

    results: list[Prediction]


class Blank(BaseModel):
    """One blank: where it stood in the text as sent, in code points, and what may stand there."""

    start: int
    end: int
    candidates: list[BlankCandidate]


class Filling(BaseModel):
    """The best joint filling of one text, and each blank by itself."""

    filled: str
    blanks: list[Blank]


class ClozeAnswer(Answer):
    """One filling for each text, in the order sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": {"name": "default", "version": "1"},
                    "results": [
                        {
                            "filled": "我的手机坏了,我打算买一部新手机。",
                            "blanks": [
                                {
                                    "start": 10,
                                    "end": 14,
                                    "candidates": [{"word": "买", "probability": 0.62}],
                                }
                            ],
                        }
                    ],
                    "usage": {"tokens": 13, "cached_tokens": 0},
                }
            ]
        }
    )

    results: list[Filling]


class Score(BaseModel):
    """How probable one text is after the start of a text, its end not included."""

    log_probability: float = Field(le=0, description="nats")
    characters: int
    tokens: int
    bits_per_character: float | None = Field(description="null for the empty text")


class ScoreAnswer(Answer):
    """One score for each text, in the order sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": {"name": "default", "version": "1"},
                    "results": [
                        {
                            "log_probability": -11.2,
                            "characters": 12,
                            "tokens": 4,
                            "bits_per_character": 1.347,
                        },
                    ],
                    "usage": {"tokens": 4, "cached_tokens": 0},
                }
            ]
        }
    )

    results: list[Score]


class LimitsAnswer(BaseModel):
    """The largest request that is accepted."""

    body_bytes: int
    characters: int
    texts: int
    top_k: int
    blanks: int
    choices: int
    history: int


class ModelAnswer(BaseModel):
    """The checkpoint that is loaded: what it is, what it can answer, what it scored."""

    name: str
    version: str
    digest: str
    architecture: dict[str, Any]
    parameters: int
    languages: list[str]
    capabilities: list[Literal["predict", "cloze", "score"]]
    scores: dict[str, Any]
    limits: LimitsAnswer


class ReloadRequest(Strict):
    """Asks for another checkpoint."""

    checkpoint: str | None = Field(
        None,
        min_length=1,
        description="directory on the service's machine; by default the one that the settings name",
    )


class IdentityAnswer(BaseModel):
    """Which checkpoint."""

    name: str
    version: str
    digest: str


class ReloadAnswer(BaseModel):
    """What answers now, and what did before."""

    model: IdentityAnswer
    previous: IdentityAnswer
    seconds: float


class FieldProblem(BaseModel):
    """One field that is wrong."""

    pointer: str = Field(description="JSON pointer into the body")
    detail: str


class ProblemAnswer(BaseModel):
    """An error (RFC 9457). Holds numbers, fields and paths, never text that was sent."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[FieldProblem] | None = None
