"""Subtitles (SubRip, WebVTT) to what is said: counters, times, tags and headers go."""

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from model.text import HAN_CHARACTER, LETTER
from training.data.file_report import FileReport
from training.data.wrapped_text import join_lines

TIMES = re.compile(r"\s*(?:\d{1,3}:)?\d{1,2}:\d{2}[.,:]\d{1,3}\s*-{1,2}>\s*\d[\d:.,]*")
_BLOCK = re.compile(r"(?:WEBVTT|NOTE|STYLE|REGION)(?:\s|$)")
# Tags of fonts, colours, voices and karaoke times, and overrides of styles in braces
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<\d[\d:.]*>|\{\\[^{}]*\}")
_SOUND = re.compile(r"[\[(（【][^\])）】]*[\])）】]")
_MUSIC = "♪♫♬♩#* "
_DASH = re.compile(r"[-‐–—]\s*(?=[^\W\d]|[\"“'‘¿¡\[(])")


def has_times(lines: Sequence[str]) -> bool:
    """Return True if a text has several lines with the times of subtitles."""
    return sum(bool(TIMES.match(line)) for line in lines) >= 2


def read_cues(lines: Iterable[str], report: FileReport) -> Iterator[str]:
    """Read what is said in each cue, its lines joined.

    Two speakers, or two languages, are two lines. Lines that a cue repeats from the one before it,
    as rolling captions do, are left out.
    """
    cue: list[str] = []
    before: list[str] = []
    skipping = after_times = False
    for raw in chain(lines, [""]):
        line = raw.strip()
        if skipping:
            skipping = bool(line)
        elif TIMES.match(line):
            # The line before it is the number or the name of the cue.
            if cue and (cue[-1].isdigit() or (len(cue) == 1 and not after_times)):
                cue.pop()
                report.removed["subtitle numbers"] += 1
            report.removed["subtitle times"] += 1
            yield from _spoken(cue, before, report)
            before, cue, after_times = cue or before, [], True
        elif not line:
            yield from _spoken(cue, before, report)
            before, cue, after_times = cue or before, [], False
        elif not cue and not after_times and _BLOCK.match(line):
            report.removed["subtitle headers"] += 1
            skipping = True
        else:
            cue.append(_plain(line, report))


def _spoken(cue: Sequence[str], before: Sequence[str], report: FileReport) -> Iterator[str]:
    """Yield what is said in a cue: a line for each speaker and language."""
    spoken = ""
    for line in cue:
        if line in before:
            report.removed["repeated captions"] += 1
            continue
        if _SOUND.fullmatch(line):
            report.removed["sound descriptions"] += 1
            continue
        if not LETTER.search(line):
            continue
        dash = _DASH.match(line)
        text = line[dash.end() :] if dash else line
        if spoken and (dash or _is_chinese(text) != _is_chinese(spoken)):
            yield spoken
            spoken = ""
        spoken = join_lines(spoken, text)
    if spoken:
        yield spoken


def _plain(line: str, report: FileReport) -> str:
    text, tags = _TAG.subn("", line)
    if tags:
        report.removed["markup"] += 1
    return html.unescape(text).strip(_MUSIC)


def _is_chinese(text: str) -> bool:
    return HAN_CHARACTER.search(text) is not None
