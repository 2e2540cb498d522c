"""``python -m training prepare``: text files to a directory of prepared data.

    1  read        clean, drop duplicates, decide the language of each line, hold out blocks of 50
                   neighbouring lines, and report
    2  sample      draw lines, half of them Chinese if there are enough, and train the tokenizer
    3  encode      count words, cut, encode and write the lines of each language of each source

No input is ever held in memory whole. Memory is bounded by the tokenizer's sample, the hashes of
distinct lines, some 75 bytes each, and the counts of words.
"""

import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from model.config import STRICT
from model.errors import CorpusError
from model.files import replaced_directory, write_atomically
from model.tokenizer import CONTROL_TOKENS, MAX_TOKENS, Tokenizer
from training.data.encode import encode_part
from training.data.reading import Part, ReadOptions, ReadText, read_text
from training.data.shards import write_manifest
from training.data.sources import SourceOptions, load_sources, named_sources
from training.data.text_report import TextReport
from training.data.train_tokenizer import choose_size, train_tokenizer
from training.data.word_counts import WordCounts
from training.options import argument, option
from training.progress import progress_bar

REPORT = "report.json"

VocabularySize = Annotated[int, Field(ge=len(CONTROL_TOKENS) + 257, le=MAX_TOKENS)]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class PrepareOptions(ReadOptions):
    """Options of the command; :func:`prepare` gets the sources apart."""

    output: Path | None = option("directory to make; it must not exist", None, "DIR")
    vocabulary_size: VocabularySize | None = option(
        "tokens, control and byte tokens included (default: by the amount of text)", None, "N"
    )
    known_from: Annotated[int, Field(ge=1)] = option(
        "occurrences in the training text from which a word is known", 3, "N"
    )
    vocabulary_bytes: int = 6_000_000  # of text at most that the tokenizer is trained on
    inputs: tuple[str, ...] = argument("file, folder or glob", "INPUT", ())
    sources: Path | None = option("sources with weights and limits", None, "FILE.toml")
    root: Path | None = option(
        "folder that paths in --sources start from (default: the folder of the file)", None, "DIR"
    )
    field: str | None = option(
        "column or JSON member that has the text (default: found by its content)", None, "NAME"
    )
    language: Literal["zh", "en", "auto"] = option("language of all lines", "auto")
    dry_run: bool = option("read and report; with --output, write only DIR/report.json", False)


def run(options: PrepareOptions) -> int:
    """Run the command; 0 on success."""
    sources = named_sources(options.inputs, options.field, options.language)
    if options.sources is not None:
        sources += load_sources(options.sources, options.root)
    if options.dry_run:
        with tempfile.TemporaryDirectory() as directory:
            report = read_text(sources, options, Path(directory)).report
        if options.output is not None:
            options.output.mkdir(parents=True, exist_ok=True)
            write_atomically(options.output / REPORT, report.to_json().encode())
        _show(report)
    else:
        sys.stdout.write(f"{prepare(sources, options, _show)}\n")
    return 0


def prepare(
    sources: Sequence[SourceOptions],
    options: PrepareOptions,
    show: Callable[[TextReport], None] | None = None,
) -> Path:
    """Make a directory of prepared data and return its path.

    *show* gets the report once the tokenizer is known; if it raises an error, nothing is made.

    Raises:
        CorpusError: the text cannot be used (with file and remedy), or the output exists.
        TokenizerError: this text allows no tokenizer of this size, or the given one cannot be read.
        OSError: the disk is full or not writable; nothing is left behind.
    """
    output = options.output
    if output is None:
        raise CorpusError("no directory to make; add --output DIR")
    # A report alone is that of a dry run.
    if output.exists() and not (output.is_dir() and {f.name for f in output.iterdir()} <= {REPORT}):
        raise CorpusError(f"{output}: exists; remove it, or name another --output")
    with replaced_directory(output) as work:
        text = read_text(sources, options, work / "spool")
        tokenizer = _tokenizer(text, options, work / "spool")
        if options.tokenizer is None:
            text = text.measure(tokenizer)
        if show is not None:
            show(text.report)
        words = WordCounts()
        size = sum(part.characters for part in text.parts)
        with progress_bar("encode", size, "characters", unit_scale=True) as bar:
            entries = [
                encode_part(part, tokenizer, work, words, options.seed, bar) for part in text.parts
            ]
        settings = {k: v for k, v in asdict(options).items() if not isinstance(v, Path)}
        known_words = words.file(options.known_from)
        write_manifest(work, tokenizer, known_words, entries, {"options": settings})
        (work / REPORT).write_text(text.report.to_json(), encoding="utf-8")
        shutil.rmtree(work / "spool")
    return output


def _show(report: TextReport) -> None:
    sys.stdout.write(report.to_text())
    sys.stdout.flush()


def _tokenizer(text: ReadText, options: PrepareOptions, directory: Path) -> Tokenizer:
    """Load the given tokenizer, or train one in *directory*."""
    if options.tokenizer is not None:
        return Tokenizer.load(options.tokenizer)
    lines = sample_lines(text.parts, options)
    chosen = choose_size(lines, sum(part.characters for part in text.parts))
    size, exactly = options.vocabulary_size or chosen, options.vocabulary_size is not None
    return train_tokenizer(lines, size, exactly=exactly, directory=directory)


def sample_lines(parts: Sequence[Part], options: PrepareOptions) -> list[str]:
    """Draw training lines, as many bytes of either language, of each source by its weight."""
    rng = random.Random(f"{options.seed}:vocabulary")
    languages = {part.language for part in parts}
    room = options.vocabulary_bytes // len(languages)
    chosen = []
    for language in sorted(languages):
        group = [part for part in parts if part.language == language]
        scale = _scale([(part.size, part.options.weight) for part in group], room)
        for part in group:
            share = scale * part.options.weight
            chosen += [
                line
                for split, line in part.split_lines()
                if split == "train" and rng.random() < share
            ]
    return chosen


def _scale(sizes: Sequence[tuple[int, float]], room: int) -> float:
    """Return the factor of weights at which shares of the sizes, at most 1, fill the room."""
    scale, filled = 0.0, 0
    # The parts with the largest weights are taken whole first.
    waiting = sorted(sizes, key=lambda each: each[1])
    while waiting:
        scale = (room - filled) / sum(size * weight for size, weight in waiting)
        if scale * waiting[-1][1] < 1:
            return max(0.0, scale)
        filled += waiting.pop()[0]
    return max(scale, 1 / min(weight for _, weight in sizes))
