"""Detection of encodings."""

import random

import pytest

from training.data.encodings import detect, is_codec

SIMPLIFIED = (
    "夜里下了一场大雨，早上起来，院子里的花都开了。",
    "他说他不知道这件事，可是我们都觉得他知道。",
    "你吃饭了吗？没有，我还在公司开会呢。",
    "图书馆旁边新开了一家面馆，味道还不错。",
)
TRADITIONAL = (
    "這個問題我們會後再討論，謝謝大家的參與。",
    "昨天晚上我跟朋友去夜市吃東西，人真的很多。",
    "老師說這個學期的報告要在下個禮拜交。",
    "為什麼圖書館今天沒有開門呢？",
)
FRENCH = (
    "L’été dernier, nous étions à la forêt près du château.",
    "Où êtes-vous né ? À Paris, « près de l’Opéra ».",
    "Ça coûte 5 € et le garçon était très fatigué.",
    "Noël, l’hôtel, le maïs et la créée : tout est là.",
)
ENGLISH = (
    "“It’s late,” she said – and closed the door…",
    "The café’s menu hadn’t changed for years.",
    "That costs £5 or €6, doesn’t it?",
    "He’d seen the naïve painter’s house.",
)
TEXTS = [
    ("gb18030", SIMPLIFIED),
    ("gb18030", TRADITIONAL),
    ("big5", TRADITIONAL),
    ("cp1252", FRENCH),
    ("cp1252", ENGLISH),
    ("utf-8", SIMPLIFIED),
    ("utf-8", FRENCH),
    ("utf-16-le", SIMPLIFIED),
    ("utf-16-be", TRADITIONAL),
    ("utf-16-le", ENGLISH),
    ("utf-16-be", FRENCH),
]


@pytest.mark.parametrize(("codec", "lines"), TEXTS)
def test_each_encoding_is_detected_in_one_line_and_in_many(
    codec: str, lines: tuple[str, ...]
) -> None:
    """One line of text is enough, and a long text may be cut in the middle of a character."""
    for line in lines:
        assert detect(line.encode(codec)) == codec, line
    long = ("\r\n".join(lines) * 300).encode(codec)
    even = 2 if codec.startswith("utf-16") else 1
    for size in (4000, 4002, 4004, 30_000):
        assert detect(long[:size]) == codec
        assert detect(long[: size + even]) == codec


@pytest.mark.parametrize(("codec", "lines"), [*TEXTS[:3], TEXTS[5]])
def test_damage_does_not_change_the_encoding(codec: str, lines: tuple[str, ...]) -> None:
    """A few broken bytes in Chinese text do not change its encoding."""
    data = bytearray(("\n".join(lines) * 50).encode(codec))
    generator = random.Random(7)
    for _ in range(8):
        data[generator.randrange(len(data))] = generator.randrange(128, 256)
    assert detect(bytes(data)) == codec


@pytest.mark.parametrize(
    ("data", "codec"),
    [
        (b"\xef\xbb\xbfabc", "utf-8"),
        ("\ufeff好".encode("utf-16-le"), "utf-16"),
        ("\ufeffabc".encode("utf-16-be"), "utf-16"),
        ("\ufeffabc".encode("utf-32-le"), "utf-32"),
        (b"plain ASCII", "utf-8"),
        (b"", "utf-8"),
    ],
)
def test_marks_decide(data: bytes, codec: str) -> None:
    """A byte order mark names the encoding; ASCII is UTF-8."""
    assert detect(data) == codec


def test_a_few_chinese_words_in_english_are_enough() -> None:
    """GB18030 and Big5 are distinguished by a few frequent characters in ASCII text."""
    english = "Thanks so much, that is all for now. " * 20
    assert detect(f"{english} 谢谢你，我们明天见。".encode("gb18030")) == "gb18030"
    assert detect(f"{english} 謝謝你，我們明天見。".encode("big5")) == "big5"


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        ("cp1251", "Все счастливые семьи похожи друг на друга, каждая несчастливая семья."),
        ("euc_jp", "昨日は雨が降っていたので、どこにも行かずに家で本を読んでいました。"),
    ],
)
def test_other_encodings_are_left_to_the_library(codec: str, text: str) -> None:
    """Text in none of the usual encodings is recognised if there is enough of it."""
    data = (text * 4).encode(codec)
    assert data.decode(detect(data)) == text * 4


def test_a_declared_encoding_is_taken_unless_it_is_wrong() -> None:
    """An encoding that a page names is used if it fits and the text is not UTF-8."""
    assert detect("naïve café".encode("iso8859-15"), "iso8859-15") == "iso8859-15"
    assert detect("你好，世界。".encode(), "gb2312") == "utf-8"
    assert detect("我们都知道你不会来的。".encode("gb18030"), "utf-8") == "gb18030"
    assert detect("我们都知道你不会来的。".encode("gb18030"), "nonsense") == "gb18030"


@pytest.mark.parametrize("name", ["base64", "rot13", "no-such", "undefined", "", "a\0b"])
def test_names_that_are_no_encoding_of_text(name: str) -> None:
    """Codecs of other things and unknown names are not encodings."""
    assert not is_codec(name)
    assert is_codec("GBK") and is_codec("utf_16")
