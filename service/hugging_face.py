"""Hugging Face's fill-mask task: ``/hf/fill-mask``, or ``/models/`` and any name."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field, RootModel

from model.checks import clean_word
from model.queries import Blank, ClozeQuery, ClozeResult, Query, Usage
from service.middleware import Context
from service.requests import JSONRoute
from service.routes import Asked, problems, submit
from service.schemas import BODY, Body, FieldError, ProblemDocument, Strings, Text
from service.settings import Settings


class FillMaskParameters(BaseModel):
    """Options for filling masks."""

    model_config = BODY

    top_k: int | None = Field(None, ge=1, description="candidates to return; 5 without it")
    targets: Strings | None = Field(
        None, description="the only candidates; scores sum to 1 over them"
    )


class FillMaskRequest(Body):
    """Ask for the words of masks: two or more ``_``, ``[MASK]``, ``<mask>``, in any case."""

    model_config = BODY

    inputs: Text
    parameters: FillMaskParameters = FillMaskParameters(top_k=None, targets=None)

    @property
    def texts(self) -> list[str]:
        """The texts as a list, even if only one was sent."""
        return [self.inputs] if isinstance(self.inputs, str) else self.inputs

    def excess(self, settings: Settings) -> FieldError | None:
        """Return the error of a list that is too long: count before anything reads its items."""
        count, limit = len(self.texts), settings.max_texts
        if count > limit:
            return FieldError("/inputs", f"has {count} texts; at most {limit} are allowed")
        count, limit = len(self.parameters.targets or ()), settings.max_choices
        if count > limit:
            return FieldError("/parameters/targets", f"has {count} words; send at most {limit}")
        return None

    def queries(self) -> list[Query]:
        """Return the question about each text."""
        top_k, targets = self.parameters.top_k or 5, self.parameters.targets
        return [ClozeQuery(text, top_k, choices=targets) for text in self.texts]

    def pointer(self, field: str, item: int) -> str:
        """Return the place in this body of a *field* of query number *item*."""
        if field == "/text":
            return "/inputs" if isinstance(self.inputs, str) else f"/inputs/{item}"
        return "/parameters" + field.replace("/choices", "/targets")


class MaskFilling(BaseModel):
    """A word for a mask, and the text with it; other masks stay."""

    score: float
    token: int = Field(description="id of the first token of the word")
    token_str: str
    sequence: str


class FillMaskAnswer(RootModel[list[MaskFilling | list[MaskFilling | list[MaskFilling]]]]):
    """Words, best first; a list of them for each of several masks; and again for several texts."""


class HuggingFaceProblem(ProblemDocument):
    """A problem document with the error that Hugging Face's clients show."""

    error: str


filling = APIRouter(
    tags=["other clients"],
    route_class=JSONRoute,
    responses=problems(
        400, 401, 408, 413, 415, 421, 422, 429, 500, 503, 504, form=HuggingFaceProblem
    ),
)


@filling.post("/models/{name:path}", include_in_schema=False)
@filling.post("/hf/fill-mask", operation_id="fillMask", summary="Fill masks (Hugging Face)")
async def fill_mask(body: FillMaskRequest, context: Context) -> FillMaskAnswer:
    """Fill masks, as Hugging Face's task of this name."""
    asked = submit(context, body, None)
    results: list[ClozeResult] = await asked.results()
    tokens = sum([result.usage.tokens for result in results])
    asked.used(Usage(tokens, sum([result.usage.cached_tokens for result in results])))
    shown = body.parameters.top_k
    answers: list[Any] = []
    for text, result in zip(body.texts, results, strict=True):
        blanks = [_fillings(asked, text, blank)[:shown] for blank in result.blanks]
        answers.append(blanks[0] if len(blanks) == 1 else blanks)
    return FillMaskAnswer(answers[0] if isinstance(body.inputs, str) else answers)


def _fillings(asked: Asked, text: str, blank: Blank) -> list[MaskFilling]:
    encode = asked.loaded.predictor.checkpoint.tokenizer.encode
    return [
        MaskFilling(
            score=each.probability,
            token=encode(clean_word(each.word))[0],
            token_str=each.word,
            sequence=text[: blank.start] + each.word + text[blank.end :],
        )
        for each in blank.candidates
    ]
