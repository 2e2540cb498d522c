"""Finding blanks, and the text that is read around them."""

import unicodedata
from itertools import product
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from model.checkpoint import DEFAULT_CHECKPOINT
from model.decoding.blanks import Layout, count_blanks, find_blanks
from model.errors import QueryError
from model.predictor import Predictor, open_model
from model.queries import ClozeQuery, ClozeResult, Filling, Usage

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12)
# What the rules around a blank look at.
EDGES = st.text(
    alphabet=st.sampled_from(
        "ab Tn't9.,:;!?()（）[]《》「」“”\"'’-$%_我學。，\n\r\u3000\u200b\u0301Ａ"
    ),
    max_size=8,
)
MARKERS = st.sampled_from(["____", "＿＿", "[MASK]", "<mask>", "{Blank}"])


def blanks(text: str, marker: str | None = None, choices: Any = None) -> Layout:
    """Return the layout of a text."""
    lists = None if choices is None else [{word: (word,) for word in choices}]
    return find_blanks(ClozeQuery(text, blank=marker, choices=choices), 64, lists)


def read(text: str, **options: Any) -> list[Any]:
    """Return all that is read of a text: what decides the candidates of its blanks."""
    layout = blanks(text, **options)
    return [
        layout.before,
        *((slot.spaced, slot.known, slot.after, slot.language) for slot in layout.slots),
    ]


def fill(text: str, *words: str, **options: Any) -> str:
    """Return the text with words in its blanks."""
    ranked = [[Filling(word, 1.0)] for word in words]
    return blanks(text, **options).result(ranked, Usage(0)).filled


@pytest.mark.parametrize(
    "mark",
    ["__", "____", "＿＿", "_＿_", "[MASK]", "[mask]", "<mask>", "<MASK>", "<blank>", "{blank}",
     "[Blank]", "{BLANK}", "[ mask ]", "［ＭＡＳＫ］", "_\u200b_"],
)  # fmt: skip
def test_usual_marks_are_blanks(mark: str) -> None:
    """Each is one blank; its position counts code points as sent, before the text is normalised."""
    text = unicodedata.normalize("NFD", "é café ") + f"{mark}\u200b b"
    layout = blanks(text)
    (slot,) = layout.slots
    assert text[slot.start : slot.end] == mark
    assert layout.before == "é café "


@pytest.mark.parametrize("text", ["", "no blank", "a _ b", "(mask)", "[masks]", "snake_case"])
def test_text_without_a_blank_is_refused(text: str) -> None:
    """A single underscore or a word in round brackets is not a blank."""
    with pytest.raises(QueryError, match="no blank"):
        blanks(text)


def test_a_given_marker_is_the_only_blank() -> None:
    """A marker is taken literally, and the usual marks are then plain text."""
    layout = blanks("f.* is __init__ .*", ".*")
    assert [(slot.start, slot.end) for slot in layout.slots] == [(1, 3), (16, 18)]
    assert layout.slots[0].after == "is __init__ "
    assert count_blanks(ClozeQuery("f.*", blank="\u200b")) == 0


@pytest.mark.parametrize(
    ("text", "before", "after", "spaced", "known"),
    [
        ("go to the ____ now", "go to the ", "now", True, True),
        ("go to the ____.", "go to the ", ".", False, True),
        ("go to the ____", "go to the ", "", False, False),
        ("go to the ____  \n", "go to the ", "\n", False, False),
        ("un____able", "un", "able", True, True),
        ("要去____。", "要去", "。", False, True),
        ("要去 ____ 。", "要去", "。", False, True),
        ("我 ____ 你", "我", "你", False, True),
        ("我用 ____ phone", "我用", "phone", True, True),
        ("한국 ____ 말", "한국 ", "말", True, True),
    ],
)
def test_spaces_next_to_a_blank(
    text: str, before: str, after: str, spaced: bool, known: bool
) -> None:
    """The space after a blank belongs to its word; next to Chinese, spaces are layout."""
    layout = blanks(text)
    (slot,) = layout.slots
    assert (layout.before, slot.after, slot.spaced, slot.known) == (before, after, spaced, known)


