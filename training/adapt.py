"""Teach a checkpoint a text: `python -m training adapt CHECKPOINT TEXT... --output DIR`.

It counts the text, in seconds. With --minutes it is `lacuna train` (training/recipe.py), which also
trains the network.
"""

from pathlib import Path

from pydantic.dataclasses import dataclass

from model.config import STRICT
from training import recipe
from training.options import argument, option
from training.plan import Minutes


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class AdaptOptions(recipe.RecipeOptions):
    """Options of the command."""

    checkpoint: Path = argument("directory of the checkpoint to start from")
    minutes: Minutes = option("train the network, too, so many minutes in all", 0.0, "N")


def run(options: AdaptOptions) -> int:
    """Run the command; the status is that of :func:`training.recipe.run`."""
    return recipe.run(options)
