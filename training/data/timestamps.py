"""Patterns of dates and times as chats and logs print them; parts of regular expressions."""

# Marks without width that chat programs put around dates and names
MARKS = "\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"

_MONTHS = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
_WEEKDAYS = "Mon|Tue|Wed|Thu|Fri|Sat|Sun"
DAYS = frozenset(f"{_MONTHS}|{_WEEKDAYS}".split("|"))
_MONTH = rf"(?:{_MONTHS})[a-z]{{0,6}}\.?"
_WEEKDAY = (
    rf"(?:(?:{_WEEKDAYS})[a-z]{{0,6}}\.?,?"
    r"|[（(]?(?:星期|[周週])?[一二三四五六日天][)）]?)"
)
_FULL_DATE = (
    r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|(?:19|20)\d{6}|\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d{2})"
    rf"|\d{{4}}年\d{{1,2}}月\d{{1,2}}[日号]|{_MONTH} {{1,2}}\d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}}"
    rf"|\d{{1,2}}[-/. ]{{1,2}}{_MONTH}[-/,. ]{{1,2}}(?:\d{{4}}|\d{{2}}))"
)
_SHORT_DATE = (
    rf"(?:\d{{1,2}}月\d{{1,2}}[日号]|{_MONTH} \d{{1,2}}|\d{{1,2}} {_MONTH}|\d{{1,2}}[-/]\d\d?)"
)
DATE = rf"(?:{_WEEKDAY}\s?)?{_FULL_DATE}(?:\s?{_WEEKDAY})?"
TIME = (
    r"(?:(?:[上下中]午|凌晨|早上|晚上|傍晚|[AP]M)\s?)?(?<!\d)[0-2]?\d[:：][0-5]\d(?!\d)"
    r"(?:[:：.][0-5]\d(?!\d)(?:[.,]\d{1,9})?)?(?:\s?[AaPp]\.?\s?[Mm]\b\.?)?"
    r"(?:Z(?![A-Za-z])|\s?(?:UTC|GMT|[+-]\d{2}:?\d{2})\b)*(?![:：.,]?\d)"
)
_BETWEEN = r"(?:T|,?\s+(?:at|à|um|om|kl\.?)?\s*|,|\s*[-–|]\s*)?"
# A date with its year and a time, and the same without the year
STAMP = (
    rf"(?:{DATE}{_BETWEEN}{TIME}|{TIME},?\s+{DATE}"
    rf"|(?:{_WEEKDAY}\s)?{_MONTH}\s{{1,2}}\d{{1,2}}\s{TIME}(?:\s[A-Z]{{2,5}})?\s\d{{4}})"
)
SHORT_STAMP = rf"(?:{_SHORT_DATE}{_BETWEEN}{TIME})"
