"""Requests and answers of the peers: the fields of Lacuna's that the measurements use."""

from pydantic import BaseModel


class Request(BaseModel):
    """One text or several."""

    text: str | list[str]
    top_k: int = 5

    @property
    def texts(self) -> list[str]:
        """The texts as a list."""
        return [self.text] if isinstance(self.text, str) else self.text


class Candidate(BaseModel):
    """A word and its probability."""

    word: str
    append: str
    probability: float


class Blank(BaseModel):
    """A place in the text and the words for it."""

    start: int
    end: int
    candidates: list[Candidate]


class Prediction(BaseModel):
    """The result for one text of /predict."""

    candidates: list[Candidate]


class Filling(BaseModel):
    """The result for one text of /cloze."""

    filled: str
    blanks: list[Blank]


class Answer(BaseModel):
    """Results in the order of the texts."""

    model: dict[str, str]
    results: list[Prediction] | list[Filling]
    usage: dict[str, int]


def answer(name: str, results: list[Prediction] | list[Filling], tokens: int = 0) -> Answer:
    """Return the answer of the peer *name*."""
    model = {"name": name, "version": "0"}
    return Answer(model=model, results=results, usage={"tokens": tokens, "cached_tokens": 0})
