"""Files as people have them: every encoding, kind and source of text, made of known sentences."""

import csv
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable, Iterable, Sequence
from itertools import islice, product
from textwrap import wrap

import zstandard

WHO = ("My sister", "The old man", "Our teacher", "A tall woman", "The driver", "Nobody")
DID = ("forgot", "bought", "painted", "found", "sold", "wanted")
WHAT = ("the blue bicycle", "a bag of apples", "two tickets", "the kitchen table", "a warm coat")
WHEN = ("before the holidays", "on the way home", "last week, as far as I know", "in the rain")
CHINESE_WHO = ("我妹妹", "那位老人", "我们老师", "隔壁的邻居", "司机师傅", "谁都没有")
CHINESE_DID = ("忘记带", "买了", "修好了", "找到", "卖掉了", "想要")
CHINESE_WHAT = ("蓝色的自行车", "一袋苹果", "两张车票", "厨房的桌子", "一件厚外套")
CHINESE_WHEN = ("在放假以前", "就在回家的路上", "听说是上个星期", "外面正下着雨")
TRADITIONAL = str.maketrans(
    "们师邻机谁没记买卖厨张车听说个带蓝苹两", "們師鄰機誰沒記買賣廚張車聽說個帶藍蘋兩"
)
SENDER = "Wilhelmina B"

# Everything that a file is made of beside its sentences has one of these words.
MARKS = ("quokka", "Wilhelmina", "-->", "http", "2031", "<", "{", "**", "#", "omitted")


def english(count: int, start: int = 0) -> list[str]:
    """Return different sentences, the same for the same numbers."""
    order = product(WHEN, WHAT, DID, WHO)
    return [
        f"{who} {did} {what} {when}."
        for when, what, did, who in islice(order, start, start + count)
    ]


def chinese(count: int, start: int = 0) -> list[str]:
    """Return different sentences, the same for the same numbers."""
    order = product(CHINESE_WHAT, CHINESE_WHEN, CHINESE_DID, CHINESE_WHO)
    return [
        f"{when}，{who}{did}{what}。"
        for what, when, did, who in islice(order, start, start + count)
    ]


def traditional(count: int) -> list[str]:
    """Return Chinese sentences in Traditional writing."""
    return [line.translate(TRADITIONAL) for line in chinese(count)]


def joined(lines: Iterable[str], end: str = "\n") -> str:
    """Return lines as the content of a text file."""
    return "".join(f"{line}{end}" for line in lines)


