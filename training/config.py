"""A training run as frozen dataclasses, read from a TOML run file."""

import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from model.checkpoint import NAME_PATTERN, NAME_RULE
from model.config import STRICT, NetworkConfig
from model.errors import PreparedDataError, RunError
from training.data.shards import open_prepared

Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Amount = Annotated[float, Field(ge=0)]
SourceWeight = Annotated[float, Field(gt=0, lt=1000)]
Device = Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")]

Options = TypeVar("Options")

_FAULTS = {"unexpected_keyword_argument": "unknown field", "missing": "missing"}


@dataclass(frozen=True, slots=True, config=STRICT)
class DataOptions:
    """The prepared data of a run, and how it is cut into batches."""

    prepared: str  # directory of prepared data, relative to the working directory
    rows: Size = 64  # rows of a window batch, each with its own state
    window_tokens: Size = 64  # steps of truncated back-propagation
    lookahead_tokens: Size = 32  # tokens after a window that the backward tower reads without loss
    carry_share: Share = 0.5  # of consecutive lines, read as windows with carried state
    gaps_per_token: Amount = 0.2
    right_unknown_share: Share = 0.1  # of gaps, whose right side is dropped
    punctuation_dropped_share: Share = 0.1  # of lines, which lose their final punctuation
    # Of lines, in which a tower reads a <blank>, as in a text with several blanks.
    forward_blank_share: Share = 0.05
    backward_blank_share: Share = 0.12
    source_weights: dict[str, SourceWeight] = Field(default_factory=dict)  # replace the prepared


@dataclass(frozen=True, slots=True, config=STRICT)
class LossOptions:
    """The loss that is minimised."""

    sampled_negatives: Count = 1500  # tokens drawn in each step; 0 is the full softmax
    previous_weight: Amount = 0.5  # of the backward tower's own loss
    gap_weight: Amount = 1.0  # of the gap head's loss
    masked_share: Share = 0.15  # of tokens that a stacked bidirectional network predicts


@dataclass(frozen=True, slots=True, config=STRICT)
class OptimizerOptions:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), its learning rate and clipping."""

    learning_rate: Amount = 2.5e-3  # the peak
    schedule: Literal["constant", "one_cycle", "warmup_stable_decay"] = "warmup_stable_decay"
    warmup_steps: Count = 200
    decay_steps: Count = 1000  # last steps, in which warmup_stable_decay falls to the floor
    floor: Amount = 0.03  # final learning rate as a share of the peak
    clip_norm: Amount = 1.0  # of all gradients (Pascanu et al. 2013, arXiv:1211.5063); 0: none
    weight_decay: Amount = 0.01
    beta1: ShareBelowOne = 0.9
    beta2: ShareBelowOne = 0.99


@dataclass(frozen=True, slots=True, config=STRICT)
class RunConfig:
    """A whole run."""

    name: str  # the run directory, under runs/ unless --output names another
    data: DataOptions
    network: NetworkConfig | None = None  # None if the caller gives the trainer its own network
    loss: LossOptions = LossOptions()
    optimizer: OptimizerOptions = OptimizerOptions()
    seed: Count = 1  # of weights, batches and negatives
    steps: Count = 0  # updates in all; 0 if only time ends the run
    minutes: Amount = 0.0  # limit of process CPU time divided by threads; 0 is none
    threads: Size = 1  # that torch uses
    device: Device = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"  # of towers and softmax; parameters stay fp32
    dropout: ShareBelowOne = 0.0  # locked, on embeddings, between layers and on outputs
    weight_drop: ShareBelowOne = 0.0  # share of recurrent weights dropped in each step
    loader_processes: Count = 0  # make batches ahead of a GPU; their time is not in minutes
    full_softmax_steps: Count = 0  # last steps, trained with the full softmax
    log_every_steps: Size = 20
    evaluate_every_steps: Count = 500  # on held-out text; 0 evaluates only at the end
    keep_best: bool = False  # keep the state with the best held-out figure as RUN/best
    save_every_seconds: Amount = 180.0
    start_from: str = ""  # a run's state directory (weights, moments) or a checkpoint (weights)

    @model_validator(mode="after")
    def _check(self) -> "RunConfig":
        if not re.fullmatch(NAME_PATTERN, self.name):
            raise ValueError(f"name: {NAME_RULE}; got {self.name!r}")
        if not self.steps:
            if not self.minutes:
                raise ValueError("steps and minutes are both 0; give the run an end")
            if self.optimizer.schedule != "constant":
                raise ValueError(f"schedule {self.optimizer.schedule!r} needs steps above 0")
            if self.full_softmax_steps:
                raise ValueError("full_softmax_steps needs steps above 0, whose last ones they are")
        return self


def read_run(path: Path, prepared: Path | None = None, minutes: float | None = None) -> RunConfig:
    """Read a run file; *prepared* and *minutes* replace its own.

    A ``[network]`` without ``vocabulary_size`` gets that of the data.

    Raises:
        RunError: as :func:`read_options`, or the warm-up or decay is longer than the run.
        PreparedDataError: the size is needed, and the data cannot be read.
    """
    values = read_toml(path)
    data, network = values.get("data"), values.get("network")
    if isinstance(data, dict) and prepared is not None:
        data["prepared"] = str(prepared)
    if minutes is not None:
        values["minutes"] = minutes
    if isinstance(network, dict) and isinstance(data, dict) and "prepared" in data:
        size = network.get("vocabulary_size") or _vocabulary_size(Path(str(data["prepared"])))
        network["vocabulary_size"] = size
    config = options_from_dict(RunConfig, values, str(path))
    optimizer = config.optimizer
    decay = optimizer.decay_steps if optimizer.schedule == "warmup_stable_decay" else 0
    for name, steps in (("warmup_steps", optimizer.warmup_steps), ("decay_steps", decay)):
        if 0 < config.steps < steps:
            raise RunError(
                f"{path}: optimizer.{name} is {steps}, longer than the run of {config.steps} steps;"
                " lower it or give the run more steps"
            )
    return config


def _vocabulary_size(prepared: Path) -> int:
    try:
        return open_prepared(prepared, verify=False).tokenizer.size
    except PreparedDataError as error:
        raise PreparedDataError(f"{error}; or name the data with --prepared") from error


def read_options(kind: type[Options], path: Path) -> Options:
    """Read a TOML file into a dataclass; errors are those of the two functions below."""
    return options_from_dict(kind, read_toml(path), str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        RunError: the file is missing or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: not TOML: {error}") from error


def options_from_dict(kind: type[Options], values: dict[str, Any], where: str) -> Options:
    """Make a dataclass of plain values; *where* begins every message.

    Raises:
        RunError: a field, which the message names, is unknown, missing, of another type or out of
            range.
    """
    try:
        # Strict JSON, unlike strict Python, accepts lists as tuples and tables as dataclasses.
        return TypeAdapter(kind).validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        fault = _FAULTS.get(first["type"], first["msg"].removeprefix("Value error, "))
        if isinstance(first["input"], (str, int, float)):
            fault += f"; got {first['input']!r}"
        parts = [where, ".".join(map(str, first["loc"])), fault]
        raise RunError(": ".join(filter(None, parts))) from error
