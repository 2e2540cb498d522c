"""Completions: a text, or token ids, that the model reads on from, token by token."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from model.errors import QueryError

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class CompletionToken:
    r"""A token of a prompt or of its completion.

    Attributes:
        text: the text that it adds; ``bytes:\xNN`` for one byte of a character.
        offset: its place, in code points from the start of the prompt.
        log_prob: in nats; None for the first token of a prompt.
        top: log-probabilities of the most probable tokens and of this one, by text.
    """

    text: str
    offset: int
    log_prob: float | None
    top: Mapping[str, float] | None


@dataclass(frozen=True, slots=True)
class CompletionPart:
    """The next part of a completion; the last one says why it *finish*-ed."""

    text: str
    tokens: tuple[CompletionToken, ...] = ()
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class CompletionQuery:
    """Continue *text*, or the *tokens* of a text if there are any, by up to *max_tokens* tokens.

    Attributes:
        temperature: 0 takes the most probable token; otherwise tokens are drawn.
        suffix: text after a blank that follows *text*: the completion is the word in it.
        stop: the completion ends before any of these strings.
        top: number of tokens to list at each place; None lists none, not even the token itself.
        echo: begin with the prompt.
        seed: of the draws; None for others each time.
        on_part: gets each part at once, on the thread that decodes.
    """

    text: str
    tokens: tuple[int, ...] = ()
    suffix: str = ""
    max_tokens: int = 16
    temperature: float = 1.0
    stop: tuple[str, ...] = ()
    top: int | None = None
    echo: bool = False
    seed: str | None = None
    on_part: Callable[[CompletionPart], None] | None = field(
        default=None, compare=False, repr=False
    )

    def check(self, characters: int, max_tokens: int, vocabulary_size: int) -> None:
        """Refuse a query that no checkpoint with that vocabulary can answer.

        Raises:
            QueryError: its field is a JSON pointer relative to the query.
        """
        if (length := len(self.text) + len(self.suffix)) > characters:
            raise QueryError(
                "/suffix", f"and prompt have {length} code points; send at most {characters}"
            )
        if len(self.tokens) > characters:
            raise QueryError("/text", f"has {len(self.tokens)} tokens; send at most {characters}")
        for place, token in enumerate(self.tokens):
            if not 0 <= token < vocabulary_size:
                raise QueryError(f"/text/{place}", f"must be an id from 0 to {vocabulary_size - 1}")
        if not 0 <= self.max_tokens <= max_tokens:
            raise QueryError("/max_tokens", f"must be a whole number from 0 to {max_tokens}")


@dataclass(frozen=True, slots=True)
class CompletionResult:
    """All parts of a completion, and its tokens by number."""

    parts: tuple[CompletionPart, ...]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
