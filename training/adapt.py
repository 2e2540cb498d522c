"""Teach a checkpoint a text: `python -m training adapt CHECKPOINT TEXT... --output DIR`.

It is `lacuna train` (training/recipe.py), which takes the bundled checkpoint if none is named.
"""

from pathlib import Path

from pydantic.dataclasses import dataclass

from model.config import STRICT
from training import recipe
from training.options import argument


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class AdaptOptions(recipe.RecipeOptions):
    """Options of the command."""

    checkpoint: Path = argument("directory of the checkpoint to start from")


def run(options: AdaptOptions) -> int:
    """Run the command; the status is that of :func:`training.recipe.run`."""
    return recipe.run(options)
