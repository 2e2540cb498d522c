"""Lines of logs to their messages: timestamps, levels, modules and process numbers go."""

import re
from collections.abc import Sequence

from training.data.timestamps import SHORT_STAMP, STAMP, TIME

_LEVEL = r"(?:TRACE|DEBUG|INFO|NOTICE|WARN(?:ING)?|ERR(?:OR)?|FATAL|CRITICAL|SEVERE|ALERT|VERBOSE)"
_ACCESS = re.compile(r"\S+ \S+ \S+ \[\d{1,2}/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] \"")
_TRACE = re.compile(
    r"\s*(?:at [\w.$<>/]+\(.*\)|File \".*\", line \d+.*|Traceback \(most recent call last\):"
    r"|\.{3} \d+ (?:more|common frames omitted))$"
)
# What may stand between the time of a line and its message: levels, numbers, groups in brackets,
# names with several dots, and names before a colon, a dash or a bar
_JUNK = (
    rf"(?:\s*(?:[-|:]+(?=\s)|\[[^\[\]]{{0,80}}\]:?|\(\w[\w.:/$-]{{0,60}}\)"
    rf"|{_LEVEL}\b:?(?=\s|$|[\[(|-])|(?:\w+\s+)?\d+\s+\d+(?=\s)|\*?\d+(?:#\d+)?:?(?=\s)"
    r"|[A-Za-z_$][\w$]*(?:\.[\w$]+){2,}(?=\s)"
    r"|[A-Za-z_$][\w$./:-]{0,80}(?:\[\d+\]|\([\w.:-]*\))?\s*(?::|\s-|\|)(?=\s)))*\s*"
)
_SYSLOG = re.compile(
    r"(?:<\d{1,3}>(?:\d\s)?)?(?:[A-Z][a-z]{2}\s{1,2}\d{1,2}\s\d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\S{8,30})"
    r"\s[\w.:-]+\s(?:[\w./-]+(?:\[\d+\])?:\s|\S+\s\S+\s\S+\s(?:-\s|\[.*?\]\s))\s*"
)
_LEVELLED = re.compile(
    rf"[\[(<]?(?:{STAMP}|{SHORT_STAMP}|{TIME})[\])>]?(?=\W)"
    rf"(?=.{{0,80}}?(?:\b{_LEVEL}\b|[\[/](?i:{_LEVEL})\])){_JUNK}"
)
_IN_LOG = re.compile(
    rf"[\[(<]?{STAMP}[\])>]?(?=\W|$){_JUNK}|(?:\[{_LEVEL}\s?\]:?\s|{_LEVEL}(?::\s?(?:[\w.]+:)?"
    rf"|\s+[-|]\s|\s+(?={STAMP}|\[)))\s*(?:{STAMP})?{_JUNK}"
)


def is_log(lines: Sequence[str]) -> bool:
    """Return True if many lines of a text are certainly those of a log."""
    count = sum(log_message(line, in_log=False) is not None for line in lines)
    return count >= 3 and count >= 0.3 * len(lines)


def log_message(line: str, *, in_log: bool) -> tuple[str, str] | None:
    """Return the message of a log line and the reason of the removal; None for another line.

    Outside a log, only lines with time and level count, and those of system and web servers.

    >>> log_message("2023-01-02 10:22:33,123 - app.main - INFO - ready", in_log=False)
    ('ready', 'log prefixes')
    """
    if _ACCESS.match(line):
        return "", "access log lines"
    if in_log and _TRACE.match(line):
        return "", "stack traces"
    match = (
        _SYSLOG.match(line) or _LEVELLED.match(line) or (_IN_LOG.match(line) if in_log else None)
    )
    return (line[match.end() :], "log prefixes") if match else None
