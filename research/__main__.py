"""``python -m research COMMAND``: one module a command, imported only when asked for."""

import sys

from training.__main__ import run_command

COMMANDS = {
    "compare": ("research.compare", "the tutorial's systems side by side"),
    "cloze-benchmarks": ("research.cloze_benchmarks", "published clozes asked of a checkpoint"),
    "sentence-completion": (
        "research.sentence_completion",
        "MSR Sentence Completion by each side and by both",
    ),
    "contamination": ("research.contamination", "what of a benchmark stands in the training text"),
    "sample-sentences": (
        "research.sample_sentences",
        "everyday sentences with blanks, hits and misses shown",
    ),
    "quality-page": ("research.quality_page", "docs/quality.md from committed figures"),
    "word-lm": ("research.word_lm", "a word benchmark, such as Penn Treebank, to perplexities"),
    "vanishing-gradients": (
        "research.vanishing_gradients",
        "how far gradients and memories reach back",
    ),
}

if __name__ == "__main__":
    sys.exit(
        run_command("research", "The tutorial's systems, published benchmarks, peers.", COMMANDS)
    )
