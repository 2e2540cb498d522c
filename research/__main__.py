"""Run ``python -m research COMMAND``; the module of a command is imported when it is asked for."""

import sys
from collections.abc import Sequence

from training.__main__ import run_command

COMMANDS = {
    "compare": ("research.compare", "train and evaluate the tutorial's systems"),
    "vanishing-gradients": ("research.vanishing_gradients", "measure gradients and memory"),
    "word-lm": ("research.word_lm", "train and score a language model of words"),
    "cloze-benchmarks": ("research.cloze_benchmarks", "answer published cloze questions"),
    "smollm": ("research.smollm", "ask SmolLM2-135M and a checkpoint the same questions"),
    "sentence-completion": ("research.sentence_completion", "answer MSR Sentence Completion"),
    "typing-errors": ("research.typing_errors", "type with errors, with and without corrections"),
    "contamination": ("research.contamination", "find benchmark questions in training text"),
    "sample-sentences": ("research.sample_sentences", "fill the blanks of sample sentences"),
    "toy-corpus": ("research.toy_corpus", "write a small corpus from a seeded grammar"),
    "quality-page": ("research.quality_page", "write docs/quality.md"),
    "tutorial-page": ("research.tutorial_page", "write docs/tutorial.md"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 2 after an error."""
    description = "The tutorial's systems, published benchmarks and networks of others."
    return run_command("research", description, COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main())
