"""Run ``python -m training COMMAND``; the module of a command is imported when it is asked for."""

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import get_type_hints

from model.errors import LacunaError
from training.options import parse_options

COMMANDS = {
    "prepare": ("training.data.prepare", "text files to prepared data"),
    "train": ("training.trainer", "prepared data to the weights of a network"),
    "export": ("training.export", "weights to a checkpoint that can be served"),
    "calibrate": ("training.evaluation.calibrate", "fit a checkpoint's temperatures and weights"),
    "evaluate": ("training.evaluation.evaluate", "score checkpoints on held-out text"),
    "card": ("training.evaluation.model_card", "write scores, known words and a model card"),
    "adapt": ("training.adapt", "teach a checkpoint a text of your own"),
    "ngram": ("training.ngram", "prepared data to an n-gram, the baseline"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command of ``python -m training``; return 0, or 2 after an error."""
    return run_command("training", "From text to a checkpoint.", COMMANDS, argv)


def run_command(
    package: str,
    description: str,
    commands: Mapping[str, tuple[str, str]],
    argv: Sequence[str] | None = None,
) -> int:
    """Run one command of ``python -m PACKAGE``: ``run(options)`` of its module.

    *commands* maps names to modules and their help. *argv* is by default that of the process.
    Return the command's status; 2 after a named error or one of the operating system; 130 if
    interrupted.
    """
    listing = "\n".join(f"  {name:<20} {text}" for name, (_, text) in commands.items())
    parser = _parser(f"python -m {package}", f"{description}\n\ncommands:\n{listing}")
    parser.add_argument("command", choices=commands, metavar="COMMAND")
    words = sys.argv[1:] if argv is None else list(argv)
    command = parser.parse_args(words[:1]).command
    return run_module(f"python -m {package} {command}", commands[command][0], words[1:])


def run_module(prog: str, name: str, words: Sequence[str]) -> int:
    """Parse *words* for the module called *name* and run it; *prog* is the command for its help.

    The status is that of :func:`run_command`.
    """
    try:
        module = importlib.import_module(name)
        parser = _parser(prog, module.__doc__)
        options = parse_options(get_type_hints(module.run)["options"], parser, list(words))
        return int(module.run(options))
    except (LacunaError, OSError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


def _parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


if __name__ == "__main__":
    sys.exit(main())
