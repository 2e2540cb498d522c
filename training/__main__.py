"""``python -m training COMMAND``: one module a command, imported only when asked for."""

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import get_type_hints

from model.errors import LacunaError
from training.options import parse_options

COMMANDS = {
    "prepare": ("training.data.prepare", "text to a vocabulary and shards"),
    "train": ("training.trainer", "shards to weights"),
    "evaluate": ("training.evaluation.evaluate", "a checkpoint to scores"),
    "calibrate": (
        "training.evaluation.calibrate",
        "a checkpoint to one with temperatures fitted on development text",
    ),
    "export": ("training.export", "weights to a checkpoint that the service serves"),
    "card": (
        "training.evaluation.model_card",
        "scores and notes into a checkpoint and its model card",
    ),
    "adapt": ("training.adapt", "a checkpoint to one that knows a text better"),
    "ngram": ("training.ngram", "shards to a Kneser-Ney n-gram, the baseline"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command of ``python -m training``."""
    return run_command("training", "From text to a checkpoint.", COMMANDS, argv)


def run_command(
    package: str,
    description: str,
    commands: Mapping[str, tuple[str, str]],
    argv: Sequence[str] | None = None,
) -> int:
    """Run one command: ``run(options)`` of its module, see training/options.py.

    Args:
        package: as in ``python -m PACKAGE``.
        description: of the package, for ``--help``.
        commands: module and help of each command.
        argv: arguments; by default those of the process.

    Returns:
        0, or 2 with a message on standard error for a named error or one of the operating system.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=description)
    parser.add_argument(
        "command", choices=commands, help="; ".join(f"{n}: {h}" for n, (_, h) in commands.items())
    )
    words = sys.argv[1:] if argv is None else list(argv)
    command = parser.parse_args(words[:1]).command
    module = importlib.import_module(commands[command][0])
    prog = f"python -m {package} {command}"
    parser = argparse.ArgumentParser(prog=prog, description=module.__doc__)
    try:
        if hasattr(module, "add_arguments"):  # commands without a class of options yet
            module.add_arguments(parser)
            return int(module.run(parser.parse_args(words[1:])))
        options = get_type_hints(module.run)["options"]
        return int(module.run(parse_options(options, parser, words[1:])))
    except (LacunaError, OSError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
