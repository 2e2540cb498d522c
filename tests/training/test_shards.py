"""Prepared data on disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.errors import PreparedDataError
from training.data.prepare import train_tokenizer
from training.data.shards import FORMAT_VERSION, NO_CUT, ShardWriter, manifest_digest, open_prepared

LINES = [([5, 6, 7], (NO_CUT, NO_CUT)), ([8, 65_535], (1, NO_CUT)), ([9, 10, 11, 12], (1, 3))]


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A directory with one source of three training lines and one held-out line."""
    tokenizer = train_tokenizer(["hello world"] * 20, 270, threads=1)
    (tmp_path / "tokenizer.model").write_bytes(tokenizer.to_bytes())
    entries: dict[str, Any] = {}
    for split, lines in (("train", LINES), ("heldout", LINES[:1])):
        with ShardWriter(tmp_path, "text", split) as writer:  # type: ignore[arg-type]
            writer.write(lines[:1], 7)
            writer.write(lines[1:], 20)
            entries[split] = {"shards": [writer.close()]}
    source = {
        "name": "text",
        "language": "en",
        "consecutive": True,
        "weight": 3.0,
        "split": entries,
    }
    manifest = {
        "format_version": FORMAT_VERSION,
        "tokenizer_sha256": tokenizer.digest,
        "sources": [source],
    }
    manifest["sha256"] = manifest_digest(manifest)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def test_what_is_written_is_read_back(prepared: Path) -> None:
    """Ids, line bounds, cuts and settings come back as they were written."""
    data = open_prepared(prepared, verify=True)
    (shard,) = data.sources
    assert (shard.name, shard.language, shard.consecutive, shard.weight) == (
        "text",
        "en",
        True,
        3.0,
    )
    assert (shard.lines, shard.characters) == (3, 27)
    assert shard.ids.dtype == np.uint16
    assert shard.offsets.tolist() == [0, 3, 5, 9]
    assert shard.cuts.tolist() == [[-1, -1], [1, -1], [1, 3]]
    for index, (tokens, _) in enumerate(LINES):
        assert shard.ids[shard.offsets[index] : shard.offsets[index + 1]].tolist() == tokens
    assert [held.ids.tolist() for held in data.held_out] == [[5, 6, 7]]


def test_ids_are_little_endian_uint16_on_disk(prepared: Path) -> None:
    """The files are the documented bytes, whatever the machine."""
    assert (prepared / "text.train.ids").read_bytes() == np.array(
        [5, 6, 7, 8, 65_535, 9, 10, 11, 12], "<u2"
    ).tobytes()
    assert (prepared / "text.train.lines").read_bytes()[
        12:24
    ] == b"\x02\0\0\0\x01\0\0\0\xff\xff\xff\xff"


def test_ids_are_mapped_not_read(prepared: Path) -> None:
    """A shard is memory-mapped and cannot be written to."""
    (shard,) = open_prepared(prepared).sources
    assert isinstance(shard.ids, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        shard.ids[0] = 1


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    """A writer that is left by an error leaves neither half a file nor a partial one."""
    with pytest.raises(KeyError), ShardWriter(tmp_path, "text", "train") as writer:
        writer.write(LINES, 27)
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_nothing_has_its_final_name_before_it_is_complete(tmp_path: Path) -> None:
    """Until closed, a shard has another name."""
    with ShardWriter(tmp_path, "text", "train") as writer:
        writer.write(LINES, 27)
        assert {path.suffix for path in tmp_path.iterdir()} == {".partial"}
        writer.close()
    assert {path.name for path in tmp_path.iterdir()} == {"text.train.ids", "text.train.lines"}


def test_an_empty_split_can_be_read(tmp_path: Path, prepared: Path) -> None:
    """A source may have nothing held out; it is then left out of what is held out."""
    with ShardWriter(tmp_path, "text", "heldout") as writer:
        entry = writer.close()
    manifest = json.loads((prepared / "manifest.json").read_text())
    manifest["sources"][0]["split"]["heldout"] = {"shards": [entry]}
    manifest["sha256"] = manifest_digest(manifest)
    (prepared / "manifest.json").write_text(json.dumps(manifest))
    data = open_prepared(prepared, verify=True)
    assert data.held_out == ()
    assert len(data.sources) == 1


def test_truncated_shards_are_refused(prepared: Path) -> None:
    """A shard of another size than the manifest's is a named error with both sizes."""
    path = prepared / "text.train.ids"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(
        PreparedDataError, match=r"text\.train\.ids: 16 bytes where the manifest has 18.*prepare"
    ):
        open_prepared(prepared)


def test_altered_shards_are_found_when_hashed(prepared: Path) -> None:
    """A changed byte is found when verification is asked for."""
    path = prepared / "text.train.lines"
    data = bytearray(path.read_bytes())
    data[4] ^= 1
    path.write_bytes(data)
    open_prepared(prepared)
    with pytest.raises(PreparedDataError, match=r"text\.train\.lines: altered"):
        open_prepared(prepared, verify=True)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"format_version": 99}, "format version 99"),
        ({"tokenizer_sha256": "0"}, "not the vocabulary"),
        ({"sha256": "0"}, "altered"),
        ({"sources": 3}, "not a manifest"),
        ({"sources": [{}]}, "not a manifest"),
    ],
)
def test_manifests_that_do_not_fit_are_refused(
    prepared: Path, edit: dict[str, Any], message: str
) -> None:
    """A newer, altered or malformed manifest is a named error with a remedy."""
    path = prepared / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **edit}))
    with pytest.raises(PreparedDataError, match=f"{message}.*prepare"):
        open_prepared(prepared)


@pytest.mark.parametrize("name", ["manifest.json", "tokenizer.model", "text.heldout.ids"])
def test_missing_files_are_named(prepared: Path, name: str) -> None:
    """A missing file is a named error that names it."""
    (prepared / name).unlink()
    with pytest.raises(PreparedDataError, match=name):
        open_prepared(prepared)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff"])
def test_manifests_that_are_not_json_are_refused(prepared: Path, content: bytes) -> None:
    """A torn manifest is a named error."""
    (prepared / "manifest.json").write_bytes(content)
    with pytest.raises(PreparedDataError, match=r"manifest\.json"):
        open_prepared(prepared)


def test_the_digest_names_text_and_settings(prepared: Path) -> None:
    """Another weight, order of sources or file hash is other data; a comment in the manifest is not."""
    manifest = json.loads((prepared / "manifest.json").read_text())
    before = manifest_digest(manifest)
    assert manifest_digest({**manifest, "seconds": 5}) == before
    manifest["sources"][0]["weight"] = 1.0
    assert manifest_digest(manifest) != before
