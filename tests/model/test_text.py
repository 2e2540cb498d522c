"""Normal form, character classes and languages."""

import unicodedata
from itertools import groupby
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.text import (
    MAX_MARKS,
    NormalText,
    is_east_asian,
    is_han,
    is_word_character,
    language_at_end,
    language_of,
    normalise,
    read_text,
)

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
# Letters that compose, decompose and reorder: Latin marks, a composition exclusion, jamo, a spacing
# vowel sign.
COMPOSING = st.text(
    alphabet=st.sampled_from(
        "aeÅ \u0301\u0323\u0345\u0958\u1100\u1161\u11a8\uac00\u09c7\u09be\u212b我"
    )
)


# What the normal form changes, between characters that it keeps.
ODD = st.text(
    alphabet=st.sampled_from(
        "a Z1\t\r\n\x00\x85\xa0\u00ad\u0301\u0302\u1100\u1161\u2000\u2028\u200b\u200d\u3000\ufe0f"
        "\ufeff\uff10\uff41我門门的。，の❤👍\U0001f3fd"
    )
)


LOADING = settings(deadline=None)  # the first text loads dictionaries


@LOADING
@given(text=st.one_of(ANY_TEXT, COMPOSING, ODD))
def test_normal_form_is_stable_and_knows_its_places(text: str) -> None:
    """A second reading changes nothing; places in the original rise and never leave it."""
    normalised = normalise(text)
    assert normalise(normalised) == normalised
    read = read_text(text)
    assert read_text(read.text).text == read.text
    assert len(read.offsets) == len(read.text) + 1
    assert list(read.offsets) == sorted(read.offsets)
    assert read.offsets[-1] == len(text)
    plain = NormalText(text, normalised)
    assert all(0 <= offset < len(text) for offset in plain.offsets[:-1])
    for place, character in enumerate(normalised):
        start, end = plain.span(place, place + 1)
        assert plain.offsets[place] == start < end <= len(text)
        marks = normalised[place : place + 2] + " "
        if all(unicodedata.category(each)[0] != "M" for each in marks):  # marks may be reordered
            assert normalise(text[start:end] + ".")[0] == normalise(character + ".")[0]


@LOADING
@given(
    text=st.one_of(ANY_TEXT, COMPOSING, ODD),
    answer=st.sampled_from(["word", " word", "系", "。", "."]),
)
def test_answers_continue_the_text_as_sent(text: str, answer: str) -> None:
    """Text and answer together are read as the text that was read, and the answer after it."""
    read = read_text(text)
    if read.text == text:
        assert read.write(answer) == answer
        return
    written = read.write(answer)
    assert normalise(written).strip().lower() == normalise(answer).strip()
    together = normalise(text + written)
    assert together.startswith(normalise(text))
    assert together.endswith(normalise(written))
    assert len(together) - len(normalise(text)) in (len(written), len(written) + 1)


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        ("Thank\u00a0you\u3000 \tvery ", "Thank you very "),
        ("one\r\ntwo\rthree\u2028four\x85five\n", "one\ntwo\nthree\nfour\nfive\n"),
        ("\ufeffto\u00admorrow\u200b\u200e\ufffc", "tomorrow"),
        ("a \u200b b", "a b"),
        ("e\u200b\u0301", "é"),
        ("１００％，Ａｂｃ！", "100％，Abc！"),
        ("晚安❤\ufe0f 👍\U0001f3fd 👩\u200d💻 1\ufe0f\u20e3", "晚安❤ 👍 👩💻 1"),
        ("谢谢你的 \u3000", "谢谢你的"),
        ("好。 ", "好。"),
        ("我用 Linux ", "我用 Linux "),
        ("請問你叫什麼", "请问你叫什么"),
        ("他走在我的後面", "他走在我的后面"),
        ("由於", "由于"),
        ("乾隆皇帝的名著", "乾隆皇帝的名著"),
        ("乾隆皇帝說", "乾隆皇帝说"),
        ("薴", "苎"),
        ("東京の駅", "東京の駅"),
    ],
)
def test_normal_form(sent: str, text: str) -> None:
    """Spaces, line ends, invisible characters, widths, emoji and Traditional Chinese have one form.

    Japanese is not read as Chinese, and full-width punctuation is Chinese.
    """
    assert normalise(sent) == text


