"""Prepared data on disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.errors import PreparedDataError
from training.data.shards import NO_CUT, ShardWriter, manifest_digest, open_prepared, write_manifest
from training.data.train_tokenizer import train_tokenizer

LINES = [([5, 6, 7], (NO_CUT, NO_CUT)), ([8, 65_535], (1, NO_CUT)), ([9, 10, 11, 12], (1, 3))]


def write_prepared(directory: Path, held_out: int = 1) -> Path:
    """Write one source of three training lines and some held-out lines."""
    entries: dict[str, Any] = {}
    for split, lines in (("train", LINES), ("heldout", LINES[:held_out])):
        with ShardWriter(directory, "text", split) as writer:  # type: ignore[arg-type]
            writer.write(lines[:1], 7)
            writer.write(lines[1:], 20)
            entries[split] = {"shards": [writer.close()]}
    source = {"name": "text", "language": "en", "consecutive": True, "weight": 3.0}
    tokenizer = train_tokenizer(["hello world"] * 20, 270, threads=1)
    write_manifest(directory, tokenizer, [{**source, "split": entries}])
    return directory


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A directory of prepared data."""
    return write_prepared(tmp_path)


def test_what_is_written_is_read_back(prepared: Path) -> None:
    """Ids, line bounds, cuts and settings come back as they were written."""
    data = open_prepared(prepared)
    (shard,) = data.sources
    assert (shard.name, shard.language, shard.consecutive) == ("text", "en", True)
    assert (shard.weight, shard.lines, shard.characters) == (3.0, 3, 27)
    assert shard.offsets.tolist() == [0, 3, 5, 9]
    assert shard.cuts.tolist() == [[-1, -1], [1, -1], [1, 3]]
    for index, (tokens, _) in enumerate(LINES):
        assert shard.ids[shard.offsets[index] : shard.offsets[index + 1]].tolist() == tokens
    assert [held.ids.tolist() for held in data.held_out] == [[5, 6, 7]]


def test_ids_are_little_endian_and_mapped(prepared: Path) -> None:
    """The files are the documented bytes, memory-mapped and read-only."""
    ids = np.array([5, 6, 7, 8, 65_535, 9, 10, 11, 12], "<u2")
    assert (prepared / "text.train.ids").read_bytes() == ids.tobytes()
    table = (prepared / "text.train.lines").read_bytes()
    assert table[12:24] == b"\x02\0\0\0\x01\0\0\0\xff\xff\xff\xff"
    (shard,) = open_prepared(prepared).sources
    assert isinstance(shard.ids, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        shard.ids[0] = 1


def test_an_empty_split_can_be_read(tmp_path: Path) -> None:
    """A source may have nothing held out; it is then left out of the held-out text."""
    data = open_prepared(write_prepared(tmp_path, held_out=0))
    assert (len(data.sources), data.held_out) == (1, ())


def test_truncated_shards_are_refused(prepared: Path) -> None:
    """A shard of another size than the manifest's is a named error with both sizes."""
    path = prepared / "text.train.ids"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(PreparedDataError, match=r"text\.train\.ids: 16 bytes.* 18.*prepare"):
        open_prepared(prepared)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"format_version": 99}, "format version 99"),
        ({"tokenizer_sha256": "0"}, "not the tokenizer"),
        ({"sha256": "0"}, "altered"),
        ({"sources": 3}, "not a manifest"),
        ({"sources": [{}]}, "not a manifest"),
    ],
)
def test_unfit_manifests_are_refused(prepared: Path, edit: dict[str, Any], message: str) -> None:
    """A newer, altered or malformed manifest is a named error with a remedy."""
    path = prepared / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **edit}))
    with pytest.raises(PreparedDataError, match=f"{message}.*prepare"):
        open_prepared(prepared)


@pytest.mark.parametrize("name", ["manifest.json", "tokenizer.model", "text.heldout.ids"])
def test_missing_files_are_named(prepared: Path, name: str) -> None:
    """A missing file is a named error with its name."""
    (prepared / name).unlink()
    with pytest.raises(PreparedDataError, match=name):
        open_prepared(prepared)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff"])
def test_damaged_manifests_are_refused(prepared: Path, content: bytes) -> None:
    """A manifest that is not JSON is a named error."""
    (prepared / "manifest.json").write_bytes(content)
    with pytest.raises(PreparedDataError, match=r"manifest\.json"):
        open_prepared(prepared)


def test_the_digest_covers_text_and_settings(prepared: Path) -> None:
    """Another weight is other data; a comment in the manifest is not."""
    manifest = json.loads((prepared / "manifest.json").read_text())
    before = manifest_digest(manifest)
    assert manifest_digest({**manifest, "seconds": 5}) == before
    manifest["sources"][0]["weight"] = 1.0
    assert manifest_digest(manifest) != before