@pytest.mark.parametrize(
    ("clean", "texts"),
    [
        (
            "I like ____, but not tea.",
            ["I like ____ , but not tea.", "I like ____   , but not tea.",
             "I like____, but not tea.", "I like ( ____ ) , but not tea.",
             "I like “____”, but not tea.", "I like {[MASK]}\u3000, but not tea."],
        ),
        ("What we need is ____.", ["What we need is ____ .", "What we need is____ .",
                                   "What we need is ( [mask] )  ."]),
        ("He was ____!", ["He was ____ !", "He was【____】!", "He was\u200b____!"]),
        ("He was ____!!", ["He was ____ !!"]),
        ("Is it (or the ____) new?", ["Is it (or the ____ ) new?", "Is it (or the____ ) new?"]),
        ("The (____ or tea) is", ["The ( ____ or tea) is", "The (“____” or tea) is"]),
        ("It is ____'s.", ["It is ____ 's.", "It is____'s.", "It is (____)'s."]),
        ("I ____n't go.", ["I____n't go.", "I ____ n't go."]),
        ("今天天气很____。", ["今天天气很（____）。", "今天天气很 ____ 。", "今天天气很( ____ )。",
                        "今天天气很「____」。", "今天天气很（____) 。", "今天天气很\u200b____。"]),
        ("我____学生,你好", ["我（____）学生,你好", "我 【____】 学生,你好"]),
        ("我喜欢____, 你好", ["我喜欢 ____ , 你好"]),
        ("Tom ____ to school.", ["Tom____to school.", "Tom ____to school.", "Tom(____)to school.",
                                 "Tom [____] to school.", "Tom \u200b____\u3000to school."]),
        ("What ____ you?", ["What____you?", "What (____) you?", "What <<mask>>you?"]),
        ("is ____ and ____.", ["is____and____.", "is (____)and ____ .", "is “____” and “____”."]),
        ("Yes, ____ is.", ["Yes,____is.", "Yes,(____) is."]),
        ("1. ____ is", ["1.____ is"]),
        ("他说：____和他", ['他说：" ____ "和他', '他说："____"和他']),
        ("我喜欢____“一”号", ["我喜欢 ____ “一”号"]),
        ("他说“我”____的", ["他说“我” ____ 的"]),
        ("____ is", [" ____ is", "(____) is"]),
        ("UN ____ is", ["UN____is"]),
        ("I ____ ____ it.", ["I [MASK][MASK] it.", "I (____)(____) it.", "I____ ____it."]),
        ("今天____[MASK]去公园。", ["今天____ ____去公园。", "今天 （____） （____） 去公园。"]),
        ("a ____\nb", ["a ____ \r\nb", "a (____)\nb", "a____\nb"]),
    ],
)  # fmt: skip
def test_forms_of_a_blank_are_read_as_the_clean_one(clean: str, texts: list[str]) -> None:
    """Brackets and quotes around, spaces before punctuation, and missing spaces change nothing."""
    for text in texts:
        assert read(text) == read(clean), text


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("In 20____ we", "In 20", "we"),
        ("the ____-year-old", "the ", "-year-old"),
        ("I paid $____, not", "I paid $", ", not"),
        ("I was ____ing it", "I was ", "ing it"),
        ("the ____s are", "the ", "s are"),
        ("the f____ is", "the f", "is"),
        ("unun un____, is", "unun un", ", is"),
        ("I am ____ :)", "I am ", ":)"),
        ("about ____ .5 of", "about ", ".5 of"),
        ("我用iPhone____手机", "我用iPhone", "手机"),
        ("我用Photoshop____，很好", "我用Photoshop", "，很好"),
        ("他读《____》。", "他读《", "》。"),
        ("(see ____ and tea)", "(see ", "and tea)"),
        ('"A b" ____ "c d"', '"A b" ', '"c d"'),
        ("Goin ' ____ now", "Goin ' ", "now"),
        ("don'____' you", "don'", "' you"),
    ],
)
def test_what_stays_next_to_a_blank(text: str, before: str, after: str) -> None:
    """Digits, signs, parts of words and Chinese stay glued; wider brackets are read."""
    layout = blanks(text)
    assert (layout.before, layout.slots[0].after) == (before, after)


@pytest.mark.parametrize("marker", ["____", "[MASK]", "[mask]", "<Mask>", "“____”", "(____ )"])
def test_markers_say_nothing_about_the_writing(marker: str) -> None:
    """A text is in capitals if the text around its blanks is; its choices are then read small."""
    for text in ("HOW {} YOU?", "我 {}", "{} is it", "OK {}"):
        reading = blanks(text.format(marker)).reading
        assert reading.is_capitals == (text[0] == "H")
        assert reading.write("ok", 3) == ("OK" if text[0] == "H" else "ok")
    assert read(f"HOW{marker}YOU?") == read("How ____ you?")
    assert read(f"MAY I{marker}YOU?") == read("May I ____ you?")
    query = ClozeQuery(f"HOW {marker} YOU?", choices=["ARE", "IS", "I"])
    lists = [{"ARE": ("ARE",), "IS": ("IS",), "I": ("I",)}]
    small = {"are": ("ARE",), "is": ("IS",), "I": ("I",)}
    assert find_blanks(query, 1, lists).choices == [small]
    same = [{"US": ("US",), "us": ("us",)}]
    assert find_blanks(query, 1, same).choices == [{"us": ("US", "us")}]


