"""``python -m training COMMAND``: one module a command, imported only when asked for."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from model.errors import LacunaError

COMMANDS = {
    "prepare": ("training.prepare", "text to a vocabulary and shards"),
    "train": ("training.loop", "shards to weights"),
    "evaluate": ("training.evaluate", "a checkpoint to scores"),
    "calibrate": ("training.calibrate", "a checkpoint to one with temperatures fitted on development text"),
    "export": ("training.export", "weights to a checkpoint that the service serves"),
    "card": ("training.model_card", "scores and notes into a checkpoint and its model card"),
    "adapt": ("training.adapt", "a checkpoint to one that knows a text better"),
    "ngram": ("training.ngram", "shards to a Kneser-Ney n-gram, the baseline"),
    "compare": ("training.compare", "the tutorial's systems side by side"),
    "cloze-benchmarks": ("training.cloze_benchmarks", "published clozes asked of a checkpoint"),
    "sentence-completion": ("training.sentence_completion", "MSR Sentence Completion by each side and by both"),
    "contamination": ("training.contamination", "what of a benchmark stands in the training text"),
    "everyday": ("training.everyday", "everyday sentences with blanks, hits and misses shown"),
    "quality": ("training.quality", "docs/quality.md from committed figures"),
    "words": ("training.words", "a word benchmark, such as Penn Treebank, to perplexities"),
    "gates": ("training.gates", "how far gradients and memories reach back"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, or 2 with a message on standard error where a named error was raised.
    """
    parser = argparse.ArgumentParser(prog="python -m training", description="From text to a checkpoint.")
    parser.add_argument("command", choices=COMMANDS, help="; ".join(f"{n}: {h}" for n, (_, h) in COMMANDS.items()))
    arguments = sys.argv[1:] if argv is None else list(argv)
    command = parser.parse_args(arguments[:1]).command
    module = importlib.import_module(COMMANDS[command][0])
    parser = argparse.ArgumentParser(prog=f"python -m training {command}", description=module.__doc__)
    module.add_arguments(parser)
    try:
        return int(module.run(parser.parse_args(arguments[1:])))
    except LacunaError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
