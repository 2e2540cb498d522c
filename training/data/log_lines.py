"""Lines of logs to their messages: timestamps, levels, modules and process numbers go."""

import json
import re
from collections.abc import Sequence

from training.data.timestamps import LEVEL, SHORT_STAMP, STAMP, TIME

_ACCESS = re.compile(r"""\S+ \S+ \S+ \[\d{1,2}/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] ["']""")
_TRACE = re.compile(
    r"\s*(?:at [\w.$<>/]+\(.*\)|File \".*\", line \d+.*|Traceback \(most recent call last\):"
    r"|\.{3} \d+ (?:more|common frames omitted)"
    r"|(?:Caused by: )?[\w$]+(?:\.[\w$]+)+(?:Exception|Error)\b.*)$"
)
# What may stand between the time of a line and its message
_JUNK = (
    rf"(?:\s*(?:[-|:]+(?=\s)|\[[^\[\]]{{0,80}}\]:?|\(\w[\w.:/$-]{{0,60}}\)|{LEVEL}\b:?(?=\s|$|[\[(|-])"
    r"|(?:\w+\s+)?\d+\s+\d+(?=\s)|std(?:out|err)\s[FP](?=\s)|\d+(?:\#\d+)?:?(?=\s)|\*\d+(?=\s)|[A-Za-z_$][\w$]*(?:\.[\w$]+){2,}(?=\s)"
    r"|[A-Za-z_$][\w$./:-]{0,80}(?:\[\d+\]|\([\w.:-]*\))?\s*(?::|\s-|\|)(?=\s)))*\s*"
)
_SYSLOG = (
    r"(?:<\d{1,3}>(?:\d\s)?)?(?:[A-Z][a-z]{2}\s{1,2}\d{1,2}\s\d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\S{8,30})\s"
    r"[\w.:-]+\s(?:[\w./-]+(?:\([\w-]+\))?(?:\[\d+\])?:\s|\S+\s\S+\s\S+\s(?:-\s|\[.*?\]\s))"
)
_GLOG = r"[IWEFD]\d{4}\s\d\d:\d\d:\d\d\.\d+\s+\d+\s[\w./-]+:\d+\]\s?"
_ANDROID = (
    r"\d\d-\d\d\s\d\d:\d\d:\d\d\.\d+\s+\d+\s+\d+\s[VDIWEF]\s[^:]{1,60}:\s"
    r"|[VDIWEF]/[^:(]{1,60}\(\s*\d+\):\s"
)
_KERNEL = r"\[\s*\d{1,7}\.\d{6}\]\s"
_FORMAT = re.compile(rf"(?:{_SYSLOG}|{_GLOG}|{_ANDROID}|{_KERNEL})\s*")
_LEVELLED = re.compile(
    rf"[\[(<]?(?:{STAMP}|{SHORT_STAMP}|{TIME})[\])>]?(?=\W)(?=.{{0,80}}?(?:\b{LEVEL}\b|[\[/](?i:{LEVEL})\])){_JUNK}"
)
_STAMPED = re.compile(rf"[\[(<]?{STAMP}[\])>]?(?=\W|$){_JUNK}")
_LEVEL_FIRST = re.compile(
    rf"(?:\[{LEVEL}\s?\]:?\s|{LEVEL}(?::\s?(?:[\w.]+:)?|\s+[-|]\s|\s+(?={STAMP}|\[)))\s*(?:{STAMP})?{_JUNK}"
)
_LOGFMT = re.compile(
    r"(?:\w+=\S+ )*?(?:time|ts|level|lvl)=.*?\b(?:msg|message)=(\"(?:[^\"\\]|\\.)*\"|\S+)"
)
_MESSAGES = ("msg", "message", "text", "event", "log")


def is_log(lines: Sequence[str]) -> bool:
    """Return True if many lines of a text are certainly those of a log."""
    count = sum(log_message(line, in_log=False) is not None for line in lines)
    return count >= 3 and count >= 0.3 * len(lines)


def log_message(line: str, *, in_log: bool) -> tuple[str, str] | None:
    """Return the message of a log line and the name of what was removed; None for another line.

    Outside a log, only lines with time and level count, and those of well-known formats.

    >>> log_message("2023-01-02 10:22:33,123 - app.main - INFO - ready", in_log=False)
    ('ready', 'log prefixes')
    """
    if _ACCESS.match(line):
        return "", "access log lines"
    match = _FORMAT.match(line) or _LEVELLED.match(line)
    if match is None and in_log:
        if _TRACE.match(line):
            return "", "stack traces"
        if line.startswith("{") and (message := _json_message(line)) is not None:
            return message, "log prefixes"
        if pairs := _LOGFMT.match(line):
            return pairs[1].strip('"').replace('\\"', '"'), "log prefixes"
        match = _LEVEL_FIRST.match(line) or _STAMPED.match(line)
    return (line[match.end() :], "log prefixes") if match else None


def _json_message(line: str) -> str | None:
    """Return the message of a line that is a JSON object; None for another line."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    found = (record.get(name) for name in _MESSAGES)
    return next((text for text in found if isinstance(text, str)), "")
