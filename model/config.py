"""The sizes of a network and the constants that training and decoding share. Not settings, not run options."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from model.errors import CheckpointError

Cell = Literal["rnn_tanh", "gru", "lstm"]
Architecture = Literal["forward", "two_towers", "stacked_bidirectional"]
GATES: dict[Cell, int] = {"rnn_tanh": 1, "gru": 3, "lstm": 4}

# The kinds of gap that the gap head is asked for.
WORD, TOKEN, SPAN = 0, 1, 2
# The gap head's position embedding distinguishes this many tokens of a span; later ones share the last.
GAP_POSITIONS = 8
# Width of the gap head's position and kind embeddings.
GAP_CODE_SIZE = 32

# A temperature, exponent or weight beyond this, or a temperature or exponent below its inverse, was never fitted: what
# it is applied to would end up as 0, infinity or no number.
MAX_STRETCH = 100.0


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Sizes of a network; enough to rebuild it without its weights.

    Attributes:
        vocabulary_size: tokens, control and byte tokens included.
        architecture: ``forward`` (one tower), ``two_towers`` (never mixed below the heads) or
            ``stacked_bidirectional`` (the tutorial's deep bidirectional network, trained with blanks masked).
        cell: recurrent cell of every layer.
        embedding_size: width of the tied embedding.
        hidden_size: width of every recurrent layer.
        forward_layers: layers of the forward tower, or of the stacked bidirectional network.
        backward_layers: layers of the backward tower; 0 unless there are two towers.
        gap_hidden_size: width of the gap head's hidden layer; 0 unless there are two towers.

    Raises:
        ValueError: a size that no network can have.
    """

    vocabulary_size: int
    architecture: Architecture = "two_towers"
    cell: Cell = "lstm"
    embedding_size: int = 256
    hidden_size: int = 480
    forward_layers: int = 2
    backward_layers: int = 1
    gap_hidden_size: int = 384

    def __post_init__(self) -> None:
        for field in ("vocabulary_size", "embedding_size", "hidden_size", "forward_layers"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}; it must be at least 1")
        two = self.architecture == "two_towers"
        for field in ("backward_layers", "gap_hidden_size"):
            if (getattr(self, field) > 0) != two:
                raise ValueError(
                    f"{field} is {getattr(self, field)}; it must be {'above' if two else ''} 0 here"
                )
        if self.cell not in GATES:
            raise ValueError(f"cell is {self.cell!r}; choose one of {', '.join(GATES)}")

    @property
    def state_parts(self) -> int:
        """Vectors that one layer carries from step to step: an LSTM's h and c, else h."""
        return 2 if self.cell == "lstm" else 1

    def layers(self, tower: Literal["forward", "backward"]) -> int:
        """Layers of one tower."""
        return self.forward_layers if tower == "forward" else self.backward_layers

    def state_size(self, tower: Literal["forward", "backward"]) -> int:
        """Length of one flat float32 state row: ``layers * state_parts * hidden_size``."""
        return self.layers(tower) * self.state_parts * self.hidden_size

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "NetworkConfig":
        """Rebuild from :meth:`to_dict`.

        Raises:
            CheckpointError: a field is missing, unknown or out of range.
        """
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"network configuration: {error}") from error


@dataclass(frozen=True, slots=True)
class Calibration:
    """Temperatures and rescoring weights, fitted on development text after quantisation.

    Attributes:
        next_temperature: by language (``zh``, ``en``): divides the next head's logits.
        cloze_temperature: by language: the τ of ``P(w) = M softmax(s / τ)``.
        cloze_coverage_exponent: by language: the γ to which the mass F of all that was found for a blank is raised.
        choice_temperature: by language: the τ where choices are given, whose gap masses it divides as well.
        choice_uniform_mix: by language: the share ε of the probability that is divided evenly, for answers that no score
            saw coming: (1 - ε) softmax(s / τ) + ε / K of K choices. A term of psychometrics (Wichmann and Hill 2001).
        forward_weight: λ1, weight of the forward tower's log-probability of word and right context.
        backward_weight: λ2, weight of its mirror with the backward tower.
    """

    next_temperature: tuple[tuple[str, float], ...] = (("zh", 1.0), ("en", 1.0))
    cloze_temperature: tuple[tuple[str, float], ...] = (("zh", 1.0), ("en", 1.0))
    cloze_coverage_exponent: tuple[tuple[str, float], ...] = (("zh", 1.0), ("en", 1.0))
    choice_temperature: tuple[tuple[str, float], ...] = (("zh", 1.0), ("en", 1.0))
    choice_uniform_mix: tuple[tuple[str, float], ...] = (("zh", 0.0), ("en", 0.0))
    forward_weight: float = 0.5
    backward_weight: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "next_temperature": dict(self.next_temperature),
            "cloze_temperature": dict(self.cloze_temperature),
            "cloze_coverage_exponent": dict(self.cloze_coverage_exponent),
            "choice_temperature": dict(self.choice_temperature),
            "choice_uniform_mix": dict(self.choice_uniform_mix),
            "forward_weight": self.forward_weight,
            "backward_weight": self.backward_weight,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Calibration":
        """Rebuild from :meth:`to_dict`.

        Older exports lack some: ``choice_temperature`` was the cloze one, ``cloze_coverage_exponent`` was 1 and
        ``choice_uniform_mix`` 0.

        Raises:
            CheckpointError: a field is missing, unknown or out of range.
        """
        try:
            older = {
                "choice_temperature": values["cloze_temperature"],
                "cloze_coverage_exponent": {},
                "choice_uniform_mix": {},
            }
            values = older | values
            if unknown := values.keys() - set(cls.__dataclass_fields__):
                raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
            by_language = {}
            for field in (
                "next_temperature",
                "cloze_temperature",
                "cloze_coverage_exponent",
                "choice_temperature",
                "choice_uniform_mix",
            ):
                given = cast("dict[str, float]", values[field])
                by_language[field] = tuple(
                    (key, _number(field, value)) for key, value in given.items()
                )
                if field == "choice_uniform_mix":
                    if any(not 0 <= value < 1 for _, value in by_language[field]):
                        raise ValueError(f"{field} must be at least 0 and below 1")
                elif any(
                    not 1 / MAX_STRETCH <= value <= MAX_STRETCH for _, value in by_language[field]
                ):
                    raise ValueError(
                        f"{field} must be above 0, from {1 / MAX_STRETCH:g} to {MAX_STRETCH:g}"
                    )
            return cls(
                **by_language,
                forward_weight=_number("forward_weight", values["forward_weight"]),
                backward_weight=_number("backward_weight", values["backward_weight"]),
            )
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise CheckpointError(f"calibration: {error!r}") from error


def _number(field: str, value: object) -> float:
    """What JSON may hold in the place of a finite number is refused: ``true``, ``"1"``, ``1e999``; so is ``1e99``."""
    if type(value) not in (int, float) or not math.isfinite(cast("float", value)):
        raise ValueError(f"{field} holds {value!r}, which is no finite number")
    if abs(cast("float", value)) > MAX_STRETCH:
        raise ValueError(f"{field} holds {value!r}; it must be at most {MAX_STRETCH:g}")
    return float(cast("float", value))
