"""HTML to paragraphs."""

import random

import pytest

from training.data.file_report import FileReport
from training.data.html_text import html_charset, read_html


def read(text: str, step: int = 3) -> tuple[list[str], FileReport]:
    """Return the lines of a page that comes in chunks of *step* characters, and the report."""
    report = FileReport("page.html", "html")
    chunks = (text[start : start + step] for start in range(0, len(text), step))
    return list(read_html(chunks, report)), report


PAGE = """<!DOCTYPE html><html><head><title>No title</title><style>p {color: red}</style>
<script>if (a < b) document.write("<p>no</p>")</script></head><body class="menu">
<nav><ul><li><a href="/">Home and more of it, at length</a></ul></nav>
<header><p>No header</p></header><div id="x" class="sidebar wide"><p>No sidebar</p></div>
<main><h1>A title &amp; more&hellip;</h1><p>The <b>first</b> <a href="/x">paragraph</a>
is wrapped.</p><p>第一行<em>强调</em>
第二行<br/>新的一行</p><table><tr><td>left cell<td>right cell</table>
<ul><li>item one<li>item two</ul><p hidden>No</p><p style="display: none">No</p>
<p>Call <code>run</code> now.</p><pre><code class="python">x = {}; y.z()</code></pre>
<template><p>No</p></template><!-- <p>No</p> --><![if IE]>
<a href="/next">Next page</a><p>See <a href="/y">this long page about the whole of it</a></p></main>
<form><p>Subscribe to it</p><label>No</label><input name="q"></form>
<aside>No</aside><footer>No footer</footer></body></html>"""
LINES = [
    "A title & more…", "The first paragraph is wrapped.", "第一行强调第二行", "新的一行",
    "left cell", "right cell", "item one", "item two", "Call run now.",
    "See this long page about the whole of it",
]  # fmt: skip


@pytest.mark.parametrize("step", [1, 10, 10_000])
def test_a_page_gives_its_paragraphs(step: int) -> None:
    """Blocks end lines, inline elements do not; only text is left; all is counted."""
    lines, report = read(PAGE, step)
    assert lines == LINES
    assert report.removed == {
        "scripts": 2, "navigation": 5, "hidden elements": 2, "code": 1, "links": 1, "forms": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<div><nav><p>menu</div><p>text", ["text"]),
        ("<head><title>no</title><body>text", ["text"]),
        ("<b>one</p><p>two</b> three<p>four", ["one", "two three", "four"]),
        ("a </i> b <p>c < d & e &nosuch; f", ["a b", "c < d & e &nosuch; f"]),
        ("<p>one<script>x</script> two", ["one two"]),
        ("text <![what is this]> more", ["text more"]),
        ("<a name=top>All of this is no link, and it is kept.", None),
        ("<span hidden>no<b>no</span>yes</b> all", ["yes all"]),
        ("<ruby>漢<rt>hàn</rt></ruby>字", ["漢字"]),
        ("just words", ["just words"]),
        ("<article><header><h1>Title</h1></header>Text.</article>", ["Title", "Text."]),
        ("<div id=cookie-notice-2><p>No</p></div><p class=advertising>No</p>Text.", ["Text."]),
        ("", []),
    ],
)
def test_broken_pages_lose_no_text(text: str, expected: list[str] | None) -> None:
    """Missing and superfluous end tags, odd declarations and bare signs do no harm."""
    kept = expected or ["All of this is no link, and it is kept."]
    assert read(text)[0] == (kept if text else [])


def test_a_form_around_the_page_is_the_page() -> None:
    """A form is left out only if it has little text."""
    body = [f"This is paragraph {number} of a page that is one form." for number in range(20)]
    lines, report = read("<form>" + "".join(f"<p>{line}</p>" for line in body) + "</form>")
    assert lines == body
    assert "forms" not in report.removed


def test_preformatted_prose_is_text() -> None:
    """A pre element with sentences gives paragraphs, one with program text gives nothing."""
    letter = "Dear all,\n\nwe meet at noon\nand go together.\n\n我们中午\n见面。"
    lines, report = read(f"<pre>{letter}</pre><pre>for (;;) {{ a[1] = b(); }}. </pre>")
    assert lines == ["Dear all,", "we meet at noon and go together.", "我们中午见面。"]
    assert report.removed["code"] == 1


def test_deep_and_endless_pages_are_bounded() -> None:
    """Neither many open elements nor a line without tags fail or fill the memory."""
    assert read("<div>" * 50_000 + "text", 1 << 16)[0] == ["text"]
    lines, _ = read("word " * 50_000, 1 << 16)
    assert max(map(len, lines)) <= 2 << 16
    assert " ".join(lines).split() == ["word"] * 50_000


def test_noise_never_fails() -> None:
    """Random pieces of markup give lines without tags."""
    source = random.Random(5)
    pieces = "<p> </p> <div/class='a '> <!-- --> <![CDATA[ ]]> word &#x <script> </script> < > </"
    pieces += " &amp; <pre> </pre> <a/href=x> <form> </form> <!x"
    for _ in range(200):
        text = "".join(source.choices(pieces.split(), k=40))
        assert all(line.strip() for line in read(text, 7)[0])


@pytest.mark.parametrize(
    ("head", "charset"),
    [
        (b'<html><meta charset="gb2312">', "gb18030"),
        (b"<META http-equiv=Content-Type content='text/html; charset=GBK'>", "gb18030"),
        (b'<meta charset="UTF-8">', "utf-8"),
        (b'<meta charset="big5">', "big5"),
        (b'<meta charset="iso-8859-1">', "cp1252"),
        (b'<meta charset="utf-16">', "utf-8"),
        (b'<?xml version="1.0" encoding="Shift_JIS"?><html>', "shift_jis"),
        (b'<meta charset="no-such-thing">', None),
        (b"<p>charset=utf-8", None),
        (b"", None),
    ],
)
def test_the_declared_encoding_is_found(head: bytes, charset: str | None) -> None:
    """The meta element or the XML declaration counts, as in a browser."""
    assert html_charset(head) == charset
