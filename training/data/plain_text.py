"""Lines of plain text, logs and subtitles to paragraphs and messages.

The first lines decide: subtitles, lines broken at a width, or lines as they are. Lines of chats and
logs lose what is no message.
"""

import calendar
import re
from collections.abc import Iterator
from itertools import chain

from training.data.chat_lines import ChatFilter, is_chat
from training.data.file_report import FileReport
from training.data.input_files import Kind
from training.data.log_lines import is_log, log_message
from training.data.subtitles import has_times, read_cues
from training.data.timestamps import MARKS
from training.data.wrapped_text import join_paragraphs, wrapped_width

_FIRST_LINES = 2000
_FIRST_CHARACTERS = 400_000
_SEPARATOR = re.compile(r"(?=.*?(.)\s*\1\s*\1)[\W_]+")
_MAX_FRAME, _MAX_MESSAGE = 200, 3000  # characters
_FRAME = re.compile(r"([-=_*~#+])\1{2,}\s*(.*[^\W_].*?)\s*\1{3,}")
# Outside chats and logs, lines that begin and end otherwise have no header, prefix or separator.
_FIRST = frozenset("0123456789[(<{【-=_*~#+.·•—–─━═■◆★☆>|/\\上下中凌早晚周週星消" + MARKS)
_LAST = frozenset("0123456789Mm])】:：-=_*~#+—─━═>")
_DAYS = {*calendar.day_abbr, *calendar.month_abbr[1:]}  # in English


def read_plain(lines: Iterator[str], report: FileReport, kind: Kind) -> Iterator[str]:
    """Read the paragraphs of plain text, or the messages of a chat, a log or subtitles."""
    first: list[str] = []
    size = 0
    for line in lines:
        first.append(line)
        size += len(line)
        if len(first) >= _FIRST_LINES or size >= _FIRST_CHARACTERS:
            break
    everything = chain(first, lines)
    if kind in ("srt", "vtt") or has_times(first):
        return read_cues(everything, report)
    if kind != "log" and (width := wrapped_width(first)):
        return join_paragraphs(everything, width)
    shown = [line for line in first if line.strip()]
    in_log = (kind == "log" and not is_chat(shown)) or is_log(shown)
    return _messages(everything, report, ChatFilter(shown, report), in_log=in_log)


def _messages(
    lines: Iterator[str], report: FileReport, chat: ChatFilter, *, in_log: bool
) -> Iterator[str]:
    for line in lines:
        if not 0 < len(line) <= _MAX_MESSAGE or not (
            line[0] in _FIRST or line[-1] in _LAST or line[:3] in _DAYS or in_log or chat.is_open
        ):
            yield line
        elif _SEPARATOR.fullmatch(line):
            report.removed["separator lines"] += 1
        elif len(line) <= _MAX_FRAME and (frame := _FRAME.fullmatch(line)):
            yield frame[2]
        elif found := log_message(line, in_log=in_log):
            line, reason = found
            report.removed[reason] += 1
            yield line
        else:
            yield chat.clean(line)
