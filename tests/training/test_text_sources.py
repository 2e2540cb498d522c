"""Text files to clean lines."""

import gzip
import io
import json
import lzma
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from model.errors import CorpusError
from training.data import text_sources
from training.data.text_sources import (
    choose_cuts,
    clean,
    expand_inputs,
    half_width,
    mask_contacts,
    read_lines,
    sentences,
    spool_stdin,
)

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
TEXT = "first line\n第二行。\r\n\nlast"


def _texts(path: Path, field: str | None = None) -> list[str]:
    return [text for _, text, _ in read_lines(path, field)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Mr. A. Smith left. Who knows why?", ["Mr. A. Smith left.", "Who knows why?"]),
        ('"What?" he asked. "I see!" 12. ...', ['"What?" he asked.', '"I see!" 12. ...']),
        ("我来了。“你呢？”他说。好", ["我来了。", "“你呢？”", "他说。", "好"]),
        ("1. Go on", ["1. Go on"]),
        ("12.", ["12."]),
    ],
)
def test_lines_are_cut_into_sentences(line: str, expected: list[str]) -> None:
    """Sentences end at marks that end one, not after titles, initials or inside speech; numbers alone are none."""
    assert sentences(line) == expected


@given(st.text(alphabet="aB我.!?。“” 1"))
def test_sentences_lose_only_spaces(line: str) -> None:
    """Whatever the text, its sentences hold every other character once, in order."""
    assert "".join("".join(sentences(line)).split()) == "".join(line.split())


# ── inputs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_inputs_may_be_files_folders_and_globs(tmp_path: Path) -> None:
    """A folder gives its text files by suffix, a glob its matches, a file itself whatever its name; each file once."""
    for name in ("a.txt", "deep/b.jsonl", "deep/c.txt.gz", "deep/image.png", "other.log"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = expand_inputs([".", "other.log", "*.txt", "deep/*.gz"], tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "a.txt",
        "deep/b.jsonl",
        "deep/c.txt.gz",
        "other.log",
    ]


@pytest.mark.parametrize("entry", ["nowhere.txt", "*.nothing"])
def test_missing_inputs_are_named(tmp_path: Path, entry: str) -> None:
    """What matches nothing is an error with its path."""
    with pytest.raises(CorpusError, match=r"no such file, folder or match; check the path"):
        expand_inputs([entry], tmp_path)


def test_folders_without_text_are_named(tmp_path: Path) -> None:
    """A folder without any text file is an error that says which names count."""
    (tmp_path / "image.png").write_bytes(b"x")
    with pytest.raises(CorpusError, match=r"no file below it ends in \.txt or \.jsonl"):
        expand_inputs([str(tmp_path)])


def test_standard_input_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard input is kept in a file, byte for byte."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("我\n".encode() * 50_000)))
    spool_stdin(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == "我\n".encode() * 50_000


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("suffix", COMPRESS)
def test_lines_come_numbered_from_any_compression(tmp_path: Path, suffix: str) -> None:
    """Every compression gives the same numbered lines, without line ends."""
    path = tmp_path / f"text.txt{suffix}"
    path.write_bytes(COMPRESS[suffix](TEXT.encode()))
    lines = list(read_lines(path))
    assert [(number, text) for number, text, _ in lines] == [
        (1, "first line"),
        (2, "第二行。"),
        (3, ""),
        (4, "last"),
    ]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_archives_of_several_members_are_read_whole(tmp_path: Path, suffix: str) -> None:
    """Concatenated archives, as parallel compressors write them, are read to their end."""
    path = tmp_path / f"text.txt{suffix}"
    path.write_bytes(COMPRESS[suffix](b"one\n" * 9000) + COMPRESS[suffix](b"two\n"))
    assert Counter(_texts(path)) == {"one": 9000, "two": 1}


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: b"no archive" + data], ids=["short", "other"]
)
def test_damaged_archives_are_named(
    tmp_path: Path, suffix: str, damage: Callable[[bytes], bytes]
) -> None:
    """A truncated archive, or what is none, is an error that names the file and the remedy."""
    path = tmp_path / f"text.txt{suffix}"
    noise = random.Random(1).randbytes(50_000).hex().encode()
    path.write_bytes(damage(COMPRESS[suffix](noise)))
    with pytest.raises(
        CorpusError, match=rf"text\.txt{suffix}: damaged or truncated {suffix} archive.*again"
    ):
        _texts(path)


def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    """Another encoding is an error with file, line and byte, and no text of the file."""
    path = tmp_path / "gbk.txt"
    path.write_bytes("好\n".encode() + "秘密".encode("gbk"))
    with pytest.raises(
        CorpusError, match=r"gbk\.txt:2: not UTF-8 \(byte 0 of the line\); convert it"
    ) as caught:
        _texts(path)
    assert "秘" not in str(caught.value)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    """A byte order mark at the start is dropped."""
    path = tmp_path / "bom.txt"
    path.write_bytes("\ufeff一\n二".encode())
    assert _texts(path) == ["一", "二"]


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    """What cannot be read is an error that names it."""
    with pytest.raises(CorpusError, match=r"cannot be read: .*check path and permissions"):
        _texts(tmp_path)


