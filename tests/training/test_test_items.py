"""Which questions an evaluation asks."""

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
    cloze_questions,
    lines_per_file,
    next_questions,
    read_files,
    typed_lines,
    word_places,
)

ANIMALS = ("cat", "dog", "cow", "hen", "ox")
ENGLISH = TextFile(
    "talk_en",
    "en",
    tuple(f"I like the {a} that sat, number {n}." for n in range(5) for a in ANIMALS),
)
CHINESE = TextFile(
    "talk_zh", "zh", ("今天天气很好,我们去公园走走。", "我的手机坏了,我打算买一部新手机。") * 10
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Tokens of a few lines of both languages."""
    return tiny_tokenizer()


def test_words_begin_and_end_with_a_letter_or_digit() -> None:
    """Apostrophes inside a word are part of it; quotation marks around it are not a word's begin or end."""
    text = "don't say 'no' to A1, ok"
    assert [text[start:end] for start, end in word_places(text)] == [
        "don't",
        "say",
        "to",
        "A1",
        "ok",
    ]


def test_lines_are_shared_by_size_with_a_minimum() -> None:
    """In proportion, at least the minimum, never more than there are."""
    assert lines_per_file([800, 150, 50], 100, 10) == [80, 15, 10]
    assert lines_per_file([800, 4], 100, 10) == [100, 4]


def test_english_asks_for_words_after_a_space() -> None:
    """Text ends with the space, the continuation begins with the answer, and nothing is asked twice."""
    questions = next_questions([ENGLISH], 20, 1, seed=1)
    assert len({question.line for question in questions}) == 20
    assert max(Counter(question.line for question in questions).values()) == 2
    assert len({(question.line, question.text) for question in questions}) == len(questions)
    for question in questions:
        assert question.text.endswith(" ")
        assert question.continuation.startswith(question.answer)
        assert question.text + question.continuation == ENGLISH.lines[question.line]


def test_chinese_asks_for_han_characters() -> None:
    """The answer is one Han character, never punctuation, and some text stands before it."""
    questions = next_questions([CHINESE], 20, 1, seed=1)
    assert len(questions) == 40
    for question in questions:
        assert question.text
        assert question.answer == question.continuation[0]
        assert question.answer not in ",。"


def test_a_blank_replaces_its_answer(tokenizer: Tokenizer) -> None:
    """Putting the answer back gives the line; a Chinese answer is a token of at most three characters."""
    files = [ENGLISH, CHINESE]
    questions = cloze_questions(files, tokenizer, 15, 1, seed=1)
    assert Counter(question.file for question in questions) == {0: 15, 1: 15}
    for question in questions:
        line = files[question.file].lines[question.line]
        assert question.text.replace(MARKER, question.answer) == line
        if question.file == 1:
            assert question.answer in tokenizer.surfaces
            assert len(question.answer) <= 3


def test_choices_are_words_of_the_file_with_the_right_one_among_them(tokenizer: Tokenizer) -> None:
    """Five different words, the right one at every place in turn; where there are too few words, none."""
    questions = cloze_questions([ENGLISH], tokenizer, 25, 1, seed=1)
    words = {line[start:end] for line in ENGLISH.lines for start, end in word_places(line)}
    for question in questions:
        assert len(set(question.choices)) == 5
        assert question.answer in question.choices
        assert set(question.choices) <= words
    assert len({question.choices.index(question.answer) for question in questions}) > 2
    poor = TextFile("poor_en", "en", ("one two.",))
    assert cloze_questions([poor], tokenizer, 5, 1, seed=1)[0].choices == ()


def test_a_wrong_choice_is_about_as_frequent_as_the_right_one(tokenizer: Tokenizer) -> None:
    """With 21 frequent words and 30 rare ones, all others offered beside a frequent answer are frequent."""
    frequent = [f"f{a}{b}" for a in "bcdfghk" for b in ("an", "en", "in")]
    rare = " ".join(f"r{a}{b}" for a in "bcdfgh" for b in ("ab", "eb", "ib", "ob", "ub"))
    file = TextFile("made_en", "en", (rare, *[" ".join(frequent)] * 20))
    asked = [q for q in cloze_questions([file], tokenizer, 20, 1, seed=1) if q.answer in frequent]
    assert len(asked) >= 19
    assert all(set(question.choices) <= set(frequent) for question in asked)


def test_a_seed_fixes_the_questions(tokenizer: Tokenizer) -> None:
    """The same seed asks the same, whichever other files take part; another seed asks something else."""
    alone = cloze_questions([CHINESE], tokenizer, 10, 1, seed=1)
    beside = cloze_questions([ENGLISH, CHINESE], tokenizer, 10, 1, seed=1)
    assert [q.text for q in alone] == [q.text for q in beside if q.file == 1]
    assert [q.text for q in alone] != [
        q.text for q in cloze_questions([CHINESE], tokenizer, 10, 1, seed=2)
    ]


def test_places_are_right_behind_characters_spelt_in_bytes(tokenizer: Tokenizer) -> None:
    """A character outside the vocabulary takes several tokens and one code point."""
    line = "老师𠮷老师批评了我。"
    places = blank_places(line, "zh", tokenizer)
    assert places
    assert any(start > 2 for start, _ in places)
    assert all(line[start:end] in tokenizer.surfaces for start, end in places)


def test_typed_lines_are_cut() -> None:
    """Long lines are typed up to a limit."""
    file = TextFile("long_en", "en", ("word " * 100,))
    assert [len(line.text) for line in typed_lines([file], 5, 1, seed=1, max_characters=80)] == [80]


def test_language_from_folder_name_or_script(tmp_path: Path) -> None:
    """A folder decides before the file name, and that before the script."""
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "a_zh.txt").write_text("one\n\ntwo\n", encoding="utf-8")
    (tmp_path / "b_zh.txt").write_text("one\n", encoding="utf-8")
    (tmp_path / "c.txt").write_text("今天天气很好\n", encoding="utf-8")
    (tmp_path / "d.txt").write_text("good day\n", encoding="utf-8")
    files = read_files([str(tmp_path)], None, None, seed=1)
    assert {file.name: file.language for file in files} == {
        "a_zh": "en",
        "b_zh": "zh",
        "c": "zh",
        "d": "en",
    }
    assert next(file.lines for file in files if file.name == "a_zh") == ("one", "two")
    assert {file.language for file in read_files([str(tmp_path)], "zh", None, seed=1)} == {"zh"}


