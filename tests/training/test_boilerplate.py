"""Repeated lines of a file."""

import pytest

from training.data import boilerplate
from training.data.boilerplate import BoilerplateFilter, without_licence
from training.data.file_report import FileReport


def kept(lines: list[str], numbers: bool = True) -> tuple[list[str], dict[str, int]]:
    """Return the lines that pass, and the counts of those that do not."""
    report = FileReport("a.txt", "txt")
    lines_filter = BoilerplateFilter(report, numbers=numbers)
    return [line for line in lines if lines_filter.passes(line)], dict(report.removed)


def in_text(lines: list[str]) -> list[str]:
    """Put 24 lines of text before each line."""
    text = "abcdefghijklmnopqrstuvwx"
    return [
        each for n, line in enumerate(lines) for each in (*(f"It is {c * n}." for c in text), line)
    ]


@pytest.mark.parametrize(
    "line",
    [
        "Subscribe to our newsletter",
        "——本章完——",
        "本书由某某网站整理，请勿转载",
        "Page {} of 300",
        "第 {} 页 共 300 页",
        "Chapter {}",
        "A History of the Sea {}",
        "第{}章",
        "*** {} ***",
    ],
)
def test_the_first_of_repeated_lines_pass(line: str) -> None:
    """Lines that are equal but for numbers pass three times; the others are counted."""
    lines = [line.format(number) for number in range(20)]
    passed, removed = kept(in_text(lines))
    assert [each for each in passed if each in lines] == lines[:3]
    assert removed == {"repeated lines": 17}


def test_chinese_numbers_count_as_numbers() -> None:
    """Chapters with Chinese numbers have one pattern."""
    assert kept(in_text([f"第{number}章" for number in "一二三四五六七"]))[1] == {
        "repeated lines": 4
    }


@pytest.mark.parametrize("line", ["好的", "Yes.", "哈哈哈哈", "Thanks!", "{} 点见"])
def test_short_replies_pass(line: str) -> None:
    """Ordinary short lines may occur any number of times."""
    lines = [line.format(number) for number in range(20)]
    assert kept(in_text(lines)) == (in_text(lines), {})


@pytest.mark.parametrize(
    "line", ["There were {} ships.", "他今年{}岁了。", "the line of number {}"]
)
def test_text_with_numbers_passes(line: str) -> None:
    """Sentences that differ in a number are text, and so is what a file consists of."""
    lines = [line.format(number) for number in range(50)]
    assert kept(lines) == (lines, {})
    if line[-1] in ".。":
        assert kept(in_text(lines)) == (in_text(lines), {})


def test_numbers_in_records_differ() -> None:
    """Without pages, lines that differ in a number are different."""
    lines = in_text([f"the {number} of them came to the sea" for number in range(20)])
    assert kept(lines, numbers=False) == (lines, {})
    assert kept(lines)[1] == {"repeated lines": 17}


def test_lines_that_are_links_go() -> None:
    """A bare link is removed, a sentence with a link is not."""
    lines = ["https://x.org/a?b=1", "(www.x.org)", "See https://x.org for more."]
    assert kept(lines) == (lines[2:], {"links": 2})


def test_different_lines_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text is not affected, however much there is; frequent patterns are remembered."""
    monkeypatch.setattr(boilerplate, "_MAX_PATTERNS", 40)
    lines = [f"This sentence is about {'x' * number}." for number in range(100)]
    notice = "Subscribe to our newsletter"
    passed, removed = kept(
        [each for n, line in enumerate(lines) for each in ((line,), (line, notice))[n % 10 == 9]]
    )
    assert [line for line in passed if line in lines] == lines
    assert removed == {"repeated lines": 7}


def test_long_lines_pass() -> None:
    """A paragraph is never boilerplate."""
    lines = ["A paragraph that is as long as this one is no header. " * 10] * 5
    assert kept(lines) == (lines, {})


HEAD = ["The Project Gutenberg eBook of Some Title", "For the use of anyone anywhere", "Title: X"]
LICENCE = ["Updated editions will replace the previous one.", "Section 1. General Terms of Use."]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (
            "*** START OF THE PROJECT GUTENBERG EBOOK X ***",
            "*** END OF THE PROJECT GUTENBERG X ***",
        ),
        ("***START OF THIS PROJECT GUTENBERG EBOOK X***", "End of Project Gutenberg's X, by Y"),
        ("*END*THE SMALL PRINT! FOR ETEXTS*Ver.04*END*", "End of The Project Gutenberg Etext of X"),
    ],
)
def test_a_licence_around_a_book_is_removed(start: str, end: str) -> None:
    """Of one book or several in a file, only their text is kept; the rest is counted."""
    text = [f"This is line {number} of the book." for number in range(600)]
    report = FileReport("a.txt", "txt")
    book = [*HEAD, start, *text, end, *LICENCE]
    assert list(without_licence(iter(book * 2), report)) == text * 2
    assert report.removed == {"licence": 14}


@pytest.mark.parametrize("count", [3, 700])
def test_text_without_a_licence_passes(count: int) -> None:
    """A text that only speaks of the project is whole, also if no mark follows its name."""
    report = FileReport("a.txt", "txt")
    lines = ["He had it from Project Gutenberg.", *(f"Line {n} of it." for n in range(count))]
    assert list(without_licence(iter(lines), report)) == lines
    assert list(without_licence(iter(lines[1:]), report)) == lines[1:]
    assert not report.removed
