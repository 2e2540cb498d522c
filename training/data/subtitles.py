"""Subtitles (SubRip, WebVTT) to spoken words: numbers, times, tags and headers go."""

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from model.text import HAN_CHARACTER, LETTER
from training.data.file_report import FileReport
from training.data.wrapped_text import join_lines

_TIMES = re.compile(r"\s*(?:\d{1,3}:)?\d{1,2}:\d{2}[.,:]\d{1,3}\s*-{1,2}>\s*\d[\d:.,]*")
_BLOCK = re.compile(r"(?:WEBVTT|NOTE|STYLE|REGION)(?:\s|$)")
# Tags of fonts, colours, voices and karaoke times, and styles in braces
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<\d[\d:.]*>|\{\\[^{}]*\}")
_SOUND = re.compile(r"[\[(（【][^\])）】]*[\])）】]")
_DASH = re.compile(r"[-‐–—]\s*(?=[^\W\d]|[\"“'‘¿¡\[(])")


def has_times(lines: Sequence[str]) -> bool:
    """Return True if a text has several lines with the times of subtitles."""
    return sum(bool(_TIMES.match(line)) for line in lines) >= 2


def read_cues(lines: Iterable[str], report: FileReport) -> Iterator[str]:
    """Read the words of each cue, its lines joined.

    Two speakers, or two languages, are two lines. Lines that a cue repeats from the one before it,
    as rolling captions do, are left out.
    """
    cue: list[str] = []
    before: list[str] = []
    skipping = after_times = False
    for line in map(str.strip, chain(lines, [""])):
        is_times = bool(_TIMES.match(line))
        if skipping:
            skipping = bool(line)
        elif not line or is_times:
            # The line before the times is the number or the name of the cue.
            if is_times and cue and (cue[-1].isdigit() or (len(cue) == 1 and not after_times)):
                cue.pop()
            report.removed["subtitle times"] += is_times
            yield from _spoken([text for text in cue if text not in before], report)
            before, cue, after_times = cue or before, [], is_times
        elif not cue and not after_times and _BLOCK.match(line):
            skipping = True
        else:
            cue.append(html.unescape(_TAG.sub("", line)).strip("♪♫#* "))


def _spoken(cue: Sequence[str], report: FileReport) -> Iterator[str]:
    """Yield the words of a cue: a line for each speaker and language."""
    spoken = ""
    for line in cue:
        if _SOUND.fullmatch(line):
            report.removed["sound descriptions"] += 1
        elif LETTER.search(line):
            text = _DASH.sub("", line, count=1) if _DASH.match(line) else line
            if spoken and (text != line or _is_chinese(text) != _is_chinese(spoken)):
                yield spoken
                spoken = ""
            spoken = join_lines(spoken, text)
    if spoken:
        yield spoken


def _is_chinese(text: str) -> bool:
    return HAN_CHARACTER.search(text) is not None