def test_a_limit_keeps_some_lines_in_order(tmp_path: Path) -> None:
    """The limit chooses lines by the seed."""
    (tmp_path / "a_en.txt").write_text(
        "\n".join(f"line {n:03}" for n in range(100)), encoding="utf-8"
    )
    (file,) = read_files([str(tmp_path)], None, 10, seed=1)
    assert len(file.lines) == 10
    assert list(file.lines) == sorted(file.lines)
    assert file.lines != read_files([str(tmp_path)], None, 10, seed=2)[0].lines


def test_line_too_long_to_be_asked_about_is_read_in_parts(tmp_path: Path) -> None:
    """A novel's chapter on one line is divided where sentences end; nothing is lost, and shorter lines stay whole."""
    chapter = "It was late. " * 1500
    (tmp_path / "novel_en.txt").write_text(f"{chapter}\nShort.\n{'x' * 25_000}\n", encoding="utf-8")
    (file,) = read_files([str(tmp_path)], None, None, seed=1)
    assert [len(line) for line in file.lines] == [9996, 9502, 6, 10_000, 10_000, 5000]
    assert " ".join(file.lines[:2]) == chapter.strip()


def test_file_without_text_is_named(tmp_path: Path) -> None:
    """An empty file is an error that says what to do."""
    (tmp_path / "a.txt").write_text("\n\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="no text"):
        read_files([str(tmp_path)], None, None, seed=1)


def test_equal_names_are_refused(tmp_path: Path) -> None:
    """Figures are reported by file name, so names must differ."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("word\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="occur twice"):
        read_files([str(tmp_path)], None, None, seed=1)
