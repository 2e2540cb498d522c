"""HTML to paragraphs: what a reader reads, without navigation, scripts and code."""

import codecs
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser

from model.text import HAN
from training.data.file_report import FileReport


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What is removed with all that is in it, and the reason that is reported.
_REMOVED = {
    **dict.fromkeys(("script", "style", "template", "noscript", "head", "svg", "math"), "scripts"),
    **dict.fromkeys(("object", "iframe", "canvas", "audio", "video"), "scripts"),
    **dict.fromkeys(("nav", "header", "footer", "aside", "menu", "dialog"), "navigation"),
    **dict.fromkeys(("button", "select", "textarea", "label", "legend", "datalist"), "forms"),
    "rt": "markup",
    "rp": "markup",
}
# Removed too, by a word of the class, the identifier or the role.
_NAVIGATION_NAMES = _names(
    "nav navbar navigation menu breadcrumb breadcrumbs sidebar banner contentinfo complementary"
    " search toc reference mw-editsection noprint pagination ad ads share social related skip-link"
)
_NOTICE = re.compile("cookie|advert|newsletter|subscribe")  # begins such a word
_VOID = _names("area base br col embed hr img input link meta param source track wbr")
# Any other element ends a line.
_INLINE = _names(
    "a abbr acronym b bdi bdo big cite code data del dfn em font i img ins kbd mark q rb"
    " ruby s samp script small span strike style template strong sub sup time tt u var wbr rt rp"
)
# Closed by the next of their kind; elements above this depth are not followed.
_SELF_CLOSING = _names("p li dt dd tr td th option")
_MAX_DEPTH = 1000
_MAX_LINE_CHARACTERS = 1 << 16
_FORM_CHARACTERS = 500  # a longer form is the page itself
_LINK_CHARACTERS = 25  # a shorter line that is all link is navigation
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]+)")
_CODE_MARK = re.compile(r"[{}\[\]()<>=;_#$\\|/*&^%~+]")
_SENTENCE_END = re.compile(r"[.!?][\"'”’)]?\s|[.!?。！？][\"'”’」』)]?$|[。！？]")
_BLANK_LINE = re.compile(r"\n\s*\n")
# What browsers take these names for
_CHARSETS = {"gb2312": "gb18030", "gbk": "gb18030", "iso8859-1": "cp1252", "ascii": "cp1252"}
_UNSPACED = f"{HAN}\u3000-\u30ff\uff00-\uff60"
_UNSPACED_BREAK = re.compile(f"(?<=[{_UNSPACED}])\\s*\\n\\s*(?=[{_UNSPACED}])")


def html_charset(head: bytes) -> str | None:
    """Return the encoding that the first bytes of a page declare, as a browser reads it."""
    found = _CHARSET.search(head[:4096]) or _XML_ENCODING.match(head.lstrip()[:256])
    if found is None:
        return None
    try:
        name = codecs.lookup(found[1].decode("ascii", "replace")).name
    except LookupError:
        return None
    # A declaration that can be read is not in UTF-16.
    return "utf-8" if name.startswith(("utf-16", "utf-32")) else _CHARSETS.get(name, name)


def read_html(text: Iterable[str], report: FileReport) -> Iterator[str]:
    """Read the paragraphs of a page that comes in chunks, cut anywhere."""
    reader = _Reader()
    for chunk in text:
        reader.feed(chunk)
        yield from reader.take_lines()
    reader.close()
    reader.end()
    yield from reader.take_lines()
    report.removed.update(reader.removed)


def text_of_html(fragment: str, report: FileReport) -> str:
    """Return the text of a piece of HTML; its paragraphs are lines."""
    return "\n".join(read_html((fragment,), report))


