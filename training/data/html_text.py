"""HTML to paragraphs: what a reader reads, without navigation, scripts and code."""

import codecs
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser

from model.text import HAN
from training.data.file_report import FileReport

Attributes = list[tuple[str, str | None]]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Elements that are removed with all that is in them; also by a word of class, identifier or role
_REMOVED = {
    **dict.fromkeys(
        _names("script style template noscript head svg math object iframe"), "scripts"
    ),
    **dict.fromkeys(_names("nav header footer aside menu dialog"), "navigation"),
    **dict.fromkeys(_names("form button select textarea label"), "forms"),
    **dict.fromkeys(_names("rt rp"), "markup"),
}
_NAVIGATION = re.compile(
    r"nav(bar|igation)?|menu|breadcrumbs?|sidebar|banner|contentinfo|complementary|search|toc"
    r"|reference|mw-editsection|noprint|pagination|ads?|share|social|related|skip-link"
    r"|(cookie|advert|newsletter|subscribe).*"
)
_VOID = _names("area base br col embed hr img input link meta param source track wbr")
# Any other element ends a line.
_INLINE = _names(
    "a abbr acronym b bdi bdo big cite code data del dfn em font i img ins kbd mark q rb ruby s"
    " samp script small span strike strong style sub sup template time tt u var wbr rt rp"
)
_REPEATED = _names("p li dt dd tr td th")  # ended by the next
_MAX_DEPTH = 1000  # deeper elements are not followed
_MAX_LINE_CHARACTERS = 1 << 16
_LINK_CHARACTERS = 25  # a shorter line that is all link is navigation

_CHARSET = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]+)"
    rb"|^\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]+)",
    re.IGNORECASE,
)
# What browsers take these names for; a declaration that can be read is not in UTF-16
_CHARSETS = {
    **dict.fromkeys(("gb2312", "gbk"), "gb18030"),
    **dict.fromkeys(("iso8859-1", "ascii"), "cp1252"),
    **dict.fromkeys(("utf-16", "utf-16-le", "utf-16-be"), "utf-8"),
}
_CODE_MARK = re.compile(r"[{}\[\]()<>=;_#$\\|/*&^%~+]")
_SENTENCE_END = re.compile(r"[.!?][\"'”’)]?(?:\s|$)|[。！？]")
_UNSPACED = f"{HAN}\u3000-\u30ff\uff00-\uff60"
_UNSPACED_BREAK = re.compile(f"(?<=[{_UNSPACED}])\\s*\\n\\s*(?=[{_UNSPACED}])")


def html_charset(head: bytes) -> str | None:
    """Return the encoding that the first bytes of a page declare, as a browser reads it."""
    if not (found := _CHARSET.search(head[:4096])):
        return None
    try:
        name = codecs.lookup((found[1] or found[2]).decode("ascii", "replace")).name
    except LookupError:
        return None
    return _CHARSETS.get(name, name)


def read_html(text: Iterable[str], report: FileReport) -> Iterator[str]:
    """Read the paragraphs of a page that comes in chunks, cut anywhere."""
    reader = _Reader(report.removed)
    for chunk in text:
        reader.feed(chunk)
        yield from reader.take_lines()
    reader.close()
    reader.end_block()
    yield from reader.take_lines()


def one_line(text: str) -> str:
    """Join lines: Chinese without a space, anything else with one."""
    return " ".join(_UNSPACED_BREAK.sub("", text.strip()).split())


def _is_prose(text: str) -> bool:
    """Return if preformatted text has sentences and few of the signs of program text."""
    visible = len(text) - sum(map(str.isspace, text))
    return bool(_SENTENCE_END.search(text)) and len(_CODE_MARK.findall(text)) < 0.05 * visible


class _Reader(HTMLParser):
    """Collects lines while markup is fed, and counts removed elements."""

    def __init__(self, removed: Counter[str]) -> None:
        super().__init__(convert_charrefs=True)
        self._removed = removed
        self._open: list[str] = []
        self._counts: Counter[str] = Counter()  # of the open elements
        self._removed_from: int | None = None  # depth of the element that is removed
        self._text: list[str] = []  # of the block that is read
        self._characters = self._linked = 0  # of the block; in links
        self._lines: list[str] = []
        self._has_text = False

    def take_lines(self) -> list[str]:
        """Return the lines that are complete."""
        lines, self._lines = self._lines, []
        return lines

    def parse_html_declaration(self, i: int) -> int:
        """Skip a declaration; the inherited method fails for unknown ones."""
        if self.rawdata.startswith("<![", i):
            return self.parse_bogus_comment(i)
        return super().parse_html_declaration(i)

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        if tag not in _INLINE:
            self.end_block()
        if tag == "body" or (tag in _REPEATED and self._open[-1:] == [tag]):
            self.handle_endtag("head" if tag == "body" else tag)
        if tag in _VOID or len(self._open) >= _MAX_DEPTH:
            return
        # An anchor that is no link often has no end.
        self._open.append(tag if tag != "a" or dict(attrs).get("href") else "span")
        self._counts[self._open[-1]] += 1
        if self._removed_from is None and (reason := self._reason(tag, dict(attrs))):
            self._removed[reason] += 1
            self._removed_from = len(self._open) - 1

    def handle_startendtag(self, tag: str, attrs: Attributes) -> None:  # noqa: ARG002
        if tag not in _INLINE:
            self.end_block()

    def handle_endtag(self, tag: str) -> None:
        if tag not in _INLINE:
            self.end_block()
        if not self._counts[tag]:
            return
        place = len(self._open) - 1 - self._open[::-1].index(tag)
        # An inline end tag, perhaps forgotten, does not close a block.
        if tag in _INLINE and not _INLINE.issuperset(self._open[place:]):
            return
        self._counts.subtract(self._open[place:])
        del self._open[place:]
        if self._removed_from is not None and place <= self._removed_from:
            self._removed_from = None

    def handle_data(self, data: str) -> None:
        if self._removed_from is not None:
            return
        self._text.append(data)
        self._characters += len(data)
        self._linked += len(data.strip()) if self._counts["a"] else 0
        if self._characters > _MAX_LINE_CHARACTERS:
            head, space, tail = "".join(self._text).rpartition(" ")
            self._text = [head or tail]
            self.end_block()
            self._text = [tail] if space else []

    def end_block(self) -> None:
        """End a paragraph, or in preformatted text several; keep no code."""
        text = "".join(self._text).strip()
        is_link = 0 < self._linked >= len(text) - 2 and len(text) < _LINK_CHARACTERS
        is_code = self._counts["pre"] > 0 and not _is_prose(text)
        if text and (is_link or is_code):
            self._removed["links" if is_link else "code"] += 1
        elif text:
            parts = text.split("\n\n") if self._counts["pre"] else [text]
            self._lines += filter(None, map(one_line, parts))
            self._has_text = True
        self._text, self._characters, self._linked = [], 0, 0

    def _reason(self, tag: str, attrs: dict[str, str | None]) -> str | None:
        """Return why an element is removed, if it is."""
        # A form before any text is the page; the header of an article has its title.
        if (tag == "form" and not self._has_text) or (tag == "header" and self._counts["article"]):
            return None
        if tag in _REMOVED or tag in ("html", "body", "main", "article") or not attrs:
            return _REMOVED.get(tag)
        if "hidden" in attrs or "display:none" in (attrs.get("style") or "").replace(" ", ""):
            return "hidden elements"
        words = f"{attrs.get('class')} {attrs.get('id')} {attrs.get('role')}".lower().split()
        return "navigation" if any(map(_NAVIGATION.fullmatch, words)) else None
