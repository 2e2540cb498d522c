"""The columns of a table, or members of JSON objects, that hold text."""

import html
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import IncrementalNewlineDecoder
from typing import TypeVar

from model.errors import CorpusError
from model.text import HAN
from training.data.cleaning import ENDS_SENTENCE
from training.data.file_report import FileReport
from training.data.html_text import read_html

# The fields are chosen in as many records, or fewer that hold as many characters.
SAMPLE_RECORDS = 1000
SAMPLE_CHARACTERS = 4 << 20
# A longer cell or record is an error.
MAX_RECORD_CHARACTERS = 32 << 20

_EXAMINED_CHARACTERS = 500  # of a cell
_CHARACTERS_PER_WORD = 1.6  # of text without spaces
# Mean words of a cell: of any field with text, of one that is named for it or has sentences, of
# one that is named for something else, and of long texts, which may repeat.
_WORDS, _WORDS_IF_TEXT, _WORDS_IF_OTHER, _WORDS_IF_LONG = 3, 1, 8, 12
_MIN_CELLS = 3
_DISTINCT, _DISTINCT_IF_LONG = 0.3, 0.03

_UNSPACED = re.compile(f"[{HAN}\u3040-\u30ff]")
_WORD = re.compile(
    r"(?<![^\s\"“‘'(\[])[^\W\d_]+(?:['’-][^\W\d_]+)*(?![^\s\"”’')\].,;:!?…])", re.UNICODE
)
_DIGIT = re.compile(r"\d")
# A link, a path, an address, or JSON
_NO_TEXT = re.compile(
    r"(?:\w+://|www\.)\S+|[/~.]?(?:/[\w.-]+)+/?|\S+@\S+\.\S+|[\[{].*[\]}]", re.DOTALL
)
_EMPTY = frozenset(("", "NULL", "null", "NaN", "nan", "N/A", "\\N", "#N/A"))
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[\da-f]{1,6}|[a-z]{2,8});", re.IGNORECASE)
# A picture, a deleted message, a card of a chat
_PLACEHOLDER = re.compile(r"\s*(?:[\[【][^\[\]【】]{1,20}[\]】]|<[^<>]{1,30}>)\s*")
_XML = ("<?xml", "<msg")
_TEXT_NAME = re.compile(
    r"(?:text|content|message|msg|body|comment|review|summary|description|question|answer|prompt"
    r"|response|completion|instruction|input|output|sentence|paragraph|article|caption|dialogue?"
    r"|utterance|transcript|lyrics|quote|note|abstract|reply|chosen|context|passage)s?\d*$"
    r"|(?:正文|内容|文本|消息|信息|评[论价]|描述|问题|回答|答案|句子|[原译]文|备注|留言|[对對][话話])$",
    re.IGNORECASE,
)
_OTHER_NAME = re.compile(
    r"(?:^|[^A-Za-z]|[a-z](?=[A-Z]))(?:u?u?id|ur[li]|link|date|day|time|timestamp|count|type"
    r"|lang|language|label|category|tag|author|user|(?:user|nick)?name|sender|recipient|from|to"
    r"|role|speaker|e?mail|phone|address|city|country|status|path|file|hash|model|version|score"
    r"|rating|price|platform|device|location|place)s?\d*$"
    r"|(?:编号|姓名|名称|名字|昵称|发送[者人]|作者|用户|时间|日期|地址|[类分]别|类型|分类|标签|链接|网址"
    r"|电话|手机|邮箱|城市|省份|状态|来源|店铺|价格|评分|号码?)$",
    re.IGNORECASE,
)

Record = TypeVar("Record")


def take_sample(records: Iterator[Record], size: Callable[[Record], int]) -> list[Record]:
    """Return the first records, from which the fields are chosen; *size* counts characters."""
    sample: list[Record] = []
    characters = 0
    for record in records:
        sample.append(record)
        characters += size(record)
        if len(sample) >= SAMPLE_RECORDS or characters > SAMPLE_CHARACTERS:
            break
    return sample


def physical_lines(text: Iterable[str], path: str) -> Iterator[str]:
    """Yield lines, whose end is LF whatever it was; a cell may go on in the next."""
    newlines = IncrementalNewlineDecoder(None, translate=True)
    pending = ""
    for chunk in text:
        *lines, pending = (pending + newlines.decode(chunk)).split("\n")
        yield from (f"{line}\n" for line in lines)
        if len(pending) > MAX_RECORD_CHARACTERS:
            raise CorpusError(
                f"{path}: a line above {MAX_RECORD_CHARACTERS} characters; if it is plain text,"
                " name the file .txt"
            )
    if pending:
        yield pending


