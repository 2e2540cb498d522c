"""Fixtures that tests of several packages share."""

import os
from pathlib import Path
from typing import Any

import pytest

from model.words import words_file, words_in
from tests.fixtures_checkpoint import LINES, build_tiny_checkpoint, tiny_tokenizer
from training.data.shards import ShardWriter, write_manifest
from training.ngram import NgramOptions, build

os.umask(0o022)  # files of keys and settings that a group may write to are refused


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two small random LSTM towers; tests only read it."""
    return build_tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny").directory


@pytest.fixture(scope="session")
def tiny_prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lines of the tiny tokenizer as `prepare` writes them, English with weight 3."""
    directory = tmp_path_factory.mktemp("prepared")
    tokenizer = tiny_tokenizer()
    sources = []
    for language, weight, lines in (("en", 3.0, LINES[:5]), ("zh", 1.0, LINES[5:])):
        entries: dict[str, Any] = {}
        for split, part in (("train", lines), ("heldout", lines[:1])):
            with ShardWriter(directory, f"talk_{language}", split) as writer:  # type: ignore[arg-type]
                for line in part:
                    writer.write(tokenizer.encode(line), len(line))
                entries[split] = writer.entry()
        settings = {
            "name": f"talk_{language}",
            "language": language,
            "consecutive": False,
            "weight": weight,
        }
        sources.append({**settings, "split": entries})
    write_manifest(directory, tokenizer, words_file(words_in(" ".join(LINES))), sources)
    return directory


@pytest.fixture(scope="session")
def tiny_ngram(tiny_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of counts alone, a 3-gram of these lines; tests only read it."""
    directory = tmp_path_factory.mktemp("ngrams") / "tiny"
    build(NgramOptions(tiny_prepared, directory, order=3))
    return directory
