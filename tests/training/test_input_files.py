"""Files, folders and globs to files."""

import gzip
import os
import re
from pathlib import Path

import pytest

from model.errors import CorpusError
from training.data.input_files import find_files

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


def make(root: Path, files: dict[str, bytes]) -> None:
    """Write files by their paths below a folder."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def find(root: Path, *entries: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the kinds of the files found, and the reasons for others, by path."""
    found, skipped = find_files([str(root / entry) for entry in entries])
    return (
        {file.path.relative_to(root).as_posix(): file.kind for file in found},
        {file.path.relative_to(root).as_posix(): file.reason for file in skipped},
    )


def test_inputs_may_be_files_folders_and_globs(tmp_path: Path) -> None:
    """A folder gives its text files, a glob its matches, a file itself; each file once."""
    make(tmp_path, dict.fromkeys(("a.txt", "deep/b.jsonl", "deep/c.txt.gz", "more/d.md"), b"x"))
    found, skipped = find(tmp_path, "deep", "a.txt", "*.txt", "*/b*", "m*")
    assert list(found) == ["deep/b.jsonl", "deep/c.txt.gz", "a.txt", "more/d.md"]
    assert not skipped
    named = {
        file.path.name: file.named
        for file in find_files([str(tmp_path / "a.txt"), str(tmp_path)])[0]
    }
    assert named == {"a.txt": True, "b.jsonl": False, "c.txt.gz": False, "d.md": False}


def test_suffixes_name_kinds(tmp_path: Path) -> None:
    """The suffix before that of a compression names the kind, in any case."""
    kinds = {
        "a.TXT": "txt", "b.text": "txt", "c.log": "log", "d.srt": "srt", "e.vtt": "vtt",
        "f.md": "md", "g.markdown": "md", "h.html": "html", "i.HTM": "html", "j.xhtml": "html",
        "k.csv": "csv", "l.tsv": "tsv", "m.json": "json", "n.jsonl": "jsonl", "o.ndjson": "jsonl",
        "p.docx": "docx", "q.epub": "epub", "r.pdf": "pdf", "s.csv.gz": "csv", "t.Srt.XZ": "srt",
        "u.json.zst": "json", "v.v2.txt.bz2": "txt",
    }  # fmt: skip
    make(tmp_path, dict.fromkeys(kinds, b"x"))
    assert find(tmp_path, ".") == (kinds, {})


def test_other_files_of_a_folder_are_named_with_the_reason(tmp_path: Path) -> None:
    """A file that is not read comes with its reason; text of an unknown suffix is read."""
    text = "没有后缀的文本，也是文本。".encode("gb18030")
    read = {
        "notes": text,
        "v1.2 draft": b"text",
        "page.php5": b" <!DOCTYPE html><p>x",
        "n.gz": gzip.compress(text),
    }
    reasons = {
        "a.png": "a picture", "b.doc": "legacy Word; save it as .docx or .txt",
        "c.rtf": "word processor", "d.mobi": "convert it to .epub", "e.zip": "unpack it",
        "f.tar.gz": "unpack it", "g.xlsx": "save it as .csv", "h.py": "program code",
        "i.pdf.gz": "unpack it", "j.exe": "a program", "k.mp3": "sound",
        "l.ass": "convert them to .srt",
    }  # fmt: skip
    make(tmp_path, read | dict.fromkeys(reasons, b"x"))
    make(tmp_path, {"z0.txt": b"", "z1": PNG, "z2": bytes(range(256)) * 4, "z3.gz": b"no archive"})
    reasons |= {"z0.txt": "empty", "z1": "a picture", "z2": "not text", "z3.gz": "damaged"}
    found, skipped = find(tmp_path, ".")
    assert found == {"notes": "txt", "v1.2 draft": "txt", "page.php5": "html", "n.gz": "txt"}
    assert skipped.keys() == reasons.keys()
    assert not [name for name, reason in reasons.items() if reason not in skipped[name]]


def test_hidden_files_are_left_out_of_folders(tmp_path: Path) -> None:
    """Hidden files and folders, and lock files of word processors, are not looked at."""
    make(
        tmp_path,
        dict.fromkeys((".git/a.txt", ".b.txt", "~$c.docx", "__MACOSX/d.txt", "e.txt"), b"x"),
    )
    assert find(tmp_path, ".") == ({"e.txt": "txt"}, {})
    assert find(tmp_path, ".b.txt") == ({".b.txt": "txt"}, {})


def test_links_and_special_files_do_no_harm(tmp_path: Path) -> None:
    """Links are followed without loops; broken links and pipes are skipped with a reason."""
    make(tmp_path, {"in/a.txt": b"x", "out/b.txt": b"x"})
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/out").symlink_to(tmp_path / "out")
    (tmp_path / "in/again.txt").symlink_to(tmp_path / "in/a.txt")
    (tmp_path / "in/broken.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "in/pipe.txt")
    found, skipped = find(tmp_path, "in")
    assert list(found) == ["in/a.txt", "in/out/b.txt"]
    assert "No such file" in skipped["in/broken.txt"]
    assert "not a regular file" in skipped["in/pipe.txt"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("nowhere.txt", "no such file, folder or match; check the path"),
        ("*.nothing", "no such file, folder or match; check the path"),
        ("void", "no file in this folder; check the path"),
        ("pictures", r"no file with text among 2 \(2: a picture\)"),
        ("pictures/a.png", "a picture"),
        ("old.doc", "legacy Word; save it as .docx or .txt"),
        ("empty.txt", "empty"),
        ("unknown", "not text"),
    ],
)
def test_inputs_without_text_are_errors(tmp_path: Path, entry: str, message: str) -> None:
    """An input without anything to read is an error with its path and the remedy."""
    make(tmp_path, {"pictures/a.png": PNG, "pictures/b": PNG, "old.doc": b"x", "empty.txt": b""})
    make(tmp_path, {"unknown": bytes(range(256))})
    (tmp_path / "void").mkdir()
    with pytest.raises(CorpusError, match=rf"{re.escape(entry)}: {message}"):
        find_files([str(tmp_path / entry)])


def test_code_is_read_if_it_is_named(tmp_path: Path) -> None:
    """Text with a suffix that is left out of folders is read if it is named itself."""
    make(tmp_path, {"a.py": b"print()", "b.xml": b"<p>text</p>"})
    assert find(tmp_path, "a.py", "b.xml")[0] == {"a.py": "txt", "b.xml": "txt"}
