"""Sources are read once, to clean lines by language and split."""

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from model.errors import CorpusError
from tests.training.made_up_text import HAN, chinese, english, write_lines
from training.data.reading import ReadOptions, ReadText, read_text
from training.data.sources import SourceOptions, named_sources
from training.data.splits import Blocks, choose_blocks, group_languages, share_to_hold_out


def read(path: Path, **options: object) -> ReadText:
    """Read a file or folder next to which the spools lie."""
    return read_text(named_sources([str(path)]), ReadOptions(**options), path.parent / "spools")


def mixed(rng: random.Random) -> str:
    """An English line, or once in four times a Chinese one."""
    return chinese(rng) if rng.random() < 0.25 else english(rng)


def speech(rng: random.Random) -> str:
    """A Chinese sentence in quotes."""
    return f"“{''.join(rng.choices(HAN[:-4], k=rng.randint(6, 20)))}。”"


def lines_of(text: ReadText) -> list[list[str]]:
    """The lines of each part."""
    return [[line for _, line in part.split_lines()] for part in text.parts]


def test_each_line_has_its_own_language(tmp_path: Path) -> None:
    """Lines of two languages are two parts, each in the order of the file."""
    lines = list(dict.fromkeys(write_lines(tmp_path / "chat.txt", 400, mixed)))
    text = read(tmp_path / "chat.txt")
    assert [(part.name, part.language) for part in text.parts] == [
        ("chat", "en"),
        ("chat-zh", "zh"),
    ]
    expected = [[each for each in lines if each.isascii() == is_english] for is_english in (1, 0)]
    assert lines_of(text) == expected
    assert text.report.lines == {"en": len(expected[0]), "zh": len(expected[1])}


def test_a_rare_language_counts_as_the_common_one(tmp_path: Path) -> None:
    """A few Chinese lines stay in their place among English ones; a warning counts them."""
    lines = write_lines(tmp_path / "chat.txt", 200, english)
    lines[100] = "今天天气很好。"
    (tmp_path / "chat.txt").write_text("\n".join(lines), encoding="utf-8")
    text = read(tmp_path / "chat.txt")
    assert [(part.name, part.language) for part in text.parts] == [("chat", "en")]
    assert lines_of(text) == [list(dict.fromkeys(lines))]
    assert any("only 1 line in Chinese" in warning for warning in text.report.warnings)


def test_a_declared_language_holds_for_all_lines(tmp_path: Path) -> None:
    """A source that is declared to be Chinese has no English part."""
    write_lines(tmp_path / "chat.txt", 100, mixed)
    source = SourceOptions("chat", str(tmp_path / "chat.txt"), "zh")
    text = read_text((source,), ReadOptions(), tmp_path / "spools")
    assert [(part.name, part.language) for part in text.parts] == [("chat", "zh")]


def test_parts_have_different_names(tmp_path: Path) -> None:
    """The Chinese part of a source does not take the name of another source."""
    for name, seed in (("chat-zh", 1), ("chat", 2)):
        write_lines(tmp_path / f"{name}.txt", 100, mixed, seed)
    sources = named_sources([str(tmp_path / "chat-zh.txt"), str(tmp_path / "chat.txt")])
    text = read_text(sources, ReadOptions(), tmp_path / "spools")
    assert [part.name for part in text.parts] == ["chat-zh", "chat-zh-zh", "chat", "chat-zh-2"]


@pytest.mark.parametrize(("make", "space"), [(speech, ""), (english, " ")])
def test_a_document_on_one_line_is_read_as_sentences(
    tmp_path: Path, make: Callable[[random.Random], str], space: str
) -> None:
    """Thousands of sentences on one line are as many lines, which continue each other."""
    rng = random.Random(1)
    wanted = [make(rng) for _ in range(3000)]
    (tmp_path / "novel.txt").write_text(space.join(wanted), encoding="utf-8")
    text = read(tmp_path / "novel.txt")
    assert text.parts[0].consecutive
    assert lines_of(text) == [list(dict.fromkeys(wanted))]
    assert sum(text.report.held_out_lines.values()) > 100


