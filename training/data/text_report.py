"""The report of a text before training, as JSON and for people."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from training.data.file_report import FileReport
from training.data.input_files import SkippedFile
from training.evaluation.report import LANGUAGE_NAMES as NAMES

MIN_LINES = 2_000  # distinct lines, below which figures are rough
_MIN_HELD_OUT_LINES = 100
_MAX_DUPLICATE_SHARE = 0.5
_MIN_DOCUMENT_SHARE = 0.05
_SHOWN_FILES = 20
_SHOWN_CHARACTERS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class TextReport:
    """Figures and suspicions about a text. By language: ``zh`` and ``en``."""

    files: tuple[FileReport, ...]
    skipped: tuple[SkippedFile, ...]
    lines: dict[str, int]  # distinct clean lines, by language
    source_lines: dict[str, int]  # the same by source
    characters: dict[str, int]  # of these lines
    duplicates: int
    without_letters: int
    folded: dict[str, int]  # lines of a language so rare that they count as the other's
    held_out_lines: dict[str, int]
    test_lines: dict[str, int]
    samples: tuple[str, ...]
    vocabulary_size: int  # 0 without a tokenizer
    tokens_per_character: dict[str, float]
    warnings: tuple[str, ...]

    @property
    def removed(self) -> Counter[str]:
        """Counts of parts that the readers of the files left out, by reason."""
        return sum((report.removed for report in self.files), Counter[str]())

    def to_json(self) -> str:
        """Return the content of ``report.json``."""
        # asdict() spoils a Counter.
        files = [{**asdict(each), "removed": dict(each.removed)} for each in self.files]
        values: dict[str, Any] = {**asdict(self), "files": files, "removed": self.removed}
        return _printable(json.dumps(values, indent=1, ensure_ascii=False, default=str) + "\n")

    def to_text(self) -> str:
        """Return the report for people, with a line end at its end."""
        return _printable("\n".join([*self._rows(), ""]))

    def _rows(self) -> Iterator[str]:
        total = sum(report.bytes for report in self.files)
        yield _row("files", f"{len(self.files):,} read ({total / 1e6:,.1f} MB)")
        yield from _some(_file_row(report) for report in self.files)
        if self.skipped:
            yield _row("skipped", f"{len(self.skipped):,}")
            yield from _some(f"  {each.path}: {each.reason}" for each in self.skipped)
        for label, counts in (
            ("lines", self.lines),
            ("characters", self.characters),
            ("held out", self.held_out_lines),
            ("for tests", self.test_lines),
        ):
            if any(counts.values()):
                yield _row(label, _by_language(counts))
        left_out = {"duplicates": self.duplicates, "without letters": self.without_letters}
        left_out |= dict(self.removed.most_common())
        if parts := [f"{count:,} {reason}" for reason, count in left_out.items() if count]:
            yield _row("left out", ", ".join(parts))
        if self.tokens_per_character:
            shares = [f"{NAMES[k]} {v:.2f}" for k, v in self.tokens_per_character.items()]
            size = f"vocabulary of {self.vocabulary_size:,}"
            yield _row("tokens", f"{', '.join(shares)} for each character ({size})")
        yield "samples"
        for sample in self.samples:
            yield f"  {sample[:_SHOWN_CHARACTERS]}{'…' * (len(sample) > _SHOWN_CHARACTERS)}"
        for warning in self.warnings:
            yield _row("warning", warning)


def find_warnings(
    files: Iterable[FileReport],
    lines: Mapping[str, int],
    folded: Mapping[str, int],
    duplicates: int,
    document_lines: int,
    held_out_lines: Mapping[str, int],
) -> tuple[str, ...]:
    """Return a sentence for each thing that the user should know before training."""
    found = [f"{report.path}: {warning}" for report in files for warning in report.warnings]
    total = sum(lines.values())
    if total < MIN_LINES:
        found.append(
            f"{total:,} different lines are little text; {MIN_LINES:,} or more are needed for a"
            " gain that can be measured"
        )
    elif sparse := [k for k, count in held_out_lines.items() if 0 < count < _MIN_HELD_OUT_LINES]:
        found.append(f"few held-out lines in {_names(sparse)}: figures will be rough")
    for language, count in folded.items():
        found.append(
            f"only {_lines(count)} in {NAMES[language]}: learned along with the others,"
            " without figures of their own"
        )
    if document_lines > _MIN_DOCUMENT_SHARE * total:
        found.append(
            f"{document_lines:,} lines are sentences of documents that had no line ends, or few"
        )
    if duplicates > _MAX_DUPLICATE_SHARE * (total + duplicates):
        found.append(
            f"{duplicates / (total + duplicates):.0%} of the lines occurred before and are left out"
        )
    return tuple(found)


def _printable(text: str) -> str:
    """Escape the bytes of file names that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _file_row(report: FileReport) -> str:
    fields = f", fields {', '.join(report.fields)}" if report.fields else ""
    encoding = f", {report.encoding}" if report.encoding else ""
    return f"  {report.path}: {report.kind}{encoding}, {_lines(report.lines)}{fields}"


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count:,} lines"


def _some(rows: Iterable[str]) -> Iterator[str]:
    """Yield the first rows, and the number of the others."""
    rows = list(rows)
    yield from rows[:_SHOWN_FILES]
    if len(rows) > _SHOWN_FILES:
        yield f"  and {len(rows) - _SHOWN_FILES:,} more (all are in report.json)"


def _row(label: str, value: str) -> str:
    return f"{label:<11}{value}"


def _by_language(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{NAMES[k]} {count:,}" for k, count in counts.items() if count)


def _names(languages: Iterable[str]) -> str:
    return " and ".join(NAMES[language] for language in languages)