def test_choices_that_complete_words_are_read_glued() -> None:
    """Endings and apostrophes join the word before the blank, other choices are words."""
    for choices in (["s", "ed", "ing"], ["'s", "is"]):
        assert read("It play____ now", choices=choices)[0] == "It play"
        assert fill("It play____ now", choices[0], choices=choices) == f"It play{choices[0]} now"
    assert read("It play____ now", choices=["s", "no"])[0] == "It play "


@pytest.mark.parametrize(
    ("text", "words", "filled"),
    [
        ("Our plan is____.", ["good"], "Our plan is good."),
        ("What____you doing?", ["are"], "What are you doing?"),
        ("What (____)you doing?", ["are"], "What (are)you doing?"),
        ("I like ____ , but", ["it"], "I like it , but"),
        ("A____and____B", ["x", "y"], "A x and y B"),
        ("I [MASK][MASK].", ["like", "it"], "I like it."),
        ("今天[MASK][MASK]去", ["我", "们"], "今天我们去"),
        ("He is____", ["好"], "He is好"),
        ("In 20____", ["26"], "In 2026"),
        ("Ｉ　am\u200b____！\r\n", ["ok"], "Ｉ　am\u200b ok！\r\n"),
    ],
)
def test_missing_spaces_are_filled_in_with_the_word(
    text: str, words: list[str], filled: str
) -> None:
    """A glued word gets its spaces; all that the user wrote stays."""
    assert fill(text, *words) == filled


def test_answers_are_in_the_writing_of_the_text_and_choices_as_sent() -> None:
    """Words that are written the same add up; the first is filled in."""
    layout = blanks("學生們在____裡讀書")
    words = [Filling("学校", 0.5), Filling("教室", 0.25), Filling("學校", 0.125)]
    result = layout.result([words], Usage(0))
    assert result.filled == "學生們在學校裡讀書"
    assert [(each.word, each.probability) for each in result.blanks[0].candidates] == [
        ("學校", 0.625),
        ("教室", 0.25),
    ]
    layout = blanks("HOW ____ YOU?")
    result = layout.result([[Filling("are", 0.5), Filling("Are", 0.25)]], Usage(0))
    assert result.filled == "HOW ARE YOU?"
    assert result.blanks[0].candidates == (Filling("ARE", 0.75),)
    query = ClozeQuery("我____你", choices=[" 愛", "恨"])
    lists = [{"爱": (" 愛",), "恨": ("恨",)}]
    words = [Filling("爱", 0.9), Filling("恨", 0.1)]
    result = find_blanks(query, 1, lists).result([words], Usage(0))
    assert (result.filled, result.blanks[0].candidates[0].word) == ("我愛你", " 愛")


@given(
    parts=st.lists(st.tuples(st.one_of(ANY_TEXT, EDGES), MARKERS), min_size=1, max_size=4),
    end=st.one_of(ANY_TEXT, EDGES),
)
@example(parts=[("a", "____"), ("", "____")], end="\u0301")
def test_nothing_but_the_blanks_changes(parts: list[tuple[str, str]], end: str) -> None:
    """Blanks are where markers are, and with what fills them removed the text is as it was sent."""
    text = "".join(before + marker for before, marker in parts) + end
    layout = blanks(text)
    assert len(layout.slots) == count_blanks(layout.query)
    kept, position = [], 0
    for slot in layout.slots:
        assert position <= slot.start < slot.end <= len(text)
        assert blanks(text[slot.start : slot.end]).slots[0].end == slot.end - slot.start
        kept.append(text[position : slot.start])
        position = slot.end
    kept.append(text[position:])
    filled = layout.fill(["\U0010fffe"] * len(layout.slots))
    pieces = filled.split("\U0010fffe")
    assert len(pieces) == len(kept)
    for number, (piece, part) in enumerate(zip(pieces, kept, strict=True)):
        added = piece.replace(part, "", 1)
        assert piece in {part, f"{part} ", f" {part}", f" {part} "}
        assert len(added) <= (number > 0) + (number < len(pieces) - 1)
    assert layout.fill([None] * len(layout.slots)) == text


