"""The raw lines of one source, file by file; a faulty file in a folder is skipped."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from model.errors import CorpusError
from training.data.documents import read_lines
from training.data.file_report import FileReport
from training.data.input_files import InputFile, SkippedFile
from training.data.sources import SourceOptions
from training.data.splits import block_size, is_taken
from training.data.text_signs import TextSigns

# Share of the bytes of a file from which it is not mostly markup or headers
MIN_TEXT_SHARE = 0.15
_PACKED = ("docx", "epub", "pdf")  # their bytes cannot be compared
_LINES_PER_UPDATE = 256


@dataclass(slots=True)
class RawLines:
    """Iterates over the lines of a source, or of blocks spread over it if it has a limit."""

    source: SourceOptions
    files: Sequence[InputFile]
    encoding: str | None
    bar: "tqdm[Any]"  # of the bytes of all files
    reports: list[FileReport] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)

    def __iter__(self) -> Iterator[str]:
        if self.source.limit_bytes is None:
            for file in self.files:
                yield from self._read(file)
        else:
            yield from self._limited(self.source.limit_bytes)

    def _limited(self, limit: int) -> Iterator[str]:
        """Read twice: the size decides which blocks are taken."""
        lines = size = number = 0
        for file in self.files:
            for text in self._lines(file, _report(file)):
                lines += 1
                size += _size(text)
        self.skipped.clear()
        block_lines, share = block_size(lines), min(1.0, limit / max(1, size))
        for file in self.files:
            for text in self._read(file):
                if is_taken(number // block_lines, share):
                    limit -= _size(text)
                    if limit < 0:
                        return
                    yield text
                number += 1

    def _read(self, file: InputFile) -> Iterator[str]:
        """Yield the lines of a file, and keep its report."""
        report, signs = _report(file), TextSigns()
        size, shown, kept = file.path.stat().st_size, 0, 0
        try:
            for text in self._lines(file, report):
                if not report.lines % _LINES_PER_UPDATE and report.bytes <= size:
                    self.bar.update(report.bytes - shown)
                    shown = report.bytes
                signs.add(text)
                kept += _size(text)
                yield text
        finally:  # also if a limit ends the source here
            self.bar.update(size - shown)
            self._keep(file, report, signs, kept)

    def _keep(self, file: InputFile, report: FileReport, signs: TextSigns, kept: int) -> None:
        """Keep the report of a file with *kept* bytes of text, or the reason to skip it."""
        report.warnings += signs.warnings()
        packed, share = file.kind in _PACKED, kept / max(1, report.bytes)
        if share < MIN_TEXT_SHARE and not packed and not report.warnings:
            report.warnings.append(f"only {share:.0%} of it is text, the rest is markup or headers")
        if report.lines or file.named:
            self.reports.append(report)
        elif file.path not in {each.path for each in self.skipped}:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.removed.items())
            self.skipped.append(SkippedFile(file.path, f"no text ({reasons or 'only spaces'})"))

    def _lines(self, file: InputFile, report: FileReport) -> Iterator[str]:
        """Yield the lines of a file; if it is faulty and was not named itself, up to the fault."""
        try:
            yield from read_lines(file, report, encoding=self.encoding, field=self.source.field)
        except CorpusError as error:
            if file.named:
                raise
            if report.lines:
                report.warnings.append(f"read up to a fault: {error}")
            else:
                reason = str(error).removeprefix(f"{file.path}: ")
                self.skipped.append(SkippedFile(file.path, reason))


def _report(file: InputFile) -> FileReport:
    return FileReport(str(file.path), file.kind)


def _size(text: str) -> int:
    return len(text.encode()) + 1
