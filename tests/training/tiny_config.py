"""A run of a tiny network."""

from pathlib import Path
from typing import Any

from model.config import NetworkConfig
from training.config import DataOptions, LossOptions, OptimizerOptions, RunConfig

SIZE = 600  # tokens of the fixture `prepared`


def tiny_config(prepared: Path, **changes: Any) -> RunConfig:
    """A run of two small towers over `prepared`, with every ingredient of a real one."""
    values: dict[str, Any] = {
        "name": "tiny",
        "data": DataOptions(prepared=str(prepared), rows=4, window_tokens=16, lookahead_tokens=6),
        "network": NetworkConfig(SIZE, embedding_size=12, hidden_size=16, gap_hidden_size=12),
        "loss": LossOptions(sampled_negatives=40),
        "optimizer": OptimizerOptions(learning_rate=1e-2, warmup_steps=3, decay_steps=5),
        "steps": 12,
        "dropout": 0.1,
        "weight_drop": 0.2,
        "full_softmax_steps": 2,
        "log_every_steps": 2,
        "evaluate_every_steps": 6,
    }
    return RunConfig(**values | changes)