def test_endless_lines_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line without end comes in bounded parts that divide no character."""
    monkeypatch.setattr(text_sources, "MAX_RAW_BYTES", 1000)
    monkeypatch.setattr(text_sources, "_CHUNK", 77)
    path = tmp_path / "long.txt"
    path.write_bytes(("我😀a" * 900 + "\nend").encode())
    lines = list(read_lines(path))
    assert "".join(text for number, text, _ in lines if number == 1) == "我😀a" * 900
    assert max(len(text.encode()) for _, text, _ in lines) <= 1000 + 77
    assert lines[-1][:2] == (2, "end")
    assert (
        sum(size for _, _, size in lines) == path.stat().st_size + 1
    )  # the last line end is counted though missing


def test_json_lines_give_the_named_member(tmp_path: Path) -> None:
    """The text of the named member is read; blank lines are passed over, line ends inside a text end lines."""
    path = tmp_path / "text.jsonl.gz"
    rows = [json.dumps({"text": "一\ntwo", "id": 1}), "", json.dumps({"text": "😀"})]
    path.write_bytes(gzip.compress("\n".join(rows).encode()))
    assert [(number, text) for number, text, _ in read_lines(path, "text")] == [
        (1, "一"),
        (1, "two"),
        (3, "😀"),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"body": "secret"}', r"no member 'text' \(an object with 1 other members\).*--field"),
        ('["secret"]', r"no member 'text' \(list\)"),
        ('{"text": 5}', r"member 'text' is int, not text.*--field"),
        ('{"text": "secret', r"not JSON; each line must be one JSON object"),
        ('{"text": "secret \\ud800"}', r"lone surrogate at 7; repair"),
        ("[" * 100_000, r"not JSON"),
    ],
)
def test_bad_json_lines_are_named(tmp_path: Path, row: str, message: str) -> None:
    """What is not an object with text in the member is an error with file, line and remedy, and no text."""
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "fine"}\n' + row)
    with pytest.raises(CorpusError, match=rf"text\.jsonl:2: .*{message}") as caught:
        _texts(path, "text")
    assert "secret" not in str(caught.value)


def test_json_lines_need_a_field(tmp_path: Path) -> None:
    """Without the member's name JSON Lines cannot be read."""
    path = tmp_path / "text.jsonl"
    path.write_text("{}")
    with pytest.raises(CorpusError, match=r"add --field NAME"):
        _texts(path)


