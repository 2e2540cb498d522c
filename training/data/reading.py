"""Read the sources once, to clean lines on disk, and choose the blocks that are held out.

The clean lines of a source lie in one file, its spool, in their order: the language as one byte,
the line in UTF-8, a line end. Memory is bounded by the hashes of distinct lines, some 75 bytes
each.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

from model.config import STRICT
from model.errors import CorpusError
from model.text import LANGUAGES, language_of
from model.tokenizer import Tokenizer
from training.config import Count
from training.data.cleaning import clean, is_document
from training.data.file_report import FileReport
from training.data.input_files import SkippedFile, find_files
from training.data.raw_lines import RawLines
from training.data.sources import SourceOptions, unique_name
from training.data.splits import (
    Blocks,
    TextSplit,
    choose_blocks,
    group_languages,
    share_to_hold_out,
)
from training.data.text_report import TextReport, find_warnings
from training.options import option
from training.progress import progress_bar

# Distinct lines after which duplicates are no longer noticed: some 750 MB.
REMEMBERED_LINES = 10_000_000
SAMPLES = 10
_MEASURED_LINES = 400
_SHOWN_REASONS = 5
_FLAGS = {language: language[0].encode() for language in LANGUAGES}

Share = Annotated[float, Field(ge=0, le=0.5)]


@checked_dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class ReadOptions:
    """Options of :func:`read_text`."""

    encoding: str | None = option("encoding of the files (default: detected)", None, "NAME")
    held_out_share: Share | None = option(
        "share of each source to hold out, at least one block of lines unless it is 0"
        " (default: by the amount of text)",
        None,
        "SHARE",
    )
    test_share: Share | None = option(
        "share to write to test/ as plain text, neither trained on nor held out", 0.0, "SHARE"
    )
    max_characters: Annotated[int, Field(ge=16)] = option("split longer lines", 500, "N")
    sentences: bool = option("make a line of each sentence", False)
    seed: Count = option("seed of every random choice", 1)
    tokenizer: Path | None = option(
        "use this tokenizer.model instead of training one", None, "FILE"
    )


@dataclass(slots=True)
class _Size:
    """Amounts of text."""

    lines: int = 0
    characters: int = 0
    bytes: int = 0  # of UTF-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The lines of one language in a source."""

    name: str  # unique
    language: str  # zh or en
    consecutive: bool  # each line continues the line before it
    options: SourceOptions
    files: tuple[str, ...]  # names
    spool: Path
    flags: bytes  # of the lines that belong to it
    lines: int
    characters: int
    size: int  # bytes of UTF-8
    counts: dict[str, int]  # of the whole source: raw lines, duplicates, lines without letters
    blocks: Blocks = field(default_factory=Blocks)

    def split_lines(self) -> Iterator[tuple[TextSplit, str]]:
        """Yield each line with its split."""
        number = 0
        with self.spool.open("rb") as file:
            for line in file:
                if line[0] in self.flags:
                    yield self.blocks.split_of(number // self.blocks.lines), line[1:-1].decode()
                    number += 1


@dataclass(frozen=True, slots=True)
class ReadText:
    """Sources that have been read."""

    parts: tuple[Part, ...]
    report: TextReport

    def measure(self, tokenizer: Tokenizer) -> "ReadText":
        """Return the same with tokens per character, measured on some lines."""
        tokens, characters = Counter[str](), Counter[str]()
        for language, line in _some_lines(self.parts, _MEASURED_LINES):
            tokens[language] += len(tokenizer.encode(line))
            characters[language] += len(line)
        shares = {each: tokens[each] / characters[each] for each in sorted(characters)}
        size = tokenizer.size
        report = replace(self.report, tokens_per_character=shares, vocabulary_size=size)
        return replace(self, report=report)


def read_text(sources: Sequence[SourceOptions], options: ReadOptions, directory: Path) -> ReadText:
    """Read all sources to spools in *directory*, and report on them.

    Raises:
        CorpusError: an input is missing or unreadable, or no line has a letter.
        TokenizerError: the given tokenizer cannot be read.
        OSError: the disk is full or not writable.
    """
    if not sources:
        raise CorpusError("no input; name files, folders or globs, or --sources FILE.toml")
    name, times = Counter(source.name for source in sources).most_common(1)[0]
    if times > 1:
        raise CorpusError(f"source name {name} is used {times} times; names must be unique")
    tokenizer = Tokenizer.load(options.tokenizer) if options.tokenizer else None
    directory.mkdir(parents=True, exist_ok=True)
    found = [find_files([source.path]) for source in sources]
    files = [file for files, _ in found for file in files]
    reader = _Reader(options, directory)
    reader.skipped += [each for _, skipped in found for each in skipped]
    parts: list[Part] = []
    size = sum(file.path.stat().st_size for file in files)
    with progress_bar("read", size, "B", unit_scale=True) as bar:
        for source, (files, _) in zip(sources, found, strict=True):
            parts += reader.read(source, RawLines(source, files, options.encoding, bar))
    if not parts:
        raise reader.fault()
    parts = _with_blocks(parts, options)
    text = ReadText(tuple(parts), reader.report(parts))
    return text.measure(tokenizer) if tokenizer else text


@dataclass(slots=True)
class _Reader:
    """Reads sources one after the other; remembers the lines that it had."""

    options: ReadOptions
    directory: Path
    files: list[FileReport] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    folded: Counter[str] = field(default_factory=Counter)  # lines by language
    warnings: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    _seen: set[int] = field(default_factory=set)

    def read(self, source: SourceOptions, lines: RawLines) -> list[Part]:
        """Write the spool of a source; return its parts, none if it has no new line."""
        spool = self.directory / f"{source.name}.lines"
        counts: Counter[str] = Counter()
        sizes = {language: _Size() for language in LANGUAGES}
        with spool.open("wb") as file:
            for text in lines:
                for line in self._new_lines(text, counts):
                    language = language_of(line) if source.language == "auto" else source.language
                    data = line.encode()
                    file.write(_FLAGS[language] + data + b"\n")
                    size = sizes[language]
                    size.lines += 1
                    size.characters += len(line)
                    size.bytes += len(data)
        self.files += lines.reports
        self.skipped += lines.skipped
        self.counts += counts
        files = tuple(Path(report.path).name for report in lines.reports)
        return self._parts(source, spool, counts, sizes, files)

    def _new_lines(self, text: str, counts: Counter[str]) -> Iterator[str]:
        """Yield the clean lines of a raw line that no source has had yet."""
        options = self.options
        lines = clean(text, options.max_characters, split_sentences=options.sentences)
        counts["lines"] += 1
        counts["without_letters"] += not lines
        if is_document(text, options.max_characters):
            counts["from documents"] += len(lines)
        for line in lines:
            key = hash(line)
            if key in self._seen:
                counts["duplicates"] += 1
                continue
            if len(self._seen) < REMEMBERED_LINES:
                self._seen.add(key)
            yield line

    def _parts(
        self,
        source: SourceOptions,
        spool: Path,
        counts: Counter[str],
        sizes: dict[str, _Size],
        files: tuple[str, ...],
    ) -> list[Part]:
        """Return a part for each language with lines, the one with most lines first."""
        lines = {language: size.lines for language, size in sizes.items()}
        total = sum(lines.values())
        if not total:
            self.warnings.append(
                f"{source.path}: no line is new: {counts['duplicates']:,} duplicates,"
                f" {counts['without_letters']:,} without letters; not used"
            )
        groups = group_languages(lines)
        for _, *rare in groups:
            self.folded.update({language: lines[language] for language in rare})
        parts = []
        for number, group in enumerate(groups):
            name = unique_name(f"{source.name}-{group[0]}" if number else source.name, self.names)
            self.names.add(name)
            own = [sizes[language] for language in group]
            part = Part(
                name=name,
                language=group[0],
                consecutive=source.consecutive or 2 * counts["from documents"] > total,
                options=source,
                files=files,
                spool=spool,
                flags=b"".join(_FLAGS[language] for language in group),
                lines=sum(size.lines for size in own),
                characters=sum(size.characters for size in own),
                size=sum(size.bytes for size in own),
                counts={key: counts[key] for key in ("lines", "without_letters", "duplicates")},
            )
            parts.append(part)
        return parts

    def fault(self) -> CorpusError:
        """Return the error of a text without lines."""
        paths = ", ".join(report.path for report in self.files[:_SHOWN_REASONS])
        reasons = [f"{each.path}: {each.reason}" for each in self.skipped[:_SHOWN_REASONS]]
        lines = f"none of {self.counts['lines']} lines has a letter to learn from"
        return CorpusError("; ".join([f"{lines} ({paths})"] * bool(paths) + reasons))

    def report(self, parts: Sequence[Part]) -> TextReport:
        """Return the report of all that was read."""
        lines, characters = Counter[str](), Counter[str]()
        held_out, test, sources = Counter[str](), Counter[str](), Counter[str]()
        for part in parts:
            sources[part.options.name] += part.lines
            lines[part.language] += part.lines
            characters[part.language] += part.characters
            counts = part.blocks.count(part.lines)
            held_out[part.language] += counts["heldout"]
            test[part.language] += counts["test"]
        duplicates = self.counts["duplicates"]
        folded = dict(sorted(self.folded.items()))
        samples = dict.fromkeys(line for _, line in _some_lines(parts, SAMPLES))
        return TextReport(
            files=tuple(self.files),
            skipped=tuple(self.skipped),
            lines=dict(lines),
            source_lines=dict(sources),
            characters=dict(characters),
            duplicates=duplicates,
            without_letters=self.counts["without_letters"],
            folded=folded,
            held_out_lines=dict(held_out),
            test_lines=dict(test),
            samples=tuple(samples),
            tokens_per_character={},
            vocabulary_size=0,
            warnings=(
                *self.warnings,
                *find_warnings(
                    self.files,
                    lines,
                    folded,
                    duplicates,
                    self.counts["from documents"],
                    held_out,
                ),
            ),
        )


def _with_blocks(parts: Sequence[Part], options: ReadOptions) -> list[Part]:
    """Choose the blocks of each part that are not for training."""
    lines = Counter[str]()
    for part in parts:
        lines[part.language] += part.lines
    chosen = []
    for part in parts:
        share = share_to_hold_out(lines[part.language])
        held_out, test = (
            share if given is None else given
            for given in (options.held_out_share, options.test_share)
        )
        if not part.options.held_out:
            held_out = test = 0.0
        blocks = choose_blocks(part.lines, held_out, test, f"{options.seed}:{part.name}")
        chosen.append(replace(part, blocks=blocks))
    return chosen


def _some_lines(parts: Sequence[Part], count: int) -> Iterator[tuple[str, str]]:
    """Yield the language and text of *count* lines, spread over the spools."""
    languages = {(part.spool, flag): part.language for part in parts for flag in part.flags}
    spools = list(dict.fromkeys(part.spool for part in parts))
    ends = list(itertools.accumulate(spool.stat().st_size for spool in spools))
    for number in range(count):
        place = (2 * number + 1) * ends[-1] // (2 * count)
        index = next(index for index, end in enumerate(ends) if place < end)
        with spools[index].open("rb") as file:
            file.seek(place - ends[index] + spools[index].stat().st_size)
            file.readline()
            line = file.readline()
            if not line:
                file.seek(0)
                line = file.readline()
        yield languages[spools[index], line[0]], line[1:-1].decode()
