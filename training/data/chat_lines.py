"""Lines of chats to messages: times, senders, notices and placeholders go.

A time with a date, in brackets, with seconds and a sender, or with a sender in angle brackets is
always a header. A bare time, as in "10:15 Lunch", and a name with one, are headers only if the text
begins with many.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

from training.data.file_report import FileReport
from training.data.timestamps import DATE, MARKS, SHORT_STAMP, STAMP, TIME

# Lines after a header that belong to the chat
_OPEN_LINES = 50
_NAME = r"[^\s:：。！？!?；;<>\[\]][^:：。！？!?；;<>\[\]\n]{0,48}?"
_WORD = r"[^\s:：。！？!?；;<>\[\]]{1,30}?"  # of a name
_ACCOUNT = r"(?:\s?(?:\(\d{4,12}\)|<[\w.@+-]+>|\([\w.+-]+@[\w.-]+\)))"
_COLON = r"\s?(?:：\s*|:(?=\s|$|[^\0-\x7f])\s*)"
_DAY = r"(?:[Tt]oday|[Yy]esterday|今天|昨天|前天|(?:星期|[周週])[一二三四五六日天])(?: at|,)? ?"
_ANY_TIME = rf"(?:{STAMP}|{SHORT_STAMP}|{TIME})"

_CERTAIN = re.compile(
    rf"(?:[\[(【<]\s*(?:{STAMP}|{TIME})\s*[\])】>]|{STAMP}(?![^\W_]|[,，。.、]))[:：]?(?P<dash>\s[-–—]\s)?\s*"
)
_BARE = re.compile(rf"(?:{SHORT_STAMP}|{TIME})(?=\s)(?P<dash>\s[-–—|])?\s+")
_NICK = re.compile(r"<[^<>\s][^<>]{0,40}>\s+|[^\t]{1,50}\t")
_SENDER = re.compile(rf"(?:~\s?)?{_NAME}{_ACCOUNT}?{_COLON}")
_SHORT_SENDER = re.compile(rf"[^\s\d:：,，;<>\[\]]{{1,25}}(?: [^\s:：,，;<>\[\]]{{1,25}})?{_COLON}")
_NAME_LINE = re.compile(rf"(?:(?:~\s?)?{_NAME}{_ACCOUNT}?)?$")
_EVENT = re.compile(
    r"(?:-!-|\*{3}|-->|<--|--)\s.*|\* \S+ (?:has|is now known|sets? mode|joined|left|quit)\b.*"
)
_NAME_FIRST = re.compile(
    rf"(?P<name>{_WORD}(?: {_WORD}){{0,3}}?){_ACCOUNT}?"
    rf"(?:\s?[\[(（]\s?{_ANY_TIME}\s?[\])）]{_COLON}"
    rf"|(?:\s?[,，:：—–-]\s?|\s+|(?<=[】)）]))[\[(]?"
    rf"(?:{STAMP}|{SHORT_STAMP}|{_DAY}{TIME}|(?P<time>{TIME}))[\])]?[:：]?$)"
)
_TITLE = re.compile(r"消息(?:记录（此|分组[:：]|对象[:：]).*|--- (?:Log|Day) [a-z]+ .*")
# Messages that stand for something else than text
_NOTICE = re.compile(
    rf"[-—=*\s]*(?:{DATE}|{_ANY_TIME}|{_DAY}(?:{TIME})?)[-—=*\s]*"
    r"|日期[:：]\s*\d{4}.*|.{0,40}(?:撤回了一条消息|加入了?群聊|移出了?群聊|修改群名为|领取了.{0,20}红包).*"
    r"|<[^<>]{3,60}>|[\[【][^\[\]【】]{1,12}[\]】]|\(?[\w ]{2,30} omitted\)?|null"
    r"|.{0,40}(?:message was deleted|deleted this message)\.?|Missed .{0,12}(?:voice|video) call.*"
    r"|.+\(file attached\)|.{0,60}(?:end-to-end encrypted|端[到对]端加密).*"
)
# Pictures of faces and things between words, and remarks on a message
_INLINE = re.compile(
    r"\[(?:[\u4e00-\u9fff]{1,5}|[A-Z][A-Za-z]{1,12})\]|\s*<This message was edited>"
)


def many(pattern: re.Pattern[str], lines: Sequence[str]) -> bool:
    """Return True if several lines, and a good share, begin with a pattern."""
    count = sum(bool(pattern.match(line)) for line in lines)
    return count >= 4 and count >= 0.3 * len(lines)


class ChatFilter:
    """Headers of a chat, recognised line by line."""

    def __init__(self, first_lines: Sequence[str], report: FileReport) -> None:
        self._removed = report.removed
        self._open_lines = 0
        lines = [line.strip(MARKS + " ") for line in first_lines]
        self._bare, self._nicks = many(_BARE, lines), many(_NICK, lines)
        names = [match for match in map(_NAME_FIRST.match, lines) if match]
        timed = [match["name"] for match in names if match["time"]]
        self._name_and_stamp = len(names) - len(timed) >= 2
        self._name_and_time = len(timed) >= 3 and len(set(timed)) <= 0.7 * len(timed)
        # Names alone follow the times if most of the next lines have no time.
        begins = [bool(_CERTAIN.match(line)) for line in lines]
        alone = sum(first and not second for first, second in pairwise(begins))
        self._own_line = alone >= max(2, 0.7 * sum(begins) - 1)

    @property
    def is_open(self) -> bool:
        """Return True if any line may have a header, or be part of a message."""
        return self._open_lines > 0 or self._name_and_stamp

    def clean(self, line: str) -> str:
        """Return the message in a line, without header; empty without one."""
        text = line.strip(MARKS + " \t")
        if (message := self._message(text)) is not None:
            self._open_lines = _OPEN_LINES
            self._removed["chat headers"] += 1
            text = message.strip(MARKS + " \t")
        if not self._open_lines:
            return line
        self._open_lines -= 1
        if _NOTICE.fullmatch(text):
            self._removed["chat notices"] += 1
            return ""
        return _INLINE.sub("", text) if "[" in text or "<" in text else text

    def _message(self, text: str) -> str | None:
        """Return the rest of a line with a header; None for another line."""
        if _TITLE.fullmatch(text):
            return ""
        if self._name_and_time or self._name_and_stamp:
            named = _NAME_FIRST.match(text)
            if named and (self._name_and_time if named["time"] else self._name_and_stamp):
                return text[named.end() :]
        match = _CERTAIN.match(text) or _BARE.match(text)
        if match is None:
            nick = _NICK.match(text) if self._nicks else None
            return text[nick.end() :] if nick else None
        rest = text[match.end() :].lstrip(MARKS)
        is_bare = match.re is _BARE
        has_seconds = match[0].count(":") > 1
        sender = _NICK.match(rest) or (
            _SHORT_SENDER if is_bare and not has_seconds else _SENDER
        ).match(rest)
        is_event = _EVENT.fullmatch(rest)
        if is_bare and not (
            self._bare
            or is_event
            or (sender and (match["dash"] or has_seconds or sender.re is _NICK))
        ):
            return None
        if is_event or (not sender and match["dash"]):
            return ""
        if sender:
            return rest[sender.end() :]
        if self._own_line and not is_bare and _NAME_LINE.match(rest):
            return ""
        return rest.removeprefix("* ")
