"""A tiny checkpoint with random weights, in the real format with a real tokenizer and graphs."""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.checkpoint import Checkpoint, CheckpointConfig, write_checkpoint
from model.config import Calibration, NetworkConfig
from model.network import Network
from model.onnx_graphs import build_graphs
from model.tokenizer import Tokenizer
from model.words import words_file, words_in
from training.data.train_tokenizer import train_tokenizer

LINES = (
    "I like the cat that sat on the mat.",
    "I like to go to the theatre in the evening.",
    "Then they went to the store, and there they were.",
    "The weather is nice today; let's go for a walk.",
    "She said that he would like the other theme.",
    "我昨天上学迟到了,老师批评了我。",
    "我的手机坏了,我打算买一部新手机。",
    "我喜欢旅游,以后有机会一定要去云南。",
    "他们在学校学习,老师喜欢他们。",
    "今天天气很好,我们去公园走走。",
)


# The golden answers depend on the order in which weights are drawn.
DRAWN = (
    *("embedding", "output_bias", "next", "forward", "backward", "previous", "gap_bias"),
    *("unknown_right", "gap."),
)


@lru_cache
def tiny_tokenizer(size: int = 364) -> Tokenizer:
    """Train a tokenizer on a few lines; 364 is the largest *size* that they allow."""
    return train_tokenizer(LINES, size)


def random_weights(
    config: NetworkConfig, seed: int = 0, scale: float = 0.5
) -> dict[str, np.ndarray[Any, Any]]:
    """Random float32 weights of a network, by name."""
    generator = np.random.default_rng(seed)
    with torch.device("meta"):
        network = Network(config)
    shapes = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    weights = {}
    for prefix in DRAWN:
        for name in [name for name in shapes if name.startswith(prefix)]:
            shape = shapes[name]
            # Matrices are scaled by their width so that activations stay of order 1 at any size.
            width = 2 * shape[-1] ** -0.5 if len(shape) == 2 else 1.0
            weights[name] = (generator.normal(size=shape) * scale * width).astype(np.float32)
    return weights


def build_tiny_checkpoint(directory: Path, *, seed: int = 0, **config: Any) -> Checkpoint:
    """Write a checkpoint with random weights; *config* are fields of :class:`NetworkConfig`."""
    tokenizer = tiny_tokenizer()
    sizes = {"embedding_size": 16, "hidden_size": 24, "gap_hidden_size": 12}
    if config.get("architecture", "two_towers") != "two_towers":
        sizes |= {"backward_layers": 0, "gap_hidden_size": 0}
    network = NetworkConfig(vocabulary_size=tokenizer.size, **(sizes | config))
    files = {
        "tokenizer.model": tokenizer.model_proto,
        "word_end_probs.f16": bytes(2 * tokenizer.size),
        "words": words_file(words_in(" ".join(LINES))),
        "MODEL_CARD.md": b"# A network with random weights\n",
        **build_graphs(network, random_weights(network, seed)),
    }
    described = CheckpointConfig(
        name="tiny",
        version="1",
        network=network,
        calibration=Calibration(),
        languages=("zh", "en"),
        scores={},
        training={"seed": seed},
    )
    return write_checkpoint(directory, described, files)


def sums_of(directory: Path) -> str:
    """Return the right content of SHA256SUMS."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(directory)}\n"
        for path in files
        if path.name != "SHA256SUMS"
    )


def put(directory: Path, name: str, content: bytes | str) -> None:
    """Change a file and its sum, as someone does who alters a checkpoint on purpose."""
    (directory / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (directory / "SHA256SUMS").write_text(sums_of(directory), encoding="utf-8")
