"""Lines of plain text, logs and subtitles to paragraphs and messages.

The first lines decide: subtitles, lines broken at a width, or lines as they are. Lines of chats and
logs become messages.
"""

import re
from collections.abc import Iterator
from itertools import chain, islice

from training.data.chat_lines import ChatFilter, many
from training.data.file_report import FileReport
from training.data.input_files import Kind
from training.data.log_lines import is_log, log_message
from training.data.subtitles import has_times, read_cues
from training.data.timestamps import DAYS, MARKS
from training.data.wrapped_text import join_paragraphs, wrapped_width

_FIRST_LINES = 1000
_MAX_CHARACTERS = 3000  # of a message
_SEPARATOR = re.compile(r"(?=.*?(.)\s*\1\s*\1)[\W_]+")
# Of a log that is one of a chat: a sender in angle brackets, or an event
_CHAT = re.compile(r"[\d\[][\w\]:, /.-]*\s(?:<[^<>\s]{1,40}>|-!-|\*{1,3}|-->|<--)\s")
# Outside chats and logs, lines that begin and end otherwise have no header, prefix or separator.
_FIRST = frozenset("0123456789[(<{【-=_*~#+.·•—–─━═■◆★☆>|/\\上下中凌早晚周週星消" + MARKS)
_LAST = frozenset("0123456789Mm])】:：-=_*~#+—─━═>")


def read_plain(lines: Iterator[str], report: FileReport, kind: Kind) -> Iterator[str]:
    """Read the paragraphs of plain text, or the messages of a chat, a log or subtitles."""
    first = list(islice(lines, _FIRST_LINES))
    lines = chain(first, lines)
    shown = [line for line in first if line and not line.isspace()]
    if kind in ("srt", "vtt") or has_times(shown):
        return read_cues(lines, report)
    if kind != "log" and (width := wrapped_width(first)):
        return join_paragraphs(lines, width)
    in_log = (kind == "log" and not many(_CHAT, shown)) or is_log(shown)
    return _messages(lines, report, ChatFilter(shown, report), in_log=in_log)


def _messages(
    lines: Iterator[str], report: FileReport, chat: ChatFilter, *, in_log: bool
) -> Iterator[str]:
    for line in lines:
        if not 0 < len(line) <= _MAX_CHARACTERS or not (
            line[0] in _FIRST or line[-1] in _LAST or line[:3] in DAYS or in_log or chat.is_open
        ):
            yield line
        elif _SEPARATOR.fullmatch(line):
            report.removed["separator lines"] += 1
        elif found := log_message(line, in_log=in_log):
            line, reason = found
            report.removed[reason] += 1
            yield line
        else:
            yield chat.clean(line)