@pytest.mark.parametrize(
    ("text", "normalised", "offsets"),
    [
        ("plain", "plain", [0, 1, 2, 3, 4, 5]),
        ("e\u0301a我", "éa我", [0, 2, 3, 4]),
        ("\u1112\u1161\u11ab!", "한!", [0, 3, 4]),
        ("a\r\n\u200b b  ", "a\n b ", [0, 1, 4, 5, 6, 8]),
        ("我 \u200b", "我", [0, 3]),
        ("我 ", "我", [0, 2]),
        ("\u0958a\u09c7\u09be", "\u0915\u093ca\u09cb", [0, 0, 1, 2, 4]),
    ],
)
def test_offsets_skip_what_was_changed(text: str, normalised: str, offsets: list[int]) -> None:
    """A letter and its mark become one character; the next keeps its place in the original."""
    read = read_text(text)
    assert (read.text, list(read.offsets)) == (normalised, offsets)


def test_spans_leave_out_what_is_invisible() -> None:
    """A marker between invisible characters is found alone."""
    read = read_text("a\u200b____\u200b \u200b.")
    assert read.text == "a____ ."
    assert (read.span(1, 5), read.span(5, 5)) == ((2, 6), (7, 7))


@pytest.mark.parametrize(
    ("sent", "answer", "written"),
    [
        ("沒關", "系", "係"),
        ("没关", "系", "系"),
        ("他的頭", "发", "髮"),
        ("我用 Linux 系統", "里", "裡"),
        ("我花了１００", "元10", "元１０"),
        ("１００元 and 5", "cm", "cm"),
        ("１００元，又花了", "5", "５"),
        ("HAPPY BIRTHD", "ay", "AY"),
        ("THE STRASSE", " groß", " GROß"),
        ("ＴＨＡＮＫ ", "you", "ＹＯＵ"),
        ("我 ", " OK", "OK"),
        ("Hello  ", "world", "world"),
        ("I love you ❤", "I", " I"),
        ("I love you ❤ ", "I", "I"),
        ("晚安❤", "你", "你"),
        ("東京の門", "系", "系"),
    ],
)
def test_answers_are_in_the_writing_of_the_text(sent: str, answer: str, written: str) -> None:
    """Traditional text has Traditional answers; after full-width digits, digits are full-width."""
    assert read_text(sent).write(answer) == written


@pytest.mark.parametrize(
    ("sent", "covered", "answer", "written"),
    [
        ("我的髮", "发", "现", None),
        ("我的髮", "发", "型", "型"),
        ("我們發", "发", "现", "現"),
        ("我們有麵", "面", "试", None),
        ("我們有麵", "", "试", "試"),
        ("這個面", "面", "包", None),
        ("這個表面", "面", "包", "包"),
        ("我們在台", "台", "湾的", "灣的"),
        ("皇后說：皇后", "皇后", "的", "的"),
        ("我説", "说", "话", "話"),
        ("头发", "发", "现", "现"),
    ],
)
def test_traditional_characters_begin_their_own_words(
    sent: str, covered: str, answer: str, written: str | None
) -> None:
    """Two characters that are one in Simplified Chinese stay apart; variants of one do not."""
    assert read_text(sent).complete(covered, answer) == written


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        ("HOW ARE YOU? I'M SO TIRE", "How are you? I'm so tire"),
        ("HAPPY", "Happy"),
        ("I AM", "I am"),
        ("NASA", "NASA"),
        ("OK I", "OK I"),
        ("A TV", "A TV"),
        ("Happy BIRTHDAY", "Happy BIRTHDAY"),
        ("我用 LINUX 和 DEBIAN", "我用 LINUX 和 DEBIAN"),
        ("İSTANBUL IS", "İstanbul is"),
        ("ẞÀ SCHÖN", "ßà schön"),
        ("Ⓐ", "Ⓐ"),
    ],
)
def test_texts_in_capitals_are_read_in_small_letters(sent: str, text: str) -> None:
    """A text in capitals is; acronyms and mixed texts are read as they are."""
    read = read_text(sent)
    assert read.text == text
    assert read.as_sent(0) == sent
    assert read.is_capitals == (text != sent)


