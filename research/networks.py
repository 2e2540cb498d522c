"""Sizes of every network of the comparison, and the network of given sizes."""

import torch

from model.config import NetworkConfig
from model.network import Network
from research.cifg import KeyboardConfig, KeyboardNetwork
from research.transformer import Transformer, TransformerConfig

AnyConfig = NetworkConfig | TransformerConfig | KeyboardConfig


def build_network(
    config: AnyConfig, dropout: float = 0.0, weight_drop: float = 0.0
) -> Network | Transformer | KeyboardNetwork:
    """Return the network of these sizes, with fresh weights."""
    if isinstance(config, TransformerConfig):
        return Transformer(config, dropout)
    if isinstance(config, KeyboardConfig):
        return KeyboardNetwork(config, dropout)
    return Network(config, dropout, weight_drop)


def parameter_count(config: AnyConfig) -> int:
    """Count the weights of such a network without allocating them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_network(config).parameters())
