"""One training run, described: nested frozen dataclasses read from a TOML file. Nothing here trains."""

import math
import tomllib
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from model.config import NetworkConfig
from model.errors import RunError


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Which prepared data, and how it is cut into batches.

    Attributes:
        prepared: directory written by ``python -m training prepare``; relative to the working directory.
        rows: rows of a window batch, each carrying its own state.
        window_tokens: steps of truncated back-propagation; ``rows * window_tokens`` is also a line batch's budget.
        lookahead_tokens: what the backward tower reads beyond a window, without loss.
        carry_share: share of consecutive text read as windows with carried state; the rest becomes single lines.
        gaps_per_token: gaps drawn for each token of text.
        gaps: ``any`` draws words, tokens and spans; ``one_token`` only tokens (an arm of the pilot).
        right_unknown_share: gaps whose right side is dropped.
        punctuation_dropped_share: lines that lose their final punctuation.
        forward_blank_share: lines in which the forward tower reads a span as ``<blank>``.
        backward_blank_share: the same for the backward tower.
        masked_share: tokens masked for the stacked bidirectional network.
        weights: source name to how often an epoch passes over it, in place of the prepared weight; so that the end of
            a run can dwell on other text than its beginning.
    """

    prepared: str
    rows: int = 64
    window_tokens: int = 64
    lookahead_tokens: int = 32
    carry_share: float = 0.5
    gaps_per_token: float = 0.2
    gaps: Literal["any", "one_token"] = "any"
    right_unknown_share: float = 0.1
    punctuation_dropped_share: float = 0.1
    forward_blank_share: float = 0.05
    backward_blank_share: float = 0.12
    masked_share: float = 0.15
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_least(self, 1, "rows", "window_tokens", "lookahead_tokens")
        _require_least(self, 0, "gaps_per_token")
        for name in (each.name for each in fields(self) if each.name.endswith("_share")):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; a share is from 0 to 1")
        for name, weight in self.weights.items():
            if not 0 < weight < 1000:
                raise ValueError(
                    f"weights: {name} is {weight}; it must be above 0 and below 1000 (sources leaves one out)"
                )


@dataclass(frozen=True, slots=True)
class LossOptions:
    """What is minimised.

    Attributes:
        sampled_negatives: tokens drawn per step for sampled softmax; 0 is the full softmax.
        previous_weight: weight of the backward tower's own loss.
        gap_weight: weight of the gap head's loss.
    """

    sampled_negatives: int = 1500
    previous_weight: float = 0.5
    gap_weight: float = 1.0

    def __post_init__(self) -> None:
        _require_least(self, 0, "sampled_negatives", "previous_weight", "gap_weight")


@dataclass(frozen=True, slots=True)
class OptimizerOptions:
    """How it is minimised.

    Attributes:
        name: ``adamw`` or ``sgd``.
        learning_rate: the peak.
        schedule: ``constant``, ``one_cycle`` (warm up, then cosine to the floor) or ``warmup_stable_decay``.
        warmup_steps: steps of linear warm-up.
        decay_steps: last steps, in which ``warmup_stable_decay`` falls linearly to the floor.
        floor: final learning rate as a share of the peak.
        clip_norm: gradients are scaled down to this norm; 0 turns it off (Pascanu et al. 2013, arXiv:1211.5063).
        clip_value: each gradient is cut to [-c, c], as the tutorial describes; 0 turns it off.
        weight_decay: decoupled in AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101); in SGD an L2 penalty.
        beta1: AdamW's first moment, or SGD's momentum.
        beta2: AdamW's second moment.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 2.5e-3
    schedule: Literal["constant", "one_cycle", "warmup_stable_decay"] = "warmup_stable_decay"
    warmup_steps: int = 200
    decay_steps: int = 1000
    floor: float = 0.03
    clip_norm: float = 1.0
    clip_value: float = 0.0
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99

    def __post_init__(self) -> None:
        _require_least(
            self,
            0,
            "learning_rate",
            "warmup_steps",
            "decay_steps",
            "floor",
            "clip_norm",
            "clip_value",
            "weight_decay",
        )
        _require_share_below_1(self, "beta1", "beta2")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """A whole run.

    Attributes:
        name: of the run directory, under ``runs/`` unless ``--output`` says otherwise.
        seed: of weights, batches and negatives.
        steps: updates in all; 0 stops by time alone.
        minutes: process CPU time divided by threads after which the run ends, wherever its schedule stands; 0 means
            no limit.
        threads: of torch.
        device: ``cpu`` or ``cuda``.
        precision: ``fp32`` or ``bf16`` in towers and softmax; parameters stay fp32.
        loader_processes: processes that make batches ahead of a GPU, whose CPU time is not counted; 0 makes them in the
            training process. The batches are the same.
        full_softmax_steps: last steps, trained with the full softmax.
        log_every_steps: a line in ``metrics.jsonl``.
        evaluate_every_steps: held-out perplexity, always with the full softmax; 0 turns it off.
        save_every_seconds: an atomic snapshot of everything that ``--resume`` needs.
        start_from: another run's ``state`` directory, to begin with its weights and moments; or a checkpoint, to begin
            with its weights; empty for fresh ones.
        sources: names of the prepared sources to train on; empty for all.
        network: sizes; None if the caller hands the trainer a network of its own.
    """

    name: str
    data: DataOptions
    network: NetworkConfig | None = None
    loss: LossOptions = field(default_factory=LossOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    seed: int = 1
    steps: int = 0
    minutes: float = 0.0
    threads: int = 1
    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    dropout: float = 0.0
    weight_drop: float = 0.0
    loader_processes: int = 0
    full_softmax_steps: int = 0
    log_every_steps: int = 20
    evaluate_every_steps: int = 500
    save_every_seconds: float = 180.0
    start_from: str = ""
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_least(self, 1, "threads", "log_every_steps")
        _require_least(
            self,
            0,
            "seed",
            "steps",
            "minutes",
            "loader_processes",
            "full_softmax_steps",
            "evaluate_every_steps",
            "save_every_seconds",
        )
        _require_share_below_1(self, "dropout", "weight_drop")
        if self.steps <= 0 and self.minutes <= 0:
            raise RunError("steps and minutes are both 0; give the run an end")
        if self.optimizer.schedule != "constant" and self.steps <= 0:
            raise RunError(f"schedule {self.optimizer.schedule!r} needs steps above 0")
        if self.full_softmax_steps > 0 and self.steps <= 0:
            raise RunError(
                "full_softmax_steps are the last of steps, which is 0; give both or neither"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def _require_least(options: object, least: int, *names: str) -> None:
    for name in names:
        if not least <= getattr(options, name) < math.inf:
            raise ValueError(f"{name} is {getattr(options, name)}; it must be at least {least}")


def _require_share_below_1(options: object, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(options, name) < 1:
            raise ValueError(
                f"{name} is {getattr(options, name)}; it must be at least 0 and below 1"
            )


def load_run(path: Path) -> RunConfig:
    """Read a run file.

    Raises:
        RunError: the file is missing, is not TOML, or has an unknown, missing or ill-typed field; the message names it.
    """
    config: RunConfig = read_options(RunConfig, path)
    return config


def read_options(cls: Any, path: Path) -> Any:
    """Read a TOML file into a dataclass of options, whose tables are dataclasses themselves.

    Raises:
        RunError: as for :func:`load_run`.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: is not TOML: {error}") from error
    return build_options(cls, values, str(path))


def run_from_dict(values: dict[str, Any], where: str) -> RunConfig:
    """Build a :class:`RunConfig` from plain values; *where* begins every message.

    Raises:
        RunError: an unknown, missing or ill-typed field, or a value out of range.
    """
    config: RunConfig = build_options(RunConfig, values, where)
    return config


def build_options(cls: Any, values: dict[str, Any], where: str) -> Any:
    """A dataclass of options from plain values; *where* begins every message.

    Raises:
        RunError: an unknown, missing or ill-typed field, or a value out of range.
    """
    hints = get_type_hints(cls)
    unknown = sorted(set(values) - {f.name for f in fields(cls)})
    if unknown:
        raise RunError(
            f"{where}: unknown field {unknown[0]!r}; known: {', '.join(f.name for f in fields(cls))}"
        )
    built: dict[str, Any] = {}
    for name, value in values.items():
        hint = hints[name]
        if is_dataclass(hint):
            if not isinstance(value, dict):
                raise RunError(f"{where}: [{name}] must be a table")
            built[name] = build_options(hint, value, f"{where}: [{name}]")
        elif hint == NetworkConfig | None and isinstance(value, dict):
            built[name] = build_options(NetworkConfig, value, f"{where}: [{name}]")
        else:
            built[name] = _checked(hint, value, f"{where}: {name}")
    try:
        return cls(**built)
    except (TypeError, ValueError) as error:
        raise RunError(f"{where}: {error}") from error


def _checked(hint: Any, value: Any, where: str) -> Any:
    if getattr(hint, "__origin__", None) is Literal:
        if value not in hint.__args__:
            raise RunError(
                f"{where} is {value!r}; choose one of {', '.join(map(repr, hint.__args__))}"
            )
        return value
    if (
        hint == tuple[str, ...]
        and isinstance(value, (list, tuple))
        and all(isinstance(v, str) for v in value)
    ):
        return tuple(value)
    if hint == NetworkConfig | None:
        if value is not None:
            raise RunError(f"{where} must be a table")
        return None
    if hint == dict[str, float]:
        if not isinstance(value, dict):
            raise RunError(f"{where} must be a table of numbers")
        return {name: _checked(float, each, f"{where}.{name}") for name, each in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (
        not isinstance(hint, type)
        or not isinstance(value, hint)
        or (isinstance(value, bool) and hint is not bool)
    ):
        raise RunError(
            f"{where} is a {type(value).__name__}; it must be a {getattr(hint, '__name__', hint)}"
        )
    return value