class _Reader(HTMLParser):
    """Collects lines while markup is fed, and counts removed elements."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.removed: Counter[str] = Counter()
        self._open: list[str] = []
        self._counts: Counter[str] = Counter()  # of the open elements
        self._removed_from: int | None = None  # depth of the element that is removed
        self._line: list[str] = []
        self._characters = 0  # of the line
        self._linked = 0  # characters of the line that are in links
        self._lines: list[str] = []
        self._form_start: int | None = None  # among the lines
        self._preformatted: list[str] | None = None

    def take_lines(self) -> list[str]:
        """Return the lines that are complete."""
        if self._form_start is not None:
            if sum(map(len, self._lines[self._form_start :])) <= _FORM_CHARACTERS:
                return []
            self._form_start = None
        lines, self._lines = self._lines, []
        return lines

    def end(self) -> None:
        """End the last line."""
        self._end_preformatted()
        self._end_line()
        self._end_form()

    def parse_html_declaration(self, i: int) -> int:
        """Skip a declaration; the inherited method fails for unknown ones."""
        if self.rawdata.startswith("<![", i):
            return self.parse_bogus_comment(i)
        return super().parse_html_declaration(i)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body" and self._counts["head"]:
            self.handle_endtag("head")
        if tag not in _INLINE:
            self._end_line()
        if tag in _VOID or len(self._open) >= _MAX_DEPTH:
            return
        if tag in _SELF_CLOSING and self._open and self._open[-1] == tag:
            self.handle_endtag(tag)
        # An anchor that is no link often has no end.
        if tag == "a" and not dict(attrs).get("href"):
            tag = "span"
        self._open.append(tag)
        self._counts[tag] += 1
        if self._removed_from is not None:
            return
        reason = _REMOVED.get(tag) or self._hidden(tag, dict(attrs))
        if tag == "header" and self._counts["article"]:
            reason = None  # of the article, with its title
        if reason:
            self.removed[reason] += 1
            self._removed_from = len(self._open) - 1
        elif tag == "form":
            self._form_start = len(self._lines)
        elif tag == "pre":
            self._preformatted = []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        # In HTML, unlike XHTML, <div/> opens an element; treating it as empty loses nothing.
        if tag not in _INLINE:
            self._end_line()

    def handle_endtag(self, tag: str) -> None:
        if tag not in _INLINE:
            self._end_line()
        if not self._counts[tag]:
            return
        place = len(self._open) - 1
        while self._open[place] != tag:
            place -= 1
        # An inline end tag, perhaps forgotten, does not close a block.
        if tag in _INLINE and not _INLINE.issuperset(self._open[place:]):
            self._close(place, place + 1)
        else:
            self._close(place, len(self._open))
        if tag == "form":
            self._end_form()
        if self._preformatted is not None and not self._counts["pre"]:
            self._end_preformatted()

    def _close(self, start: int, stop: int) -> None:
        self._counts.subtract(self._open[start:stop])
        del self._open[start:stop]
        if self._removed_from is not None and start <= self._removed_from:
            is_closed = self._removed_from < stop
            self._removed_from = None if is_closed else self._removed_from - (stop - start)

    def handle_data(self, data: str) -> None:
        if self._removed_from is not None:
            return
        if self._preformatted is not None:
            self._preformatted.append(data)
            return
        self._line.append(data)
        self._characters += len(data)
        if self._counts["a"]:
            self._linked += len(data.strip())
        if self._characters > _MAX_LINE_CHARACTERS:
            head, space, tail = "".join(self._line).rpartition(" ")
            self._line = [head or tail]
            self._end_line()
            self._line = [tail] if space else []

    @staticmethod
    def _hidden(tag: str, attrs: dict[str, str | None]) -> str | None:
        if not attrs or tag in ("html", "body", "main", "article"):
            return None
        if "hidden" in attrs or "display:none" in (attrs.get("style") or "").replace(" ", ""):
            return "hidden elements"
        names = f"{attrs.get('class')} {attrs.get('id')} {attrs.get('role')}".lower().split()
        if not _NAVIGATION_NAMES.isdisjoint(names):
            return "navigation"
        return "notices" if any(map(_NOTICE.match, names)) else None

    def _end_line(self) -> None:
        if not self._line:
            return
        line = one_line("".join(self._line))
        if 0 < len(line) < _LINK_CHARACTERS and self._linked > len(line) - 3 and self._linked:
            self.removed["links"] += 1
        elif line:
            self._lines.append(line)
        self._line, self._characters, self._linked = [], 0, 0

    def _end_preformatted(self) -> None:
        """Keep the paragraphs of text in ``pre``, but no code."""
        if self._preformatted is not None:
            text, self._preformatted = "".join(self._preformatted).strip(), None
            if is_prose(text):
                self._lines += map(one_line, _BLANK_LINE.split(text))
            elif text:
                self.removed["code"] += 1

    def _end_form(self) -> None:
        if self._form_start is not None:
            if sum(map(len, self._lines[self._form_start :])) <= _FORM_CHARACTERS:
                del self._lines[self._form_start :]
                self.removed["forms"] += 1
            self._form_start = None


def is_prose(text: str) -> bool:
    """Return if preformatted text has sentences and few of the signs of program text."""
    visible = len(text) - sum(map(str.isspace, text))
    return bool(_SENTENCE_END.search(text)) and len(_CODE_MARK.findall(text)) < 0.05 * visible


def one_line(text: str) -> str:
    """Join lines: Chinese without a space, anything else with one."""
    return " ".join(_UNSPACED_BREAK.sub("", text.strip()).split())