def test_endless_json_lines_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A JSON line above the bound is an error, not memory."""
    monkeypatch.setattr(text_sources, "MAX_RAW_BYTES", 1000)
    path = tmp_path / "text.jsonl"
    path.write_text(json.dumps({"text": "a" * 200_000}))
    with pytest.raises(CorpusError, match=r"text\.jsonl:1: a JSON line above 1000 bytes; split"):
        _texts(path, "text")


# ── cleaning ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("  a \t b\u3000c\u00a0d  ", "a b c d"),
        ("e\u0301te\u0301", "été"),
        ("a\x00b\x07c", "a b c"),
        ("\ufeffz\u200be\u00adro\u202e", "zero"),
        ("家\u200d庭", "家\u200d庭"),
    ],
)
def test_lines_are_cleaned(raw: str, expected: str) -> None:
    """Spaces are single, letters composed, control characters spaces, invisible marks gone."""
    assert clean(raw, 100, Counter()) == [expected]


@pytest.mark.parametrize("raw", ["", "   ", "12:30", "——！？", "\x00\x01", "_____"])
def test_lines_without_letters_are_dropped(raw: str) -> None:
    """A line that holds no letter is dropped and counted."""
    counts: Counter[str] = Counter()
    assert clean(raw, 100, counts) == []
    assert counts["without_letters"] == 1


def test_what_is_cleaned_is_counted() -> None:
    """Masked lines, control characters and long lines are counted by line."""
    counts: Counter[str] = Counter()
    clean("a\x00b\x00", 100, counts)
    clean("call 555-1234 or mail me@example.org", 100, counts)
    clean("word " * 100, 100, counts)
    assert counts == {"control_characters": 1, "masked": 1, "long_lines": 1}


@given(
    text=st.text(alphabet=st.sampled_from('ab我们 。.!,，"”'), max_size=400),
    limit=st.integers(16, 60),
)
def test_split_lines_lose_only_spaces(text: str, limit: int) -> None:
    """Parts of a long line are within the limit, and together are the line but for spaces and letterless parts."""
    parts = clean(text, limit, Counter())
    assert all(0 < len(part) <= limit and part == part.strip() for part in parts)
    kept = "".join(parts)
    whole = clean(text, 10_000, Counter())
    letters = [character for character in "".join(whole) if character.isalpha()]
    assert [character for character in kept if character.isalpha()] == letters


def test_long_lines_are_split_at_sentence_ends() -> None:
    """A sentence keeps its closing quote; without sentence ends a space or comma divides; else the limit does."""
    assert clean("我说：“好。”他走了很久很久！后来呢，没有人知道。", 20, Counter()) == [
        "我说：“好。”他走了很久很久！",
        "后来呢，没有人知道。",
    ]
    assert clean("One is here now. Two came later on, they say.", 32, Counter()) == [
        "One is here now.",
        "Two came later on, they say.",
    ]
    assert clean("alpha beta gamma delta", 16, Counter()) == ["alpha beta", "gamma delta"]
    assert clean("长" * 40, 16, Counter()) == ["长" * 16, "长" * 16, "长" * 8]


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
    """Mail addresses and telephone numbers of many shapes are masked, their shape kept."""
    assert mask_contacts(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "2013-2015",
        "2004-06-25",
        "12:30:45",
        "1,000,000 people",
        "3.14159265",
        "5 + 3 = 8",
        "在2013年12月25日",
        "192.168.100.200",
        "@home",
        "price: 1500000.50",
    ],
)
def test_other_numbers_are_kept(text: str) -> None:
    """Years, dates, times, amounts and fractions are no telephone numbers."""
    assert mask_contacts(text) == text


@given(text=st.text(alphabet=st.sampled_from("0123456789 +-.()a"), max_size=60))
def test_masking_only_writes_zeros(text: str) -> None:
    """Masking a telephone number changes digits to 0 and nothing else."""
    masked = mask_contacts(text)
    assert len(masked) == len(text)
    assert all(
        after in (before, "0") and (after == before or before.isdigit())
        for before, after in zip(text, masked, strict=True)
    )


def test_masking_is_linear_on_hostile_text() -> None:
    """Long runs that almost match do not stall the patterns."""
    for text in (
        "a" * 20_000 + "@" + "a." * 20_000,
        "+1" + " 1" * 40_000,
        "1-" * 40_000,
        "(" * 40_000,
    ):
        assert mask_contacts(text)


def test_half_width_copies() -> None:
    """Punctuation becomes half-width in Chinese lines, the full stop only at times; other lines have no copy."""
    rng = random.Random(1)
    copies = {half_width("好，你呢？（笑）。", rng) for _ in range(50)}
    assert copies == {"好,你呢?(笑)。", "好,你呢?(笑)."}
    assert half_width("Well, you?", rng) is None
    assert half_width("没有标点", rng) is None


# ── cuts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(
    text=st.text(alphabet=st.sampled_from("ab我们 。,'é"), max_size=40), seed=st.integers(0, 999)
)
def test_cuts_divide_the_line(text: str, seed: int) -> None:
    """Cuts ascend and stay inside; two cuts hold something; one cut leaves something on both sides."""
    cuts = choose_cuts(text, {"我们"}, random.Random(seed))
    assert len(cuts) <= (2 if len(text) >= 4 else 0)
    if len(cuts) == 2:
        assert 0 <= cuts[0] < cuts[1] <= len(text)
    elif cuts:
        assert 0 < cuts[0] < len(text)


def test_word_cuts_take_the_space_that_follows() -> None:
    """Between two cuts stand whole words with the space after the last; before punctuation there is none."""
    text = "I went to the store, alone today"
    spans = Counter()
    for seed in range(600):
        cuts = choose_cuts(text, set(), random.Random(seed))
        if len(cuts) == 2:
            spans[text[cuts[0] : cuts[1]]] += 1
    assert {"store", "went ", "to the ", "the store", "today"} <= set(spans)
    assert all(span.strip(" ") and not span.startswith(" ") for span in spans)
    words = Counter(len(span.split()) for span in spans.elements())
    assert words[1] > words[2] > words[3] > 0
    assert "store " not in spans


def test_chinese_cuts_prefer_tokens() -> None:
    """A Chinese gap is mostly a token of the vocabulary, and has at most four characters."""
    text = "老师批评了我们所有人很难过啊"
    tokens = {"老师", "批评", "难过"}
    spans = [
        text[cuts[0] : cuts[1]]
        for seed in range(800)
        if len(cuts := choose_cuts(text, tokens, random.Random(seed))) == 2
    ]
    assert {len(span) for span in spans} == {1, 2, 3, 4}
    by_chance = len(tokens) / (len(text) - 1) * 0.45
    assert sum(span in tokens for span in spans) / len(spans) > 2 * by_chance


def test_one_cut_stands_beside_han_or_at_a_word_start() -> None:
    """A single cut in English is at a word start, sometimes inside a word, never between a word and its space."""
    text = "I went to the store, alone today"
    places = Counter(
        cuts[0]
        for seed in range(2000)
        if len(cuts := choose_cuts(text, set(), random.Random(seed))) == 1
    )
    starts = {index for index in range(1, len(text)) if text[index - 1] == " "}
    assert starts <= set(places)
    assert all(text[place] not in " ," for place in places)
    inside = sum(count for place, count in places.items() if place not in starts)
    assert 0 < inside < sum(places.values()) / 2
