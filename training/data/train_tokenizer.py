"""Train the tokenizer with SentencePiece, in a separate process that an interrupt ends."""

import json
import math
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from model.errors import TokenizerError
from model.tokenizer import CONTROL_TOKENS, FIRST_BYTE, SPACE_MARK, Tokenizer
from training.progress import progress_bar

# Share of the characters of the text that are tokens; the others are spelled in bytes. With a
# chosen size, characters with fewer occurrences are no tokens, as they cannot be learned.
MAX_COVERAGE = 0.9995
MIN_COVERAGE = 0.98  # SentencePiece allows no less
MIN_OCCURRENCES = 5
MAX_CHOSEN_SIZE = 16_000
# Candidates for tokens that the trainer starts with; each round keeps three quarters of them.
_CANDIDATES = 100_000
_KEPT_SHARE = 0.75
_MIN_MORE_TOKENS = 64  # beyond characters and bytes
# Bytes from which one pass over the text in each round gives as good tokens as two
_LARGE_TEXT = 2_000_000

_PROCESS = Path(__file__).with_name("sentencepiece_process.py")
_ROUND = re.compile(r"EM sub_iter=\d+ size=(\d+)")


def choose_size(lines: Iterable[str], characters: int) -> int:
    """Return a size that suits a text of *characters* code points, sampled in *lines*."""
    counts = _count(lines)
    smallest = _smallest_size(counts, _coverage(counts))
    # Measured on 0.1 and 1 MB of both languages
    size = min(MAX_CHOSEN_SIZE, smallest + 4 * math.isqrt(characters))
    return max(size, smallest + _MIN_MORE_TOKENS)


def train_tokenizer(
    lines: Sequence[str], size: int, *, exactly: bool = True, directory: Path | None = None
) -> Tokenizer:
    """Train a unigram tokenizer of *size* tokens, control and byte tokens included.

    If not *exactly* the size is asked for, as it was chosen, rare characters are left out, and the
    size is smaller if the text has too few different words. In *lines*, U+2581 is read as a space.
    A copy of them lies in *directory* meanwhile.

    Raises:
        TokenizerError: the text allows no tokenizer of this size, or the trainer failed.
        OSError: the disk is full or not writable.
    """
    with tempfile.TemporaryDirectory(dir=directory) as name:
        work = Path(name)
        with (work / "text").open("w", encoding="utf-8") as file:
            file.writelines(f"{line.replace(SPACE_MARK, ' ')}\n" for line in lines)
        settings = _settings(size) | {
            "character_coverage": MAX_COVERAGE if exactly else _coverage(_count(lines)),
            "hard_vocab_limit": exactly,
            "num_sub_iterations": 1 if (work / "text").stat().st_size > _LARGE_TEXT else 2,
        }
        (work / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        fault = _run(work, size)
        if fault is None:
            return Tokenizer((work / "tokenizer.model").read_bytes())
    if "Vocabulary size" not in fault:
        raise TokenizerError(f"SentencePiece failed: {fault}; free memory and disk space")
    largest = re.search(r"<= (\d+)", fault)
    bounds = f"{_smallest_size(_count(lines), MAX_COVERAGE)} " + (
        f"to {largest[1]}" if largest else "or more"
    )
    raise TokenizerError(
        f"no tokenizer of --vocabulary-size {size}: this text needs {bounds}; leave the option out"
        " to have the size chosen"
    )


def _settings(size: int) -> dict[str, Any]:
    """Return the settings of SentencePiece's trainer, which the model file contains."""
    return {
        "input": "text",
        "model_prefix": "tokenizer",
        "model_type": "unigram",
        "vocab_size": size,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "treat_whitespace_as_suffix": True,
        "split_digits": True,
        "unk_id": 0,
        "bos_id": 1,
        "eos_id": 2,
        "pad_id": -1,
        "control_symbols": ",".join(CONTROL_TOKENS[3:]),
        "max_sentence_length": 1 << 16,
        "seed_sentencepiece_size": max(_CANDIDATES, 5 * size),
        "shrinking_factor": _KEPT_SHARE,
        "num_threads": 1,  # another number may give other tokens
    }


def _run(directory: Path, size: int) -> str | None:
    """Train in another process in *directory*, with a bar of its rounds.

    Return its error; None on success. It is in another process group, so that a key that interrupts
    this process leaves it alone.
    """
    command = [sys.executable, "-P", str(_PROCESS), "settings.json"]
    rounds = math.ceil(math.log(max(_CANDIDATES, 5 * size) / size, 1 / _KEPT_SHARE))
    line = ""
    with (
        progress_bar("tokenizer", rounds, "rounds") as bar,
        subprocess.Popen(  # noqa: S603 (a script of this package)
            command,
            cwd=directory,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            process_group=0,
        ) as process,
    ):
        try:
            for line in process.stderr or ():
                if found := _ROUND.search(line):
                    left = max(0.0, math.log(int(found[1]) / size, 1 / _KEPT_SHARE))
                    bar.update(max(0, rounds - math.ceil(left) - bar.n))
            return line.strip() if process.wait() else None
        finally:
            process.kill()


def _count(lines: Iterable[str]) -> Counter[str]:
    counts = Counter[str]()
    for line in lines:
        counts.update(line)
    return counts


def _coverage(counts: Counter[str]) -> float:
    """Return the share of characters that occur often enough, within the limits."""
    common = sum(count for count in counts.values() if count >= MIN_OCCURRENCES)
    return min(MAX_COVERAGE, max(MIN_COVERAGE, common / max(1, counts.total())))


def _smallest_size(counts: Counter[str], coverage: float) -> int:
    """Return the least size that has all characters in the share of *coverage*, and one more."""
    missing = counts.total() * coverage
    size = FIRST_BYTE + 256 + 1
    for _, count in counts.most_common():
        if missing <= 0:
            break
        missing -= count
        size += 1
    return size
