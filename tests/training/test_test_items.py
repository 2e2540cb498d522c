"""The items of an evaluation."""

from collections import Counter
from pathlib import Path

import pytest

from model.errors import CorpusError
from model.tokenizer import Tokenizer
from tests.fixtures_checkpoint import tiny_tokenizer
from training.evaluation.test_items import (
    MARKER,
    TextFile,
    blank_places,
    choose_items,
    cloze_questions,
    lines_per_file,
    next_questions,
    read_files,
    typed_lines,
    word_places,
)

ANIMALS = ("cat", "dog", "cow", "hen", "ox")
SENTENCES = tuple(f"I like the {a} that sat, number {n}." for n in range(5) for a in ANIMALS)
ENGLISH = TextFile("talk_en", "en", SENTENCES)
CHINESE = TextFile(
    "talk_zh", "zh", ("今天天气很好,我们去公园走走。", "我的手机坏了,我打算买一部新手机。") * 10
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Tokens of a few lines of both languages."""
    return tiny_tokenizer()


def test_words_begin_and_end_with_a_letter_or_digit() -> None:
    """An apostrophe inside a word belongs to it; quotation marks around it make it no word."""
    text = "don't say 'no' to A1, ok"
    words = [text[start:end] for start, end in word_places(text)]
    assert words == ["don't", "say", "to", "A1", "ok"]
    assert word_places("") == []


def test_lines_are_shared_by_size_with_a_minimum() -> None:
    """Quotas are in proportion, at least the minimum, at most all lines."""
    assert lines_per_file([800, 150, 50], 100, 10) == [80, 15, 10]
    assert lines_per_file([800, 4], 100, 10) == [100, 4]


@pytest.mark.parametrize("file", [ENGLISH, CHINESE])
def test_next_items_have_two_positions_a_line(file: TextFile) -> None:
    """Text, answer and continuation make up the line; no position comes twice."""
    questions = next_questions([file], 20, 1, seed=1)
    assert len({question.line for question in questions}) == 20
    assert set(Counter(question.line for question in questions).values()) == {2}
    assert len({(question.line, question.text) for question in questions}) == 40
    for question in questions:
        assert question.text + question.continuation == file.lines[question.line]
        assert question.continuation.startswith(question.answer)
        if file is ENGLISH:
            assert question.text.endswith(" ") and question.answer.isalnum()
        else:
            assert question.text and len(question.answer) == 1 and question.answer not in ",。"


def test_a_blank_replaces_its_answer(tokenizer: Tokenizer) -> None:
    """A Chinese answer is a token of at most three characters."""
    files = [ENGLISH, CHINESE]
    questions = cloze_questions(files, tokenizer, 15, 1, seed=1)
    assert Counter(question.file for question in questions) == {0: 15, 1: 15}
    for question in questions:
        line = files[question.file].lines[question.line]
        assert question.text.replace(MARKER, question.answer) == line
        if question.file == 1:
            assert question.answer in tokenizer.surfaces and len(question.answer) <= 3


def test_choices_are_words_of_similar_frequency(tokenizer: Tokenizer) -> None:
    """Five words, the right one at any place: 21 frequent and 30 rare words are not mixed."""
    frequent = [f"f{a}{b}" for a in "bcdfghk" for b in ("an", "en", "in")]
    rare = " ".join(f"r{a}{b}" for a in "bcdfgh" for b in ("ab", "eb", "ib", "ob", "ub"))
    file = TextFile("made_en", "en", (rare, *[" ".join(frequent)] * 20))
    asked = [q for q in cloze_questions([file], tokenizer, 20, 1, seed=1) if q.answer in frequent]
    assert len(asked) >= 19
    assert all(set(question.choices) <= set(frequent) for question in asked)
    assert all(len(set(q.choices)) == 5 and q.answer in q.choices for q in asked)
    assert len({question.choices.index(question.answer) for question in asked}) > 2
    poor = TextFile("poor_en", "en", ("one two.",))
    assert cloze_questions([poor], tokenizer, 5, 1, seed=1)[0].choices == ()


def test_a_seed_fixes_the_items(tokenizer: Tokenizer) -> None:
    """Items of a file do not depend on other files; equal items have equal digests."""
    alone = cloze_questions([CHINESE], tokenizer, 10, 1, seed=1)
    both = cloze_questions([ENGLISH, CHINESE], tokenizer, 10, 1, seed=1)
    assert [q.text for q in alone] == [q.text for q in both if q.file == 1]
    first, again, other = (
        choose_items([ENGLISH, CHINESE], tokenizer, 10, 5, seed).digest for seed in (1, 1, 2)
    )
    assert first == again != other


def test_blanks_after_characters_that_are_bytes(tokenizer: Tokenizer) -> None:
    """A character that is not a token has several tokens and one code point."""
    line = "老师𠮷老师批评了我。"
    places = blank_places(line, "zh", tokenizer)
    assert any(start > 2 for start, _ in places)
    assert all(line[start:end] in tokenizer.surfaces for start, end in places)


def test_typed_lines_are_cut() -> None:
    """The first 100 characters of a line are typed."""
    file = TextFile("long_en", "en", ("word " * 100,))
    assert [len(line.text) for line in typed_lines([file], 5, 1, seed=1)] == [100]


def test_the_script_decides_the_language(tmp_path: Path) -> None:
    """Names are not looked at; empty lines are left out."""
    for name, text in {"a_zh": "one\n\ntwo\n", "b_en": "今天天气很好\n"}.items():
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    first, second = read_files([str(tmp_path)])
    assert first == TextFile("a_zh", "en", ("one", "two"))
    assert (second.name, second.language) == ("b_en", "zh")


def test_a_mixed_file_is_scored_by_language(tmp_path: Path) -> None:
    """Lines of two languages are two files; fewer than 5 % count as lines of the other one."""
    chinese, english = ["今天天气很好", "我们走吧"], [f"line {n}" for n in range(30)]
    (tmp_path / "chat.txt").write_text("\n".join([*chinese, *english]), encoding="utf-8")
    assert read_files([str(tmp_path)]) == [
        TextFile("chat", "en", tuple(english)),
        TextFile("chat-zh", "zh", tuple(chinese)),
    ]
    (tmp_path / "chat.txt").write_text("\n".join([chinese[0], *english]), encoding="utf-8")
    assert read_files([str(tmp_path)]) == [TextFile("chat", "en", (chinese[0], *english))]


def test_a_line_too_long_for_a_query_is_divided(tmp_path: Path) -> None:
    """Parts end with sentences if there are any; no text is lost."""
    chapter = "It was late. " * 1500
    (tmp_path / "novel.txt").write_text(f"{chapter}\nShort.\n{'x' * 25_000}\n", encoding="utf-8")
    (file,) = read_files([str(tmp_path)])
    assert [len(line) for line in file.lines[2:]] == [6, 10_000, 10_000, 5000]
    assert all(line.endswith("late.") for line in file.lines[:2])
    assert " ".join(file.lines[:2]) == chapter.strip()


@pytest.mark.parametrize(
    ("files", "message"),
    [({"a.txt": "\n\n"}, "no text"), ({"1/a.txt": "x", "2/a.txt": "x"}, "2 files are called a")],
)
def test_unusable_files_are_named_errors(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    """Files need text and different names."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(CorpusError, match=message):
        read_files([str(tmp_path)])