@pytest.mark.parametrize(
    ("sent", "text", "offsets"),
    [
        ("hi ❤\ufe0f", "hi. ", [0, 1, 2, 2, 5]),
        ("hi❤👍 I", "hi. I", [0, 1, 2, 2, 5, 6]),
        ("Hi! 😀", "Hi! ", [0, 1, 2, 3, 5]),
        ("hi 😀!", "hi!", [0, 1, 4, 5]),
        ("hi 😀\nyou", "hi.\nyou", [0, 1, 2, 4, 5, 6, 7, 8]),
        ("晚安❤", "晚安。", [0, 1, 2, 3]),
        ("好。❤我", "好。我", [0, 1, 3, 4]),
        ("😀 hi", "hi", [2, 3, 4]),
    ],
)
def test_emoji_are_read_as_the_end_of_a_sentence(sent: str, text: str, offsets: list[int]) -> None:
    """After a word, and if no punctuation follows; otherwise they are not read."""
    read = read_text(sent)
    assert (read.text, list(read.offsets)) == (text, offsets)


def test_letter_with_too_many_marks_is_left_as_it_is() -> None:
    """30 marks are put in order, 31 and 10,000 are not; a second call changes nothing."""
    ordered = "e\u0301a" + "\u0316\u0301" * 15
    assert normalise(ordered) == unicodedata.normalize("NFC", ordered)
    many = "a" + "\u0301\u0316" * 15 + "\u0301"
    assert normalise(f"e\u0301{many}e\u0301") == f"é{many}é"
    assert normalise(normalise(f"{many} e\u0301 {many}")) == f"{many} é {many}"
    read = read_text(f"e\u0301{many}")
    assert (read.text, list(read.offsets)) == (f"é{many}", [0, *range(2, 35)])
    endless = "a" + "\u0301" * 5_000 + "\u0316" * 5_000  # in order, the second half comes first
    assert (normalise(endless), list(read_text(endless).offsets)) == (endless, [*range(10_002)])


# The longest run of marks that 30 characters can decompose into, after a letter with 3 of its own.
LONGEST_RUN = 2 * MAX_MARKS + 3


def test_normal_form_sorts_no_long_run_of_any_character(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is repeated, alone or among others, a bounded number of marks is sorted at once."""
    every = [chr(code) for code in range(0x110000)]
    combining = set(filter(unicodedata.combining, every))

    def longest_run(text: str) -> int:
        runs = groupby(unicodedata.normalize("NFD", text), combining.__contains__)
        return max((len(list(run)) for is_mark, run in runs if is_mark), default=0)

    parts: list[str] = []

    class Recorder:
        def __getattr__(self, name: str) -> Any:
            return getattr(unicodedata, name)

        def normalize(self, form: Literal["NFC"], text: str) -> str:
            parts.append(text)
            return unicodedata.normalize(form, text)

    # A character that is its own decomposition and has no combining class ends every run.
    characters = [
        character
        for character in every
        if character in combining or unicodedata.normalize("NFD", character) != character
    ]
    assert len(characters) > 13_000
    normalise("")
    monkeypatch.setattr("model.text.unicodedata", Recorder())
    mixed = ("{0}" * 70 + "e" + "{0}\u0316" * 35, "{0}e\u0301" + "{0}" * 15)
    for character in characters:
        for form in mixed:
            text = form.format(character)
            parts.clear()
            normalised = normalise(text)
            assert max(map(longest_run, parts)) <= LONGEST_RUN, hex(ord(character))
            assert normalise(normalised) == normalised, hex(ord(character))
            if longest_run(text) <= MAX_MARKS:
                assert unicodedata.is_normalized("NFC", normalised), hex(ord(character))


@pytest.mark.parametrize(
    ("characters", "word_character", "east_asian", "han"),
    [
        ("aé\u03017’_한я", True, False, False),
        ("我龥㐀𠀀", False, True, True),
        ("々のー。，（", False, True, False),
        (" -.😀", False, False, False),
    ],
)
def test_kinds_of_characters(
    characters: str, word_character: bool, east_asian: bool, han: bool
) -> None:
    """Letters of spaced scripts make words; Chinese, kana and full-width marks are East Asian."""
    for character in characters:
        found = is_word_character(character), is_east_asian(character), is_han(character)
        assert found == (word_character, east_asian, han), character


@pytest.mark.parametrize(
    ("text", "of_all", "at_end"),
    [
        ("我用 Linux 系统", "zh", "zh"),
        ("我们都很喜欢它的 operating system", "zh", "en"),
        ("I say 你好 to everybody", "en", "en"),
        ("I always say 你好。 ", "en", "zh"),
        ("Привет", "en", "en"),
        ("123", "en", "en"),
        ("", "en", "en"),
    ],
)
def test_languages(text: str, of_all: str, at_end: str) -> None:
    """A quarter of the letters decides for a whole text, the last eight characters for its end."""
    assert (language_of(text), language_at_end(text)) == (of_all, at_end)