def choose_fields(cells: Iterable[tuple[str, str]], report: FileReport) -> list[str]:
    """Return the names of the fields that hold text, given names and contents of cells.

    Names, dates, labels, links and numbers do not count. If no field has sentences, the one with
    most words is returned, with a warning; without words, an empty list.
    """
    fields = defaultdict[str, list[str]](list)
    for name, cell in cells:
        cell = cell.strip()[:_EXAMINED_CHARACTERS]
        if cell not in _EMPTY and not _PLACEHOLDER.fullmatch(cell):
            fields[name].append(cell)
    if chosen := [name for name, found in fields.items() if is_text(name, found)]:
        return chosen
    counts = {name: [_count_words(cell) for cell in found] for name, found in fields.items()}
    words = {
        name: sum(counts[name]) * len(set(found)) / len(found)
        for name, found in fields.items()
        if 2 * sum(map(bool, counts[name])) > len(found)
        and (len(fields) == 1 or (len(set(found)) > 1 and not _OTHER_NAME.search(name)))
    }
    best = max(words, key=lambda name: words[name], default="")
    if not best:
        return []
    report.warnings.append(f"no field has sentences; {best!r} was read, as it has most words")
    return [best]


def is_text(name: str, cells: Sequence[str]) -> bool:
    """Return if most cells of a field are text rather than names, dates, addresses or labels."""
    cells = list(filter(None, cells))
    if not cells:
        return False
    words = sum(map(_count_words, cells)) / len(cells)
    different = len(set(cells))
    sentences = sum(bool(ENDS_SENTENCE.search(cell)) for cell in cells)
    digits = [len(_DIGIT.findall(cell)) for cell in cells]
    is_numbered = sum(map(bool, digits)) >= 0.9 * len(cells)  # dates, addresses
    is_numbered = is_numbered and sum(digits) > 0.06 * sum(map(len, cells))
    least: float = _WORDS
    if _OTHER_NAME.search(name):
        least = _WORDS_IF_OTHER
    elif _TEXT_NAME.search(name) or 2 * sentences > len(cells):
        least = _WORDS_IF_TEXT
    elif is_numbered:
        least = _WORDS_IF_OTHER
    repeats = words >= _WORDS_IF_LONG or least < _WORDS
    return (
        words >= least
        and different >= (_DISTINCT_IF_LONG if repeats else _DISTINCT) * len(cells)
        and (different > 1 or len(cells) < _MIN_CELLS)
    )


def _count_words(cell: str) -> float:
    if _NO_TEXT.fullmatch(cell):
        return 0
    spaced, unspaced = _UNSPACED.subn(" ", cell)
    words = _WORD.findall(spaced)
    count = len(words) + unspaced / _CHARACTERS_PER_WORD
    # A name rather than a sentence
    is_name = words and not unspaced and all(word[0].isupper() for word in words)
    return count / 2 if is_name and cell[-1] not in ".!?" else count


def text_lines(cell: str, report: FileReport) -> list[str]:
    """Return the lines of a cell's text, without HTML; none of an empty cell."""
    if "&" in cell:
        cell = _ENTITY.sub(lambda entity: html.unescape(entity[0]), cell)
    if cell[:1] in "[【<" and (_PLACEHOLDER.fullmatch(cell) or cell.startswith(_XML)):
        report.removed["placeholders"] += 1
        return []
    if "</" in cell or "<br" in cell:
        cell = "\n".join(read_html((cell,), report))
    if cell in _EMPTY:
        return []
    return [line for line in cell.split("\n") if line and not line.isspace()]


def is_field_name(name: str) -> bool:
    """Return if a cell is a usual name of a field, such as ``content`` or ``user_id``."""
    return bool(_TEXT_NAME.search(name) or _OTHER_NAME.search(name))


def unknown_field(field: str, names: Iterable[str], report: FileReport) -> CorpusError:
    """Return the error of a field that occurs nowhere; it lists some that occur."""
    listed = [repr(name) for name in names]
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    known = f"there are {', '.join(listed[:5])}{more}" if listed else "there are no fields"
    return CorpusError(
        f"{report.path}: no text in a field {field!r}; {known}: choose one by --field NAME"
    )
