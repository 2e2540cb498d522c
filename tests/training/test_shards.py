"""Prepared data on disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.errors import PreparedDataError
from tests.fixtures_checkpoint import tiny_tokenizer
from training.data.shards import ShardWriter, open_prepared, write_manifest

LINES: list[tuple[list[int], int, tuple[int, ...]]] = [
    ([5, 6, 7], 7, ()),
    ([8, 65_535], 15, (1,)),
    ([9, 10, 11, 12], 5, (1, 3)),
]


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A directory of one source: three training lines and a held-out line."""
    entries: dict[str, Any] = {}
    for split, lines in (("train", LINES), ("heldout", LINES[:1])):
        with ShardWriter(tmp_path, "text", split) as writer:  # type: ignore[arg-type]
            for line in lines:
                writer.write(*line)
            entries[split] = writer.entry()
    source = {"name": "text", "language": "en", "consecutive": True, "weight": 3.0}
    write_manifest(tmp_path, tiny_tokenizer(), b"cat\n", [{**source, "split": entries}])
    return tmp_path


def test_what_is_written_is_read_back(prepared: Path) -> None:
    """Ids, line bounds, cuts and settings come back as they were written, memory-mapped."""
    data = open_prepared(prepared)
    (shard,) = data.sources
    assert (shard.name, shard.language, shard.consecutive) == ("text", "en", True)
    assert data.words == b"cat\n"
    assert (shard.weight, shard.lines, shard.characters) == (3.0, 3, 27)
    assert shard.offsets.tolist() == [0, 3, 5, 9]
    assert shard.cuts.tolist() == [[-1, -1], [1, -1], [1, 3]]
    for index, (tokens, *_) in enumerate(LINES):
        assert shard.ids[shard.offsets[index] : shard.offsets[index + 1]].tolist() == tokens
    assert [held.ids.tolist() for held in data.held_out] == [[5, 6, 7]]
    assert isinstance(shard.ids, np.memmap)
    table = (prepared / "text.train.lines").read_bytes()
    assert table[12:24] == b"\x02\0\0\0\x01\0\0\0\xff\xff\xff\xff"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"format_version": 99}, "format version 99"),
        ({"tokenizer_sha256": "0"}, "not the tokenizer"),
        ({"sha256": "0"}, "altered"),
        ({"sources": [{}]}, "not a manifest"),
    ],
)
def test_unfit_manifests_are_refused(prepared: Path, edit: dict[str, Any], message: str) -> None:
    """A newer, altered or malformed manifest is a named error with a remedy."""
    path = prepared / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **edit}))
    with pytest.raises(PreparedDataError, match=f"{message}.*prepare"):
        open_prepared(prepared)


@pytest.mark.parametrize("name", ["manifest.json", "tokenizer.model", "words", "text.heldout.ids"])
@pytest.mark.parametrize("content", [None, b"", b"[]", b"\xff"])
def test_missing_and_damaged_files_are_named(
    prepared: Path, name: str, content: bytes | None
) -> None:
    """A missing, truncated or damaged file is an error with its name and a remedy."""
    (prepared / name).unlink()
    if content is not None:
        (prepared / name).write_bytes(content)
    with pytest.raises(PreparedDataError, match=f"{name}.*prepare"):
        open_prepared(prepared)


@pytest.mark.parametrize("name", ["text.train.ids", "text.train.lines", "text.heldout.ids"])
def test_altered_shards_of_equal_size_are_refused(prepared: Path, name: str) -> None:
    """One changed byte is found by its sum, unless sums are not asked for."""
    data = bytearray((prepared / name).read_bytes())
    data[-1] ^= 1
    (prepared / name).write_bytes(data)
    with pytest.raises(PreparedDataError, match=f"{name}: altered .*prepare"):
        open_prepared(prepared)
    open_prepared(prepared, verify=False)
