"""Lines of chats to what was written: times, senders, events and placeholders go.

Forms with a date and a time, with a time in brackets, or with a time and a sender in angle brackets
are always headers. A bare time, as in "10:15 Lunch", is one only if the text begins with many.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from training.data.file_report import FileReport
from training.data.timestamps import DATE, MARKS, SHORT_STAMP, STAMP, TIME

HEADERS, EVENTS, PLACEHOLDERS = "chat headers", "chat events", "chat placeholders"
# Shares of the first lines from which a bare form counts as a header
_MIN_SHARE = 0.3
_MIN_LINES = 4
_OPEN_LINES = 50

_NAME = r"[^\s:：。！？!?；;<>\[\]][^:：。！？!?；;<>\[\]\n]{0,48}?"
_COLON = r"(?:：\s*|:(?=\s|$|[^\0-\x7f])\s*)"
_ACCOUNT = r"\s?(?:\(\d{4,12}\)|<[\w.@+-]+>|\([\w.+-]+@[\w.-]+\))"
_DAY = r"(?:[Tt]oday|[Yy]esterday|今天|昨天|前天|(?:星期|[周週])[一二三四五六日天])"

_STAMPED = re.compile(
    rf"(?:[\[(【<]\s*{STAMP}\s*[\])】>]|{STAMP}(?![^\W_]|[,，。.、]))[:：]?(?P<dash>\s[-–—]\s)?\s*"
)
_BRACKETED = re.compile(rf"[\[(【]\s*{TIME}\s*[\])】][:：]?\s*")
_BARE = re.compile(rf"(?:{SHORT_STAMP}|{TIME})(?=\s)(?P<dash>\s[-–—|])?\s+")
_TABBED = re.compile(rf"(?:{STAMP}|{TIME})\t(?:(?P<event>-->|<--|--)\t.*|[^\t]{{1,50}}\t)?")
_MEETING = re.compile(rf"{TIME}\s+From\s+.{{1,80}}?\s*:(?=\s)\s*")
_NICK = re.compile(r"<[^<>\s][^<>]{0,40}>\s+")
_IRC = re.compile(r"<[^<>\s][^<>]{0,40}>\s|-!-\s|\*{1,3}\s\S|-->\s|<--\s")
_SENDER = re.compile(rf"(?:~\s?)?{_NAME}{_ACCOUNT}?{_COLON}")
_SHORT_SENDER = re.compile(rf"[^\s\d:：,，;<>\[\]]{{1,25}}(?: [^\s:：,，;<>\[\]]{{1,25}})?{_COLON}")
# With seconds, it needs no others.
_TIMED_SENDER = re.compile(rf"\d\d:\d\d:\d\d\s+{_SHORT_SENDER.pattern}")
_ACCOUNT_LINE = re.compile(rf"\S.{{0,60}}?{_ACCOUNT}$")
_NAME_LINE = re.compile(rf"(?:(?:~\s?)?{_NAME})?$")
_EVENT = re.compile(
    r"(?:-!-|\*{3}|-->|<--|---)\s.*|\* \S+ (?:has|is now known|sets? mode|joined|left|quit)\b.*"
    r"|\S+ (?:\[\S+@\S+\]|\(\S+@\S+\)) has (?:joined|left|quit)\b.*"
)
_NAMED_STAMP = re.compile(
    rf"(?P<name>{_NAME}){_ACCOUNT}?(?:\s?[,，:：—–-]\s?|\s+|(?<=[】)）]))[\[(]?"
    rf"(?:{STAMP}|{SHORT_STAMP}|{_DAY}(?: at|,)? ?{TIME})[\])]?[:：]?$"
)
_NAMED_TIME = re.compile(
    rf"(?P<name>{_NAME})(?:{_ACCOUNT})?(?:\s?[,，—–-]\s?|\s+)[\[(]?{TIME}[\])]?[:：]?$"
)
_NAMED_TEXT = re.compile(
    rf"{_NAME}\s?[\[(（]\s?(?:{STAMP}|{SHORT_STAMP}|{TIME})\s?[\])）]\s?{_COLON}"
)
_DATE_LINE = re.compile(
    rf"[-—=*\s]*(?:{DATE}|{STAMP}|{SHORT_STAMP}|{_DAY}(?:\s?{TIME})?)[-—=*\s]*$"
)
_TITLE = re.compile(
    r"消息(?:记录（此|分组[:：]|对象[:：]).*|--- (?:Log|Day) (?:opened|closed|changed) .*"
)
_NOTICE = re.compile(
    r"日期[:：]\s*\d{4}.*|.{0,40}撤回了一条消息.*|.{0,40}加入了?群聊.*"
    r"|.{0,60}移出(?:了)?群聊.*|你已添加了.{0,40}现在可以开始聊天了.*|以上是打招呼的内容|.{0,30}拍了拍.{0,30}"
    r"|.{0,40}领取了.{0,20}红包.*|.{0,40}修改群名为.*"
)
# Messages that stand for something else than text
_PLACEHOLDER = re.compile(
    r"<[^<>]{3,60}>|[\[【][^\[\]【】]{1,12}[\]】](?:\s*\S+\.\w{2,4})?|null"
    r"|\(?[\w ]{2,30} omitted\)?|.{1,80}\.\w{2,4} \(file attached\)"
    r"|.{0,40}\bmessage was deleted\.?|.{0,20}deleted this message\.?"
    r"|[Mm]issed (?:group )?(?:voice|video) call.*"
    r"|.{0,60}end-to-end encrypted.*|.{0,30}端[到对]端加密.*"
)
# Pictures of faces and things between words, and remarks on a message
_INLINE = re.compile(
    r"\[(?:[\u4e00-\u9fff]{1,5}|[A-Z][A-Za-z]{1,12})\]"
    r"|\s*<(?:This message was edited|此消息已编辑)>"
)


def is_chat(lines: Sequence[str]) -> bool:
    """Return True if many lines have a time and a sender in angle brackets or tabs."""
    return _many(re.compile(rf"\[?(?:{STAMP}|{TIME})\]?(?:\s+{_IRC.pattern}|\t)"), lines)


class ChatFilter:
    """Headers of a chat, recognised line by line."""

    def __init__(self, first_lines: Sequence[str], report: FileReport) -> None:
        self._removed = report.removed
        self._open_lines = 0  # lines that are part of the chat even without a header
        lines = [line.strip(MARKS + " ") for line in first_lines if line.strip()]
        self._bare = _many(_BARE, lines)
        self._nicks = _many(_NICK, lines)
        self._named_stamp = sum(bool(_NAMED_STAMP.match(line)) for line in lines) >= 2
        names = Counter(match["name"] for match in map(_NAMED_TIME.match, lines) if match)
        self._named_time = names.total() >= 3 and len(names) <= 0.7 * names.total()
        self._named_text = sum(bool(_NAMED_TEXT.match(line)) for line in lines) >= 2
        self._own_line = _headers_stand_alone(lines)

    @property
    def is_open(self) -> bool:
        """Return True if any line may have a header, or be part of a message."""
        return self._open_lines > 0 or self._named_text

    def clean(self, line: str) -> str:
        """Return what was written in a line, without header; empty if nothing was."""
        text = line.strip(MARKS + " \t")
        if (header := self._header(text)) is not None:
            self._open_lines = _OPEN_LINES
            reason, text = header
            self._removed[reason] += 1
        if not self._open_lines:
            return line
        self._open_lines -= 1
        return self._message(text)

    def _header(self, text: str) -> tuple[str, str] | None:
        """Return the kind of header that a line has, and the rest of the line; None without one."""
        if _TITLE.fullmatch(text):
            return EVENTS, ""
        if (self._named_stamp and _NAMED_STAMP.match(text)) or (
            self._named_time and _NAMED_TIME.match(text)
        ):
            return HEADERS, ""
        if match := _MEETING.match(text) or (self._named_text and _NAMED_TEXT.match(text)):
            return HEADERS, text[match.end() :]
        if match := _TABBED.match(text):
            return EVENTS if match["event"] else HEADERS, text[match.end() :]
        match = _STAMPED.match(text) or _BRACKETED.match(text)
        if match is None:
            bare = _BARE.match(text)
            if bare is None:
                nick = _NICK.match(text) if self._nicks else None
                return (HEADERS, text[nick.end() :]) if nick else None
            if not (
                self._bare
                or _IRC.match(text, bare.end())
                or _TIMED_SENDER.match(text)
                or (bare["dash"] and _SHORT_SENDER.match(text, bare.end()))
            ):
                return None
            match = bare
        rest = text[match.end() :].lstrip(MARKS)
        if _EVENT.fullmatch(rest):
            return EVENTS, ""
        short = match.re is _BARE
        if nick := _NICK.match(rest) or (_SHORT_SENDER if short else _SENDER).match(rest):
            return HEADERS, rest[nick.end() :]
        if match.re is _STAMPED and match["dash"]:
            return EVENTS, ""
        if _ACCOUNT_LINE.match(rest) or (self._own_line and not short and _NAME_LINE.match(rest)):
            return HEADERS, ""
        return HEADERS, rest.removeprefix("* ")

    def _message(self, text: str) -> str:
        text = text.strip(MARKS + " \t")
        if not text:
            return text
        if _NOTICE.fullmatch(text):
            self._removed[EVENTS] += 1
            return ""
        if _DATE_LINE.match(text):
            self._removed[HEADERS] += 1
            return ""
        if _PLACEHOLDER.fullmatch(text):
            self._removed[PLACEHOLDERS] += 1
            return ""
        if "[" in text or "<" in text:
            text, count = _INLINE.subn("", text)
            if count:
                self._removed[PLACEHOLDERS] += count
        return text


def _many(pattern: re.Pattern[str], lines: Sequence[str]) -> bool:
    count = sum(bool(pattern.match(line)) for line in lines)
    return count >= _MIN_LINES and count >= _MIN_SHARE * len(lines)


def _headers_stand_alone(lines: Sequence[str]) -> bool:
    """Return True if most lines with a time are short, and the next line has none."""
    begins = [bool(_STAMPED.match(line) or _BRACKETED.match(line)) for line in lines]
    headers = sum(begins)
    alone = sum(
        first and not second and len(line) < 80
        for (first, second), line in zip(pairwise(begins), lines, strict=False)
    )
    return headers >= 2 and alone >= 0.7 * headers
