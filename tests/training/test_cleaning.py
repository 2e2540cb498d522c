"""Raw lines to clean lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.cleaning import clean, mask_contacts, sentences


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Mr. A. Smith left. Who knows why?", ["Mr. A. Smith left.", "Who knows why?"]),
        ('"What?" he asked. "I see!" 12. ...', ['"What?" he asked.', '"I see!" 12. ...']),
        ("我来了。“你呢？”他说。好", ["我来了。", "“你呢？”", "他说。", "好"]),
        ('他说:"好。"然后走。"你呢?"她问', ['他说:"好。"', "然后走。", '"你呢?"', "她问"]),
        ("你好吗?很好!第3.5章", ["你好吗?", "很好!", "第3.5章"]),
        ("1. Go on", ["1. Go on"]),
        ("12.", ["12."]),
    ],
)
def test_lines_are_cut_into_sentences(line: str, expected: list[str]) -> None:
    """Sentences end at their marks, not after titles, initials or inside speech."""
    assert sentences(line) == expected
    if len(expected) > 1:
        assert clean(line, 500, split_sentences=True) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("  a \t b\u3000c\u00a0d  ", "a b c d"),
        ("e\u0301te\u0301", "été"),
        ("a\x00b\nc\ue000\ud83d", "ab c"),
        ("\ufeffz\u200be\u00adro\u202e", "zero"),
        ("家\u200d庭裡１", "家庭里1"),
    ],
)
def test_lines_are_cleaned(raw: str, expected: str) -> None:
    """Lines are in normal form: spaces are single, letters composed, invisible marks gone."""
    assert clean(raw, 100) == [expected]


@pytest.mark.parametrize("raw", ["", "   ", "12:30", "——！？", "\x00\x01", "_____"])
def test_lines_without_letters_are_dropped(raw: str) -> None:
    """A line without a letter is dropped."""
    assert clean(raw, 100) == []


@given(
    text=st.text(alphabet=st.sampled_from('ab我们 。.!,，"”'), max_size=400),
    limit=st.integers(16, 60),
    split=st.booleans(),
)
def test_split_lines_lose_only_spaces(text: str, limit: int, split: bool) -> None:
    """Parts of a long line are within the limit, and together have its letters in order."""
    parts = clean(text, limit, split_sentences=split)
    assert all(0 < len(part) <= limit and part == part.strip() for part in parts)
    whole = "".join(clean(text, 10_000))
    assert list(filter(str.isalpha, "".join(parts))) == list(filter(str.isalpha, whole))


@pytest.mark.parametrize(
    ("line", "limit", "parts"),
    [
        (
            "我说：“好。”他走了！后来呢，没有人知道。",
            13,
            ["我说：“好。”他走了！", "后来呢，没有人知道。"],
        ),
        (
            "One is here. Two came later, they say.",
            25,
            ["One is here.", "Two came later, they say."],
        ),
        ("alpha beta gamma delta", 16, ["alpha beta", "gamma delta"]),
        ("长" * 40, 16, ["长" * 16, "长" * 16, "长" * 8]),
    ],
)
def test_long_lines_are_split(line: str, limit: int, parts: list[str]) -> None:
    """A sentence end with its closing quote divides, else a space or comma, else the limit."""
    assert clean(line, limit) == parts


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("我们走了。" * 20, ["我们走了。"] * 20),
        ("We left. " * 20, ["We left."] * 20),
        ("长" * 100, ["长" * 16] * 6 + ["长" * 4]),
        ("we left " * 20, ["we left we left"] * 10),
    ],
)
def test_documents_are_cut_into_sentences(line: str, parts: list[str]) -> None:
    """A line many times as long as the limit becomes sentences; without marks, split parts."""
    assert clean(line, 16) == parts


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("写信到zhang.san@mail.example.cn谢谢", "写信到name@example.com谢谢"),
        ("电话13812345678。", "电话00000000000。"),
        ("+86 138 1234 5678", "+00 000 0000 0000"),
        ("拨打010-62529872或(021)6252 9872", "拨打000-00000000或(000)0000 0000"),
        ("Call 415-647-7755, or (415) 647-7755.", "Call 000-000-0000, or (000) 000-0000."),
        ("+1 415.647.7755", "+0 000.000.0000"),
        ("555-1234", "000-0000"),
        ("id 62529872", "id 00000000"),
    ],
)
def test_contacts_are_masked(text: str, masked: str) -> None:
    """Mail addresses and telephone numbers of many shapes are masked; their shape is kept."""
    assert mask_contacts(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        *("2013-2015", "2004-06-25", "12:30:45", "1,000,000 people", "3.14159265", "5 + 3 = 8"),
        *("在2013年12月25日", "192.168.100.200", "@home", "price: 1500000.50"),
    ],
)
def test_other_numbers_are_kept(text: str) -> None:
    """Years, dates, times, amounts and fractions are not telephone numbers."""
    assert mask_contacts(text) == text


@given(text=st.text(alphabet=st.sampled_from("0123456789 +-.()a"), max_size=60))
def test_masking_only_writes_zeros(text: str) -> None:
    """Masking a telephone number changes digits to 0 and nothing else."""
    for before, after in zip(text, mask_contacts(text), strict=True):
        assert after == before or (after == "0" and before.isdigit())


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text", ["a" * 20_000 + "@" + "a." * 20_000, "+1" + " 1" * 40_000, "1-" * 40_000, "(" * 40_000]
)
def test_masking_is_linear_on_hostile_text(text: str) -> None:
    """Long runs that almost match do not stall the patterns."""
    assert mask_contacts(text)
