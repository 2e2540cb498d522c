"""The wire types of OpenAI's completions API (service/completions.py)."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, Tag, field_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from model.completions import CompletionPart, CompletionQuery, Finish
from model.queries import Query
from service.schemas import (
    BODY,
    Body,
    FieldError,
    ProblemDocument,
    Strings,
    discriminator,
    text_tag,
)
from service.settings import Settings

# Any checkpoint answers to this name.
NAME = "lacuna"
MAX_TOP, MAX_STOPS, MAX_STOP = 20, 64, 256


def _prompt_tag(value: object) -> str | None:
    items = {type(item) for item in value} if isinstance(value, list) else set()
    kind = items.pop() if len(items) == 1 else str
    return {int: "tokens", list: "many_tokens"}.get(kind, text_tag(value))


Tokens = Annotated[
    list[Annotated[int, Field(ge=0, le=0xFFFF)]], Field(min_length=1, fail_fast=True)
]
TokenLists = Annotated[list[Tokens], Field(fail_fast=True)]
Prompt = Annotated[
    Annotated[str, Tag("one")]
    | Annotated[Strings, Tag("many")]
    | Annotated[Tokens, Tag("tokens")]
    | Annotated[TokenLists, Tag("many_tokens")],
    discriminator(_prompt_tag, "must be a string, a list of strings, or token ids"),
]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP)]
StopStrings = Annotated[list[StopString], Field(max_length=MAX_STOPS, fail_fast=True)]
Stop = Annotated[
    Annotated[StopString, Tag("one")] | Annotated[StopStrings, Tag("many")],
    discriminator(text_tag, "must be a string or a list of strings"),
]
# Of fields that change nothing here.
Zero = Annotated[float, Field(ge=0, le=0)]
One = Annotated[float, Field(ge=1, le=1)]


class StreamOptions(BaseModel):
    """Settings of a stream."""

    model_config = BODY

    include_usage: bool | None = Field(None, description="end with the usage of tokens")


class CompletionRequest(Body):
    """Ask for the continuation of prompts. Fields without an effect must be neutral."""

    model_config = BODY

    model: str = Field(description=f"the name of the checkpoint, or {NAME}")
    prompt: Prompt = Field(description="one text or several, or their token ids; id 1 is the start")
    suffix: str = Field("", description="what follows: a word for the blank between is found")
    echo: bool = Field(False, description="begin with the prompt")
    max_tokens: int = Field(16, ge=0, description="0 only with echo")
    temperature: float = Field(1, ge=0, le=2, description="0 takes the most probable tokens")
    n: int = Field(1, ge=1, description="completions of each prompt")
    stop: Stop = Field([], description="the completion ends before any of these")
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP, description="tokens to list at each place")
    seed: int | None = Field(None, description="the same one gives the same completion")
    stream: bool = Field(False, description="send parts as they come, as server-sent events")
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="keeps cached texts apart; never logged")
    top_p: One = 1
    frequency_penalty: Zero = 0
    presence_penalty: Zero = 0
    best_of: int | None = Field(None, description="1 or n")
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] = Field({})
    service_tier: str | None = Field(None, description="has no effect")

    @field_validator("max_tokens", "best_of", "suffix")
    @classmethod
    def _fits(cls, value: Any, info: ValidationInfo) -> Any:
        """Check what depends on fields before it."""
        if info.field_name == "max_tokens" and value == 0 and not info.data.get("echo"):
            raise PydanticCustomError("max_tokens", "must be at least 1 without echo")
        if info.field_name == "best_of" and value not in (1, info.data.get("n")):
            raise PydanticCustomError("best_of", "must be 1 or n")
        if (
            info.field_name == "suffix"
            and value
            and _prompt_tag(info.data.get("prompt"))
            not in (
                "one",
                "many",
            )
        ):
            raise PydanticCustomError("suffix", "needs a prompt of text; token ids have no blank")
        return value

    @property
    def prompts(self) -> list[Any]:
        """The prompts as a list, even if only one was sent: texts, or lists of token ids."""
        is_one = _prompt_tag(self.prompt) in ("one", "tokens")
        return [self.prompt] if is_one else list(self.prompt)

    def excess(self, settings: Settings) -> FieldError | None:
        """Return the error of a list that is too long: count before anything reads its items."""
        count, limit = len(self.prompts) * self.n, settings.max_texts
        if count <= limit:
            return None
        detail = f"makes {count} completions; at most {limit} are allowed"
        return FieldError("/n" if self.n > 1 else "/prompt", detail)

    def queries(self) -> list[Query]:
        """Return the query of each completion, those of one prompt together."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        return [
            CompletionQuery(
                text=prompt if isinstance(prompt, str) else "",
                tokens=() if isinstance(prompt, str) else tuple(prompt),
                suffix=self.suffix,
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                stop=stop,
                top=self.logprobs,
                echo=self.echo,
                seed=None if self.seed is None else f"{self.seed}/{number}",
            )
            for prompt in self.prompts
            for number in range(self.n)
        ]

    def pointer(self, field: str, item: int) -> str:
        """Return the place in this body of a *field* of query number *item*."""
        if not field.startswith("/text"):
            return field
        is_one = _prompt_tag(self.prompt) in ("one", "tokens")
        prompt = "/prompt" if is_one else f"/prompt/{item // self.n}"
        return prompt + field.removeprefix("/text")


class LogProbs(BaseModel):
    """The tokens of a text, each with the most probable ones at its place."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int] = Field(description="code points from the start of the prompt")


class CompletionChoice(BaseModel):
    """A completion, or the next part of one that is streamed."""

    index: int
    text: str
    logprobs: LogProbs | None = None
    finish_reason: Finish | None = Field(None, description="null until a streamed one ends")

    @classmethod
    def of(cls, index: int, parts: Sequence[CompletionPart], has_logprobs: bool) -> Any:
        """Return one choice of all *parts*."""
        tokens = [token for part in parts for token in part.tokens]
        logprobs = LogProbs(
            tokens=[each.text for each in tokens],
            token_logprobs=[each.log_prob for each in tokens],
            top_logprobs=[None if each.top is None else dict(each.top) for each in tokens],
            text_offset=[each.offset for each in tokens],
        )
        text, finish = "".join([part.text for part in parts]), parts[-1].finish
        logged = logprobs if has_logprobs else None
        return cls(index=index, text=text, logprobs=logged, finish_reason=finish)


class CachedTokens(BaseModel):
    """Tokens that came from the cache."""

    cached_tokens: int


class CompletionUsage(BaseModel):
    """Tokens of the prompts, each counted once, and of the completions."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class CompletionAnswer(BaseModel):
    """Completions, those of one prompt together; in a stream, the next part of one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int = Field(description="seconds since 1970")
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage | None = None


class ModelCard(BaseModel):
    """A checkpoint."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: Literal["lacuna"] = "lacuna"


class ModelList(BaseModel):
    """The checkpoint that answers."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class OpenAIError(BaseModel):
    """An error as OpenAI's clients read it."""

    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None = Field(description="the field that is wrong")
    code: Literal["model_not_found"] | None


class OpenAIProblem(ProblemDocument):
    """A problem document with OpenAI's error."""

    error: OpenAIError
