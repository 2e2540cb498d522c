"""Run ``python -m training COMMAND``; the module of a command is imported when it is asked for."""

import argparse
import errno
import importlib
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import get_type_hints

from model.errors import LacunaError
from training.interrupts import handle_interrupts

COMMANDS = {
    "prepare": ("training.data.prepare", "text files to prepared data"),
    "train": ("training.trainer", "prepared data to the weights of a network"),
    "export": ("training.export", "weights to a checkpoint that can be served"),
    "calibrate": ("training.evaluation.calibrate", "fit a checkpoint's temperatures and weights"),
    "evaluate": ("training.evaluation.evaluate", "score checkpoints on held-out text"),
    "card": ("training.evaluation.model_card", "write scores, known words and a model card"),
    "adapt": ("training.adapt", "teach a checkpoint a text of your own"),
    "ngram": ("training.ngram", "prepared data to counts of n-grams"),
}

# What to do after an error of the operating system.
_REMEDIES = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free space, then give the command again"
    ),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "change the permissions, or name a directory that can be written",
    ),
    **dict.fromkeys(
        (errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
        "a file is where a directory is needed: name another path",
    ),
    errno.ENOMEM: "free memory, or use less text, fewer rows or a smaller network",
}
# torch, onnxruntime and SentencePiece have no MemoryError
_OUT_OF_MEMORY = re.compile(r"out of memory|allocate memory|bad[ _]alloc", re.IGNORECASE)


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
    Return 0, or another status of the command, such as 3 for a training that gained nothing; 2
    after a wrong command line, a named error, one of the operating system or of memory; 130 if
    interrupted. Any other error is a defect, and keeps its traceback.
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
        with handle_interrupts(_end):
            module = importlib.import_module(name)
            parse = importlib.import_module("training.options").parse_options
        with handle_interrupts(signal.default_int_handler):
            parser = _parser(prog, module.__doc__)
            options = parse(get_type_hints(module.run)["options"], parser, list(words))
            return int(module.run(options))
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        return 130
    except Exception as error:
        if (line := _describe(error)) is None:
            raise
        sys.stderr.write(f"{line}\n")
        return 2


def _end(*_: object) -> None:
    """End the process without a traceback: an import may not survive an exception."""
    os.write(2, b"\ninterrupted\n")
    os._exit(130)


def _describe(error: Exception) -> str | None:
    """Return the line for an error with its remedy; None for a defect."""
    line = f"{type(error).__name__}: {error}"
    if isinstance(error, LacunaError):
        return line
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
        first = line.splitlines()[0][:200]
        return f"out of memory: {_REMEDIES[errno.ENOMEM]} ({first})"
    if isinstance(error, OSError):
        # NumPy's has no number: "1000 requested and 500 written"
        number = error.errno or (errno.ENOSPC if "requested and" in line else None)
        remedy = _REMEDIES.get(number or 0)
        return f"{line}; {remedy}" if remedy else line
    return None


def _parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


if __name__ == "__main__":
    sys.exit(main())
