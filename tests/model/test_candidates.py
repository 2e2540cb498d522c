"""Rules for candidates: continuations that may be offered, and those that are complete."""

import pytest

from model.decoding.candidates import CandidateRules, is_known, start_of_word
from model.words import KnownWords


def allowed(text: str, *appends: str) -> list[str]:
    """Return those of *appends* that may follow *text*, with every word known."""
    rules = CandidateRules(text, start_of_word(text), lambda _: True)
    return [append for append in appends if rules.allow(append)]


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        ("I know", ", . (", ") ” ." + "” .) ，”"),
        ("She said, “I know", "” .” ,”", ") 」"),
        ('She said, "I know', '" ."', "” )"),
        ('"I know." She said', ", .", '" ."'),
        ("“I know.” She left (late", ") ).", "” .”"),
        ("A (first) line\nand", ",", ")"),
        ("(a line\nand", ",", ")"),
        ("他说：“我知道", "” 。” ，", "） 》"),
        ("他说：", '“ " 《', "”"),
        ("They said 'hello.", "' ’", '"'),
        ("They said hello.", "then", "' ’"),
        ("Thanks :", ")", "]"),
    ],
)
def test_a_mark_closes_what_is_open_in_the_line(text: str, right: str, wrong: str) -> None:
    """A closing mark is a candidate only if its opening mark is open."""
    assert allowed(text, *right.split(), *wrong.split()) == right.split()


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        ("I was late.", "then", ". , ! ” ... -"),
        ("Was I late?", "then", "? ! ."),
        ("我吃完饭了。", "我 “ 《 （", "。 ， ！ ……"),
        ("He said, “I was late.", "”", ". , ’"),
        ("I was late!!", "! The", "”"),
        ("I was late..", ". The", ")"),
        ("They sell fruit, e.g.", ", apples", "”"),
        ("真的……", "？ 我", "”"),
    ],
)
def test_no_mark_ends_a_finished_sentence_again(text: str, right: str, wrong: str) -> None:
    """After the end of a sentence only opening and closing marks are candidates."""
    assert allowed(text, *right.split(), *wrong.split()) == right.split()


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        ("I am home.", "com", "I The 5 _"),
        ("the U.", "S", "”"),
        ("I saw the dog", "s' 's s", "' ’"),
        ("They said 'dog", "' 's", '"'),
    ],
)
def test_words_fit_what_precedes_them(text: str, right: str, wrong: str) -> None:
    """A space begins a sentence, and an apostrophe ends a plural or a quotation."""
    assert allowed(text, *right.split(), *wrong.split()) == right.split()


def test_marks_follow_their_word_directly() -> None:
    """A space before a comma is not a candidate, but one before an opening mark or a smiley is."""
    assert allowed("I know", " ,", " .", " )", " ！", " (", " “", " :)", " -", " it") == [
        " (", " “", " :)", " -", " it"
    ]  # fmt: skip


def test_a_latin_word_must_be_known() -> None:
    """Words with a digit or a wrong ending are unknown; other scripts are not looked up."""
    words = KnownWords(["kinder", "theatre", "o'clock"])
    rules = CandidateRules("the Theat", 4, lambda word: is_known(words, word))
    appends = [
        "re",
        "re's",
        "re’ll",
        "re'n",
        "re1",
        "re_",
        "rum",
        " kinder",
        " kindertown",
        " o'clock",
        " 22",
        " Да",
    ]
    assert [each for each in appends if rules.allow(each)] == [
        "re", "re's", "re’ll", " kinder", " o'clock", " 22", " Да"
    ]  # fmt: skip


def test_complete_candidates_may_be_followed_by_a_space() -> None:
    """Words, closing marks and ends of sentences are complete; other marks by their share."""
    rules = CandidateRules('"It cost 5', 9, lambda _: True)
    complete = [" it", "s'", "我", "3", "，", ")", "”", '"', "!", '."']
    open_ones = ["（", " (", "“", "：“", ".", "-", "$", ",", "да"]
    assert [each for each in complete + open_ones if rules.is_complete(each, 0.4)] == complete
    assert rules.is_complete(",", 0.5) and rules.is_complete(".", 0.5)
