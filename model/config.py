"""The sizes of a network, its calibration, and the constants that training and decoding share.

Both classes are checked when they are made; :func:`parse` makes one of them from JSON.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from model.errors import CheckpointError
from model.text import LANGUAGES
from model.tokenizer import MAX_TOKENS

Cell = Literal["rnn_tanh", "gru", "lstm"]
Architecture = Literal["forward", "two_towers", "stacked_bidirectional"]
Tower = Literal["forward", "backward"]
GATES: dict[Cell, int] = {"rnn_tanh": 1, "gru": 3, "lstm": 4}

# The kinds of gap that the gap head is asked for.
WORD, TOKEN, SPAN = 0, 1, 2
# Positions of a span that the gap head distinguishes; later tokens share the last.
GAP_POSITIONS = 8
# Width of the gap head's position and kind embeddings.
GAP_CODE_SIZE = 32

# Classes of evidence that counts have for a row (counts.py).
EVIDENCE = 25

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

# Limits far above any network of this kind, so that a file cannot ask for any amount of memory.
_Size = Annotated[int, Field(ge=1, le=8192)]
_SizeOrNone = Annotated[int, Field(ge=0, le=8192)]
_Layers = Annotated[int, Field(ge=1, le=16)]
_LayersOrNone = Annotated[int, Field(ge=0, le=16)]
_Count = Annotated[int, Field(ge=0, lt=1 << 32)]
# Beyond these limits of a temperature or exponent, and of a weight, results become infinity or NaN.
_Stretch = Annotated[float, Field(ge=0.01, le=100)]
_Weight = Annotated[float, Field(ge=-100, le=100)]
_Share = Annotated[float, Field(ge=0, lt=1)]
# Of counts, for each class of evidence.
_CountsShares = Annotated[tuple[_Share, ...], Field(min_length=EVIDENCE, max_length=EVIDENCE)]
# A value for every language.
_Language = Annotated[str, Field(pattern=f"^({'|'.join(LANGUAGES)})$")]
_Stretches = Annotated[dict[_Language, _Stretch], Field(min_length=len(LANGUAGES))]
_Weights = Annotated[dict[_Language, _Weight], Field(min_length=len(LANGUAGES))]
_Shares = Annotated[dict[_Language, _Share], Field(min_length=len(LANGUAGES))]
_CountsWeights = Annotated[dict[_Language, _CountsShares], Field(min_length=len(LANGUAGES))]
_Parsed = TypeVar("_Parsed")


@dataclass(frozen=True, slots=True, config=STRICT)
class NetworkConfig:
    """Sizes of a network; enough to rebuild it without its weights.

    Raises:
        ValueError: no network can have such sizes.
    """

    # Tokens, control and byte tokens included
    vocabulary_size: Annotated[int, Field(ge=1, le=MAX_TOKENS)]
    # One tower; two, never mixed below the heads; or the tutorial's deep bidirectional network,
    # trained with masked tokens.
    architecture: Architecture = "two_towers"
    cell: Cell = "lstm"
    embedding_size: _Size = 256
    hidden_size: _Size = 480
    forward_layers: _Layers = 2  # or those of the stacked bidirectional network
    # Both are 0 unless there are two towers.
    backward_layers: _LayersOrNone = 1
    gap_hidden_size: _SizeOrNone = 384

    @model_validator(mode="after")
    def _check_towers(self) -> "NetworkConfig":
        needed = self.architecture == "two_towers"
        for field in ("backward_layers", "gap_hidden_size"):
            if (getattr(self, field) > 0) != needed:
                least = "at least 1" if needed else "0"
                raise ValueError(f"{self.architecture} needs {field} {least}")
        return self

    @property
    def state_parts(self) -> int:
        """Vectors of a layer's state: an LSTM's h and c, else h."""
        return 2 if self.cell == "lstm" else 1

    def layers(self, tower: Tower) -> int:
        """Return the number of layers of one tower."""
        return self.forward_layers if tower == "forward" else self.backward_layers

    def state_size(self, tower: Tower) -> int:
        """Return the length of one flat float32 state row."""
        return self.layers(tower) * self.state_parts * self.hidden_size

    def output_size(self, tower: Tower) -> int:
        """Return the length of an output of the top layer."""
        return self.hidden_size if self.layers(tower) else 0


@dataclass(frozen=True, slots=True)
class WindowSizes:
    """Sizes of a model whose states and outputs hold the last tokens, and those of a network."""

    vocabulary_size: int
    tokens: int
    network: "Sizes | None" = None
    architecture: Architecture = "forward"
    hidden_size: int = 0
    state_parts: int = 1

    @classmethod
    def of(cls, network: "Sizes | None", vocabulary_size: int, tokens: int) -> "WindowSizes":
        """Return the sizes of a network, if there is one, together with a number of tokens."""
        if network is None:
            return cls(vocabulary_size, tokens)
        shared = network.architecture, network.hidden_size, network.state_parts
        return cls(vocabulary_size, tokens, network, *shared)

    def state_size(self, tower: Tower) -> int:
        """Return the length of one flat float32 state row."""
        size = self.network.state_size(tower) if self.network else 0
        return size + (self.tokens if tower == "forward" else 0)

    def output_size(self, tower: Tower) -> int:
        """Return the length of an output."""
        size = self.network.output_size(tower) if self.network else 0
        return size + (self.tokens if tower == "forward" else 0)


Sizes = NetworkConfig | WindowSizes


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class CountsConfig:
    """Sizes of counts (model/counts.py) and their origin.

    Raises:
        ValueError: no counts can have such sizes.
    """

    ngrams: Annotated[tuple[_Count, ...], Field(min_length=2, max_length=5)]  # by order
    # Those of each order but the last that tokens follow
    contexts: Annotated[tuple[_Count, ...], Field(min_length=1, max_length=4)]
    training: dict[str, Any]  # smoothing, discounts, text, pruning

    @model_validator(mode="after")
    def _check_sizes(self) -> "CountsConfig":
        if not 1 <= self.ngrams[0] <= MAX_TOKENS:
            raise ValueError(f"ngrams: 1 to {MAX_TOKENS} unigrams are possible")
        if len(self.contexts) != len(self.ngrams) - 1:
            raise ValueError("contexts are of another order than ngrams")
        return self


def _by_language(value: float) -> Any:
    return Field(default_factory=lambda: dict.fromkeys(LANGUAGES, value))


# Of the general counts and of a writer's own; see :class:`Calibration`.
CountsWeights = tuple[_CountsWeights, _CountsWeights]


def _counts_weights() -> CountsWeights:
    shares = dict.fromkeys(LANGUAGES, (0.4,) * EVIDENCE)
    return shares, dict(shares)


@dataclass(frozen=True, slots=True, config=STRICT)
class Calibration:
    """Temperatures and rescoring weights, fitted on development text after quantisation.

    Attributes:
        cloze_temperature: the τ of ``P(w) = F ** γ softmax(s / τ)``, F being the probability of all
            words found for a blank.
        cloze_coverage_exponent: the γ.
        choice_temperature: the τ of given choices.
        choice_uniform_mix: the share ε of the probability that K given choices get evenly:
            ``(1 - ε) softmax(s / τ) + ε / K`` (the lapse rate of Wichmann and Hill 2001).
        chain_weight: λ, weight of the log-probability of a word and its right context.
        choice_prior_weight: β, weight of how probable a choice is anywhere.
        counts_weights: shares of the general and of own counts in the probability of the next
            token, by class of evidence (mixture.py).

    Raises:
        ValueError: a language is missing, or a number is out of range.
    """

    cloze_temperature: _Stretches = _by_language(1.0)
    cloze_coverage_exponent: _Stretches = _by_language(1.0)
    choice_temperature: _Stretches = _by_language(1.0)
    choice_uniform_mix: _Shares = _by_language(0.0)
    chain_weight: _Weights = _by_language(1.0)
    choice_prior_weight: _Weights = _by_language(0.5)
    counts_weights: CountsWeights = Field(default_factory=_counts_weights)


def parse(kind: type[_Parsed], data: str | bytes) -> _Parsed:
    """Make a class of the JSON text of its fields.

    Raises:
        CheckpointError: a field is missing, unknown or invalid; the message names it.
    """
    try:
        return TypeAdapter(kind).validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or kind.__name__
        raise CheckpointError(f"{field}: {first['msg']}") from error