# A word before a blank, the blank itself, and the spaces on either side in English.
SENTENCES = [
    "I drink a cup of{l}{b}{p}.",
    "The secret of success is{l}{b}{p}.",
    "What{l}{b}{r}you doing?",
    "Tom{l}{b}{r}to school every day.",
    "I like{l}{b}{p}, but not tea.",
    "Where is the{l}{b}{p}?",
    "He was so{l}{b}{p}!",
    "今天天气很{z}{b}{p}。",
    "请把门{z}{b}{z}上。",
    "我{z}{b}{z}学生。",
    "我们坐{z}{b}{z}去上海。",
    "他在{z}{b}{p}，我在家。",
]
FORMS = [
    {"l": " ", "b": "____", "r": " ", "p": "", "z": ""},
    {"l": " ", "b": "[mask]", "r": "\u3000", "p": " ", "z": " "},
    {"l": "", "b": "____", "r": "", "p": "", "z": "\u200b"},
    {"l": " ", "b": "（____）", "r": " ", "p": "", "z": ""},
    {"l": "", "b": "( {Blank} )", "r": "", "p": "\u200b", "z": " "},
    {"l": "\xa0 ", "b": "“____”", "r": "  ", "p": "  ", "z": ""},
    {"l": " ", "b": "[<MASK>]", "r": "", "p": "\u3000", "z": ""},
]
WORDS = st.sampled_from(["I", "like", "tea", "and", "Tom", "我", "喜欢", "公园"])
BRACKETS = ["({})", "（ {} ）", "[{}]", "【{}】", "“{}”", '"{}"', "「{}」", "({} )", "[({})]"]


@given(
    st.lists(WORDS, min_size=1, max_size=4),
    st.lists(WORDS, max_size=4),
    st.sampled_from([".", "!", "。", ", "]),
    st.sampled_from(BRACKETS),
    MARKERS,
)
def test_bracketed_blanks_are_read_as_the_clean_one(
    left: list[str], right: list[str], stop: str, brackets: str, marker: str
) -> None:
    """A sentence in spaced and unspaced scripts is read the same with brackets, and with spaces."""
    before, after = " ".join(left), " ".join(right)
    clean = f"{before} ____ {after}{stop}" if right else f"{before} ____{stop}"
    assert read(clean.replace("____", brackets.format(marker))) == read(clean)
    if not right:
        assert read(f"{before} {marker} {stop}") == read(clean)
        assert read(f"{before}\u3000{marker}\u200b  {stop}") == read(clean)


def test_the_bundled_checkpoint_answers_every_form_as_the_clean_sentence() -> None:
    """A sentence gets the same candidates, with the same probabilities, however it is typed."""
    predictor = Predictor(*open_model(DEFAULT_CHECKPOINT))
    forms = [text.format(**form) for text, form in product(SENTENCES, FORMS)]
    results = predictor.run([ClozeQuery(form) for form in forms])
    answers = [result.blanks for result in results if isinstance(result, ClozeResult)]
    for number, ((blank,), form) in enumerate(zip(answers, forms, strict=True)):
        clean = answers[number - number % len(FORMS)][0]
        assert blank.candidates == clean.candidates, form
        assert len(blank.candidates) == 5


def test_the_right_side_ends_with_its_line() -> None:
    """A blank is followed by the rest of its line, which may be empty."""
    first, second, third = blanks("a ____ b\nc ____ d ____").slots
    assert (first.line, first.line_ends, first.after) == ("b", True, "b\nc ")
    assert (second.line, second.line_ends) == ("d ", False)
    assert (third.known, third.line_ends) == (False, True)
    (slot,) = blanks("the ____\nnext").slots
    assert (slot.known, slot.line) == (True, "")


@pytest.mark.parametrize(
    ("text", "word", "spans"),
    [
        ("the ____ is", "store", ["store "]),
        ("the ____ is", "云南", ["云南"]),
        ("the ____.", "store", ["store"]),
        ("the ____.", "云南", ["云南"]),
        ("the ____", "store", ["store", "store "]),
        ("the ____[MASK]", "store", ["store "]),
        ("要____[MASK]", "store", ["store", "store "]),
    ],
)
def test_spans_fit_the_spaces(text: str, word: str, spans: list[str]) -> None:
    """A word before a space has it, a word before a full stop does not; at the end both fit."""
    slot = blanks(text).slots[0]
    assert slot.spellings(word) == spans
    assert all(slot.takes(span) for span in spans)
    assert word in spans or not slot.takes(word)


@pytest.mark.parametrize(
    ("text", "language"),
    [("我要去____ open park open.", "zh"), ("open park open ____我要去", "zh"),
     ("open park ____ open park open.", "en"), ("我要去,open park ____ open park.", "en")],
)  # fmt: skip
def test_eight_characters_on_either_side_show_the_language(text: str, language: str) -> None:
    """The language is Chinese if Chinese is near the blank, on either side."""
    assert blanks(text).slots[0].language == language
