"""The report of a text, and its warnings."""

import json
import os
import re
from pathlib import Path

import pytest

from tests.training.made_up_text import english, write_lines
from training.data.file_report import FileReport
from training.data.reading import ReadOptions, read_text
from training.data.sources import named_sources
from training.data.text_report import find_warnings
from training.data.text_signs import TextSigns

CHINESE = "我们昨天在学校里看书，今天要去公园玩。"


def test_the_report_has_all_figures(tmp_path: Path) -> None:
    """Text and JSON name files, skipped files, lines, removed lines, and samples."""
    folder = tmp_path / "folder"
    folder.mkdir()
    lines = write_lines(folder / "a.txt", 300, english)
    (folder / "a.txt").write_text("\n".join([*lines, lines[0], "12:30"]), encoding="utf-8")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8")
    (folder / os.fsdecode(b"caf\xe9.doc")).write_bytes(b"\xd0\xcf")
    report = read_text(named_sources([str(folder)]), ReadOptions(), tmp_path / "spools").report
    distinct = len(set(lines))
    text, values = report.to_text(), json.loads(report.to_json())
    assert f"lines      English {distinct:,}" in text
    assert f"{302 - distinct - 1} duplicates, 1 without letters" in text
    assert "photo.jpg: " in text
    assert len(report.samples) == 10
    assert set(report.samples) <= set(lines)
    assert all(f"\n  {sample}" in text for sample in report.samples)
    assert values["lines"] == {"en": distinct}
    assert values["files"][0]["lines"] == 302
    names = [Path(each["path"]).name for each in values["skipped"]]
    assert names == [os.fsdecode(b"caf\xe9.doc"), "photo.jpg"]
    assert "caf\\udce9.doc: " in text
    text.encode()


def test_what_was_removed_is_counted(tmp_path: Path) -> None:
    """Reasons of all files are added up, also in JSON."""
    write_lines(tmp_path / "a.txt", 30, english)
    report = read_text(
        named_sources([str(tmp_path / "a.txt")]), ReadOptions(), tmp_path / "s"
    ).report
    for file in report.files:
        file.removed.update({"markup": 1200})
    assert "1,200 markup" in report.to_text()
    assert json.loads(report.to_json())["files"][0]["removed"] == {"markup": 1200}


def test_a_file_that_is_mostly_markup_is_warned_of(tmp_path: Path) -> None:
    """The warning names the share of text."""
    page = "".join(f"<p class='{'x' * 90}'><b>short</b></p>" for _ in range(50))
    (tmp_path / "a.html").write_text(page, encoding="utf-8")
    sources = named_sources([str(tmp_path / "a.html")])
    report = read_text(sources, ReadOptions(), tmp_path / "s").report
    assert re.search(r"a\.html: only \d% of it is text", report.warnings[0])


def test_long_lists_are_cut(tmp_path: Path) -> None:
    """The text names twenty files, and the number of the others."""
    for number in range(25):
        write_lines(tmp_path / f"{number}.txt", 10, english, seed=number)
    report = read_text(named_sources([str(tmp_path)]), ReadOptions(), tmp_path / "s").report
    assert report.to_text().count(".txt: txt") == 20
    assert "and 5 more" in report.to_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lines": {"en": 40}}, "40 different lines are little text; 2,000 or more"),
        ({"held_out_lines": {"en": 900, "zh": 12}}, "few held-out lines in Chinese"),
        ({"folded": {"zh": 7}}, "only 7 lines in Chinese"),
        ({"duplicates": 30_000}, "75% of the lines occurred before"),
        ({"document_lines": 5000}, "5,000 lines are sentences of documents"),
        ({"files": [FileReport("a.txt", "txt", lines=9, warnings=["odd"])]}, "a.txt: odd"),
    ],
)
def test_doubtful_text_is_warned_of(changes: dict[str, object], message: str) -> None:
    """Each fault of a text gives one warning; a good text none."""
    good: dict[str, object] = {
        "files": [FileReport("a.txt", "txt", lines=10_000)],
        "lines": {"en": 10_000},
        "folded": {},
        "duplicates": 10,
        "document_lines": 1,
        "held_out_lines": {"en": 900},
    }
    assert find_warnings(**good) == ()  # type: ignore[arg-type]
    (warning,) = find_warnings(**good | changes)  # type: ignore[arg-type]
    assert message in warning


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (CHINESE.encode().decode("latin-1"), "mojibake"),
        (CHINESE.encode().decode("cp1252", "ignore"), "mojibake"),
        (CHINESE.encode().decode("gbk", "ignore"), "mojibake"),
        ("It’s a café, “really”. ".encode().decode("cp1252", "ignore"), "mojibake"),
        (CHINESE.encode("gbk").decode("latin-1"), "mojibake"),
        (f"{CHINESE}锟斤拷", "1 replacement characters"),
        ("a \ufffd b", "1 replacement characters"),
        ("Вчера мы были в школе, а сегодня идём в парк.", r"100% .* neither .* \(Cyrillic\)"),
    ],
)
def test_signs_of_a_wrong_encoding_or_script(line: str, message: str) -> None:
    """Mojibake, lost characters and other scripts give one warning each."""
    signs = TextSigns()
    signs.add(line)
    (warning,) = signs.warnings()
    assert re.search(message, warning)


@pytest.mark.parametrize(
    "line",
    [
        CHINESE,
        "It’s a café, “really”; naïve? Señor—Müller: 20 °C…",
        "ÇA VA, ÀÉÎÕ! « L’été »",
        "浜松町",
    ],
)
def test_good_text_has_no_signs(line: str) -> None:
    """Accents, curly quotes and rare characters are not mojibake."""
    signs = TextSigns()
    for _ in range(3):
        signs.add(f"{line} {CHINESE * 3}")
    assert signs.warnings() == []


def test_later_lines_are_sampled() -> None:
    """After the first lines, one line in sixteen is looked at."""
    signs = TextSigns()
    for _ in range(500):
        signs.add("good text")
    for _ in range(160):
        signs.add("a \ufffd b")
    (warning,) = signs.warnings()
    assert warning.startswith("10 replacement characters")