def table(header: Sequence[str], lines: Sequence[str], delimiter: str = ",") -> str:
    """Return a table with the lines in the second of its columns, and dates and names in others."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(header)
    for number, line in enumerate(lines):
        row = (number, line, f"2031-04-{number % 28 + 1:02} 10:00", f"quokka{number}")
        writer.writerow(row[: len(header)])
    return file.getvalue()


def subtitles(cues: Sequence[str], end: str = "\n") -> str:
    """Return an SRT file; a cue may have several lines."""
    return "".join(
        f"{number}{end}00:{number // 60:02}:{number % 60:02},000 --> 00:59:59,500{end}"
        f"{cue}{end}{end}"
        for number, cue in enumerate(cues, start=1)
    )


def web_subtitles(cues: Sequence[str]) -> str:
    """Return a WebVTT file with a style, a note, speakers and settings of cues."""
    head = "WEBVTT\n\nSTYLE\n::cue { color: quokka }\n\nNOTE by quokka\n\n"
    return head + "".join(
        f"00:{n // 60:02}:{n % 60:02}.000 --> 00:59:59.500 align:start\n<v {SENDER}>{cue}</v>\n\n"
        for n, cue in enumerate(cues)
    )


def markdown(paragraphs: Sequence[str]) -> str:
    """Return a Markdown page with front matter, a heading, code, emphasis, links and wrapping."""
    head = f"---\nauthor: quokka\n---\n\n# {paragraphs[0]}\n\n"
    code = "\n```python\nimport quokka\n```\n\n![](quokka.png)\n"
    body = []
    for number, line in enumerate(paragraphs[1:]):
        first, rest = line.split(" ", 1) if " " in line else (line[:2], line[2:])
        space = " " if " " in line else ""
        styled = (
            line,
            f"**{first}**{space}{rest}",
            f"[{first}](https://quokka.example/{number}){space}{rest}",
            f"- {line}",
            "\n".join(wrap(line, 30)),
        )
        body.append(styled[number % len(styled)])
    return head + "\n\n".join(body) + "\n" + code


def web_page(paragraphs: Sequence[str], charset: str = "utf-8") -> str:
    """Return an HTML page with script, style, navigation, a comment and inline tags."""
    body = "".join(f"<p class='quokka'>{line[:3]}<b>{line[3:]}</b></p>\n" for line in paragraphs)
    return (
        f"<!DOCTYPE html><html><head><meta charset='{charset}'><style>p {{ color: quokka }}</style>"
        "<script>var quokka = '<p>';</script></head><body><nav><a href='/quokka'>quokka</a></nav>"
        f"<!-- quokka -->{body}<footer>quokka</footer></body></html>"
    )


def whatsapp(lines: Sequence[str]) -> str:
    """Return an exported chat with a date, a time and a sender in each line."""
    body = (f"04/{n % 28 + 1:02}/31, 10:{n % 60:02} - {SENDER}: {x}" for n, x in enumerate(lines))
    return joined([*body, f"04/28/31, 23:00 - {SENDER}: <Media omitted>"])


def wechat(lines: Sequence[str]) -> str:
    """Return an exported chat with a date, a time and a sender above each message."""
    return "".join(
        f"2031-04-{n % 28 + 1:02} 10:{n % 60:02}:07 {SENDER}\n{line}\n\n"
        for n, line in enumerate(lines)
    )


def telegram(lines: Sequence[str]) -> str:
    """Return an exported chat as JSON; a text may be a list of plain and formatted parts."""
    messages = [
        {
            "id": number,
            "type": "message",
            "date": "2031-04-01T10:00:00",
            "from": SENDER,
            "text": line if number % 3 else [line[:4], {"type": "bold", "text": line[4:]}],
        }
        for number, line in enumerate(lines)
    ]
    return json.dumps({"name": "quokka", "messages": messages}, ensure_ascii=False, indent=1)


def json_lines(lines: Sequence[str], field: str = "text") -> str:
    """Return an object a line, some of them without text."""
    objects = [
        {"id": f"quokka{number}", field: line, "url": "https://quokka.example"}
        for number, line in enumerate(lines)
    ]
    return joined(json.dumps(each) for each in [*objects, {"id": "quokka", field: None}])


def word_document(paragraphs: Sequence[str]) -> bytes:
    """Return a .docx file."""
    name = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    body = "".join(f"<w:p><w:r><w:t>{line}</w:t></w:r></w:p>" for line in paragraphs)
    content = f'<w:document xmlns:w="{name}"><w:body>{body}</w:body></w:document>'
    return _zipped({"word/document.xml": content})


def electronic_book(paragraphs: Sequence[str]) -> bytes:
    """Return an .epub file of one chapter."""
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="book.opf"/></rootfiles></container>'
    )
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf"><manifest>'
        '<item id="one" href="one.xhtml" media-type="application/xhtml+xml"/></manifest>'
        '<spine><itemref idref="one"/></spine></package>'
    )
    chapter = "".join(f"<p>{line}</p>" for line in paragraphs)
    page = f'<html xmlns="http://www.w3.org/1999/xhtml"><body>{chapter}</body></html>'
    return _zipped({"META-INF/container.xml": container, "book.opf": package, "one.xhtml": page})


def _zipped(entries: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}
PICTURE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 4
