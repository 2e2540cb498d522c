"""A training run as frozen dataclasses, read from a TOML run file."""

import json
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from model.config import STRICT, NetworkConfig
from model.errors import RunError

Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Amount = Annotated[float, Field(ge=0)]
SourceWeight = Annotated[float, Field(gt=0, lt=1000)]

Options = TypeVar("Options")

_FAULTS = {"unexpected_keyword_argument": "unknown field", "missing": "missing"}


@dataclass(frozen=True, slots=True, config=STRICT)
class DataOptions:
    """The prepared data of a run, and how it is cut into batches.

    Attributes:
        prepared: directory written by ``python -m training prepare``, relative to the working directory.
        rows: rows of a window batch, each with its own state.
        window_tokens: steps of truncated back-propagation. A batch of lines has at most
            ``rows * window_tokens`` tokens, padding included.
        lookahead_tokens: tokens after a window that the backward tower reads without loss.
        carry_share: share of consecutive text that is read as windows with carried state. The rest
            becomes single lines.
        gaps_per_token: gaps drawn for each token of text.
        right_unknown_share: share of gaps whose right side is dropped.
        punctuation_dropped_share: share of lines that lose their final punctuation.
        forward_blank_share: share of lines in which the forward tower reads a word as ``<blank>``.
        backward_blank_share: the same for the backward tower.
        masked_share: share of tokens masked for the stacked bidirectional network.
        weights: passes over a source in an epoch, by name, instead of its prepared weight.
    """

    prepared: str
    rows: Size = 64
    window_tokens: Size = 64
    lookahead_tokens: Size = 32
    carry_share: Share = 0.5
    gaps_per_token: Amount = 0.2
    right_unknown_share: Share = 0.1
    punctuation_dropped_share: Share = 0.1
    forward_blank_share: Share = 0.05
    backward_blank_share: Share = 0.12
    masked_share: Share = 0.15
    weights: dict[str, SourceWeight] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True, config=STRICT)
class LossOptions:
    """The loss that is minimised.

    Attributes:
        sampled_negatives: tokens drawn in each step for sampled softmax; 0 is the full softmax.
        previous_weight: weight of the backward tower's own loss.
        gap_weight: weight of the gap head's loss.
    """

    sampled_negatives: Count = 1500
    previous_weight: Amount = 0.5
    gap_weight: Amount = 1.0


@dataclass(frozen=True, slots=True, config=STRICT)
class OptimizerOptions:
    """The optimizer, its learning rate and its limits on gradients.

    Attributes:
        name: ``adamw`` or ``sgd``.
        learning_rate: the peak.
        schedule: ``constant``, ``one_cycle`` (warm up, then cosine to the floor) or ``warmup_stable_decay``.
        warmup_steps: steps of linear warm-up.
        decay_steps: last steps, in which ``warmup_stable_decay`` falls linearly to the floor.
        floor: final learning rate as a share of the peak.
        clip_norm: gradients are scaled down to this norm; 0 turns it off (Pascanu et al. 2013, arXiv:1211.5063).
        clip_value: each gradient is cut to [-c, c], as the tutorial describes; 0 turns it off.
        weight_decay: decoupled in AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101); an L2 penalty in SGD.
        beta1: AdamW's first moment, or SGD's momentum.
        beta2: AdamW's second moment.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Amount = 2.5e-3
    schedule: Literal["constant", "one_cycle", "warmup_stable_decay"] = "warmup_stable_decay"
    warmup_steps: Count = 200
    decay_steps: Count = 1000
    floor: Amount = 0.03
    clip_norm: Amount = 1.0
    clip_value: Amount = 0.0
    weight_decay: Amount = 0.01
    beta1: ShareBelowOne = 0.9
    beta2: ShareBelowOne = 0.99


@dataclass(frozen=True, slots=True, config=STRICT)
class RunConfig:
    """A whole run.

    Attributes:
        name: name of the run directory, under ``runs/`` unless ``--output`` names another.
        data: prepared data and batches.
        network: sizes; None if the caller gives the trainer a network of its own.
        loss: losses and their weights.
        optimizer: optimizer and schedule.
        seed: seed of weights, batches and negatives.
        steps: updates in all; 0 if only time ends the run.
        minutes: process CPU time divided by threads after which the run ends; 0 means no limit.
        threads: threads of torch.
        device: ``cpu`` or ``cuda``.
        precision: ``fp32`` or ``bf16`` in towers and softmax; parameters stay fp32.
        dropout: locked dropout on embeddings, between layers and on outputs.
        weight_drop: share of recurrent weights dropped in each step.
        loader_processes: processes that make batches ahead of a GPU; 0 makes them in the training process.
            The batches are the same, and the time of these processes does not count as ``minutes``.
        full_softmax_steps: last steps, trained with the full softmax.
        log_every_steps: steps between lines in ``metrics.jsonl``.
        evaluate_every_steps: steps between evaluations on held-out text; 0 evaluates only at the end.
        save_every_seconds: seconds between saved states.
        start_from: another run's ``state`` directory, whose weights and moments the run starts with, or a
            checkpoint, whose weights it starts with; empty for fresh weights.
        sources: names of the prepared sources to train on; empty for all.
    """

    name: str
    data: DataOptions
    network: NetworkConfig | None = None
    loss: LossOptions = LossOptions()
    optimizer: OptimizerOptions = OptimizerOptions()
    seed: Count = 1
    steps: Count = 0
    minutes: Amount = 0.0
    threads: Size = 1
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    dropout: ShareBelowOne = 0.0
    weight_drop: ShareBelowOne = 0.0
    loader_processes: Count = 0
    full_softmax_steps: Count = 0
    log_every_steps: Size = 20
    evaluate_every_steps: Count = 500
    save_every_seconds: Amount = 180.0
    start_from: str = ""
    sources: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_end(self) -> "RunConfig":
        if not self.steps:
            if not self.minutes:
                raise ValueError("steps and minutes are both 0; give the run an end")
            if self.optimizer.schedule != "constant":
                raise ValueError(f"schedule {self.optimizer.schedule!r} needs steps above 0")
            if self.full_softmax_steps:
                raise ValueError("full_softmax_steps needs steps above 0, whose last ones they are")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def load_run(path: Path) -> RunConfig:
    """Read a run file; errors are those of :func:`read_options`."""
    return read_options(RunConfig, path)


def read_options(kind: type[Options], path: Path) -> Options:
    """Read a TOML file into a dataclass.

    Raises:
        RunError: the file is missing, is not TOML, or has a field that is unknown, missing, of another
            type or out of range; the message names the field.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: not TOML: {error}") from error
    return options_from_dict(kind, values, str(path))


def options_from_dict(kind: type[Options], values: dict[str, Any], where: str) -> Options:
    """Make a dataclass of plain values; *where* begins every message.

    Raises:
        RunError: a field is unknown, missing, of another type or out of range; the message names it.
    """
    try:
        # Strict JSON, unlike strict Python, accepts lists as tuples and tables as dataclasses.
        return TypeAdapter(kind).validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        fault = _FAULTS.get(first["type"], first["msg"].removeprefix("Value error, "))
        if isinstance(first["input"], (str, int, float)):
            fault += f"; got {first['input']!r}"
        raise RunError(f"{where}: {'.'.join(map(str, first['loc']))}: {fault}") from error