def test_duplicates_are_dropped_before_blocks_are_chosen(tmp_path: Path) -> None:
    """Half of a file that repeats the other half leaves no smaller blocks and no leaks."""
    lines = list(dict.fromkeys(write_lines(tmp_path / "a.txt", 1000, english)))
    (tmp_path / "a.txt").write_text("\n".join(lines * 2), encoding="utf-8")
    text = read(tmp_path / "a.txt", held_out_share=0.1, test_share=0.2)
    (part,) = text.parts
    splits: dict[str, list[str]] = {}
    for split, line in part.split_lines():
        splits.setdefault(split, []).append(line)
    assert sorted(line for each in splits.values() for line in each) == sorted(lines)
    assert text.report.duplicates == len(lines)
    assert len(splits["heldout"]) == text.report.held_out_lines["en"]
    assert len(splits["test"]) == text.report.test_lines["en"]
    assert 0.08 < len(splits["heldout"]) / len(lines) < 0.12
    assert 0.17 < len(splits["test"]) / len(lines) < 0.23


@pytest.mark.parametrize(
    ("lines", "share"), [(0, 0.1), (2_000, 0.1), (20_000, 0.05), (10_000_000, 0.005)]
)
def test_the_held_out_share_depends_on_the_text(lines: int, share: float) -> None:
    """About a thousand lines are held out, within limits."""
    assert share_to_hold_out(lines) == share


def test_one_block_is_always_for_training() -> None:
    """A text of one line holds out nothing; a text of two, one line, whatever the shares."""
    assert choose_blocks(1, 0.5, 0.5, "a") == Blocks(1)
    blocks = choose_blocks(2, 0.5, 0.5, "a")
    assert blocks.count(2) == {"train": 1, "heldout": 1}


def test_languages_are_grouped_by_share() -> None:
    """A language below 5 % goes with the other; the larger group comes first."""
    assert group_languages({"zh": 5, "en": 95}) == [("en",), ("zh",)]
    assert group_languages({"zh": 96, "en": 4}) == [("zh", "en")]
    assert group_languages({"en": 4}) == [("en",)]


def test_a_faulty_file_in_a_folder_is_skipped(tmp_path: Path) -> None:
    """It is named with the reason; what could be read before the fault stays."""
    folder = tmp_path / "folder"
    folder.mkdir()
    write_lines(folder / "good.txt", 100, english)
    rng = random.Random(3)
    whole = gzip.compress("\n".join(english(rng) for _ in range(20_000)).encode())
    (folder / "part.txt.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "torn.txt.gz").write_bytes(whole[:4])
    text = read(folder)
    assert [Path(report.path).name for report in text.report.files] == ["good.txt", "part.txt.gz"]
    assert [each.path.name for each in text.report.skipped] == ["torn.txt.gz"]
    assert "truncated" in text.report.skipped[0].reason
    assert any("part.txt.gz: read up to a fault" in each for each in text.report.warnings)
    with pytest.raises(CorpusError, match="truncated"):
        read(folder / "torn.txt.gz")
    for name in ("good.txt", "part.txt.gz"):
        (folder / name).unlink()
    with pytest.raises(CorpusError, match=r"torn\.txt\.gz: .*truncated"):
        read(folder)


def test_a_file_without_text_is_named(tmp_path: Path) -> None:
    """A page of nothing but markup counts as skipped, with the reason."""
    folder = tmp_path / "folder"
    folder.mkdir()
    write_lines(folder / "good.txt", 100, english)
    (folder / "page.html").write_text("<p><br></p>", encoding="utf-8")
    (folder / "blank.txt").write_text(" \n\n ", encoding="utf-8")
    skipped = {each.path.name: each.reason for each in read(folder).report.skipped}
    assert skipped.keys() == {"page.html", "blank.txt"}
    assert skipped["blank.txt"] == "no text (only spaces)"


def test_an_encoding_may_be_insisted_on(tmp_path: Path) -> None:
    """Bytes of Windows-1252 are read as such."""
    (tmp_path / "a.txt").write_bytes("“Café” is a word.\n".encode("cp1252"))
    assert lines_of(read(tmp_path / "a.txt", encoding="cp1252")) == [["“Café” is a word."]]
