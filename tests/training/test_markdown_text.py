"""Markdown to paragraphs."""

import random

import pytest

from training.data import markdown_text
from training.data.file_report import FileReport
from training.data.markdown_text import read_markdown


def read(text: str, step: int = 5) -> tuple[list[str], FileReport]:
    """Return the lines of Markdown that comes in chunks of *step* characters, and the report."""
    report = FileReport("a.md", "md")
    chunks = (text[start : start + step] for start in range(0, len(text), step))
    return list(read_markdown(chunks, report)), report


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# A *title* #\n## 第二#节\n#标题\n", ["A title", "第二#节", "标题"]),
        ("Title\n=====\n\nOther\n---\ntext", ["Title", "Other", "text"]),
        ("one\ntwo\n\nthree", ["one two", "three"]),
        ("第一行\n第二行，\n第三行", ["第一行第二行，第三行"]),
        ("one  \ntwo\\\nthree<br>four", ["one", "two", "three", "four"]),
        ("**bold** *it* ***both*** __b__ _i_ ~~gone~~ ==mark==", ["bold it both b i gone mark"]),
        ("这是**重点**内容，*强调*。", ["这是重点内容，强调。"]),
        ("snake_case_name 2 * 3 * 4 a == b", ["snake_case_name 2 * 3 * 4 a == b"]),
        (r"5 \* 3 \_x\_ `*as is*` ``a ` b``", ["5 * 3 _x_ *as is* a ` b"]),
        ("[a link](http://x.org/a_(b) 'title'), [b][ref], [[Page|shown]]", ["a link, b, shown"]),
        ("see ![image](a.png) [![badge](b.svg)](http://x.org) and <https://x.org>", ["see and"]),
        ("[ref]: http://x.org 'Title'\ntext[^1]\n\n[^1]: The note.", ["text", "The note."]),
        ("- one\n  more\n* two\n+ [x] three\n  1. four\n  2. five",
         ["one more", "two", "three", "four", "five"]),
        ("It was in\n1984. That was it.", ["It was in 1984. That was it."]),
        ("> quoted\n> text\n>> deeper", ["quoted text", "deeper"]),
        ("| Name | Use |\n|---|:-:|\n| a\\|b | **c** |\n| d | |", ["Name", "Use", "a|b", "c", "d"]),
        ("a b | c\n--- | ---\nx y | z\n\ntext | more", ["a b", "c", "x y", "z", "text | more"]),
        ("costs $5 and $6, but $x^2$ and \\(y\\) $$z$$ go", ["costs $5 and $6, but and go"]),
        ("one\n***\ntwo\n- - -\nthree", ["one", "two", "three"]),
        ("&lt;b&gt; &copy; a < b > c", ["<b> © a < b > c"]),
        ('<div align="x">\n<b>HTML</b> text</div>', ["HTML text"]),
        (":::note\nInside :smile: it\n:::\n[TOC]\n> [!NOTE]\n> Look {#id}", ["Inside it", "Look"]),
        ("- [Part](#part)\n  - **[Next](#next)**\n\nsee [here](#part)", ["see here"]),
        ("", []),
    ],
)  # fmt: skip
def test_marks_are_removed(text: str, expected: list[str]) -> None:
    """Of every kind of mark, only what a reader reads remains, a line for each paragraph."""
    assert read(text)[0] == expected


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ("```python\nx = 1\n\n# no\n```", "code"),
        ("~~~~\nno\n~~~\nno\n~~~~~", "code"),
        ("- ```\n  no\n  ```", "code"),
        ("> ```\n> no\n> ```", "code"),
        ("    x = call(y)\n    z[1] = 2", "code"),
        ("<pre>\nno\n</pre>", "code"),
        ("<script>\nno\n</script>", "scripts"),
        ("$$\na = b\n$$", "formulas"),
        ("\\[\na = b\n\\]", "formulas"),
        ("\\begin{align*}\na = b\n\\end{align*}", "formulas"),
        ("<!-- no\nno -->", ""),
        ("<!-- no -->", ""),
    ],
)
def test_blocks_without_text_are_counted(block: str, reason: str) -> None:
    """Code, formulas and comments go with all their lines, and the text around them stays."""
    lines, report = read(f"before\n\n{block}\n\nafter")
    assert lines == ["before", "after"]
    assert report.removed[reason] == bool(reason)


def test_front_matter_is_no_text() -> None:
    """A header between marks goes; a rule at the start of a text does not begin one."""
    lines, report = read("---\ntitle: no\ntags: [no]\n---\n\ntext")
    assert (lines, report.removed["front matter"]) == (["text"], 1)
    assert read("+++\ntitle = 'no'\n+++\ntext")[0] == ["text"]
    assert read("---\n\ntext\n\n---\nmore")[0] == ["text", "more"]


def test_indented_prose_and_lists_are_text() -> None:
    """Indentation makes code only of what looks like code and is in no list."""
    novel = "    他停下脚步，看了看天。\n\n    “走吧。”他说。\n\ntext\n\n    x = f(y)\n"
    lines, report = read(novel)
    assert lines == ["他停下脚步，看了看天。", "“走吧。”他说。", "text"]
    assert report.removed["code"] == 1
    assert read("- item\n\n    more of it\n\ntext")[0] == ["item", "more of it", "text"]


def test_pieces_do_not_divide_what_belongs_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """However a text is divided, its code stays code, and its targets are left out."""
    monkeypatch.setattr(markdown_text, "_PIECE_CHARACTERS", 10)
    part = "See [the page][ref] there.\n\n```\nno\n\nno\n```\n\n- item\n\n  more\n\n"
    lines, _ = read(part * 20 + "[ref]: http://x.org\n")
    assert lines == ["See the page there.", "item", "more"] * 20


def test_words_of_plain_text_stay() -> None:
    """Random sentences without marks come back whole, in order."""
    source = random.Random(2)
    words = ["word", "and", "1984.", "it's", "(so)", "a/b", "e.g.", "50%", "再见", "“yes”"]
    paragraphs = [" ".join(["So", *source.choices(words, k=30)]) for _ in range(50)]
    wrapped = [paragraph.replace(" and ", "\nand ") for paragraph in paragraphs]
    assert read("\n\n".join(wrapped), 100)[0] == paragraphs
