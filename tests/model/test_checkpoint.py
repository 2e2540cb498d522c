"""A checkpoint is read only if it is complete and unaltered; errors name path and remedy."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.checkpoint import (
    Checkpoint,
    load_checkpoint,
    revise_checkpoint,
    word_end_probs_file,
    write_checkpoint,
)
from model.config import Calibration, NetworkConfig
from model.errors import CheckpointError
from model.runtime import open_runtime
from tests.fixtures_checkpoint import put, sums_of, tiny_tokenizer

FILES = ("tokenizer.model", "word_end_probs.f16", "words", "onnx/int8.weights", "MODEL_CARD.md")


@pytest.fixture
def copy(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A copy of the tiny checkpoint that a test may damage."""
    directory = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, directory)
    return directory


def with_config(**changes: Any) -> Callable[[Path], None]:
    """Damage: change fields of config.json."""

    def damage(directory: Path) -> None:
        values = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        put(directory, "config.json", json.dumps(values | changes))

    return damage


def write_again(
    checkpoint: Checkpoint, directory: Path, *, overwrite: bool = False, **changes: Any
) -> Checkpoint:
    """Write a checkpoint's contents under another name, with some files or fields changed."""
    files = {name: (checkpoint.directory / name).read_bytes() for name in FILES}
    files |= changes.pop("files", {})
    config = dataclasses.replace(checkpoint.config, **changes)
    return write_checkpoint(directory, config, files, overwrite=overwrite)


def test_everything_that_was_written_is_read(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Every field comes back as it was given, in a directory with nothing next to it."""
    tiny = load_checkpoint(tiny_checkpoint)
    shares = np.linspace(0, 1, tiny.tokenizer.size, dtype=np.float32)
    changes: dict[str, Any] = {
        "name": "second",
        "version": "2024.1",
        "calibration": Calibration(
            cloze_temperature={"zh": 1.25, "en": 0.9}, chain_weight={"zh": 2.0, "en": 1.5}
        ),
        "languages": ("en",),
        "scores": {"zh": {"bits_per_character": 4.5}},
        "training": {"seed": 7, "data_sha256": "0" * 64},
    }
    directory = tmp_path / "deep" / "new"
    files = {"word_end_probs.f16": word_end_probs_file(shares), "words": b"cat\ntheatre\n"}
    written = write_again(tiny, directory, files=files, **changes)
    read = load_checkpoint(directory)
    assert {field: getattr(read, field) for field in changes} == changes
    assert read.network == tiny.network
    assert read.tokenizer.digest == tiny.tokenizer.digest
    assert read.word_end_probs == pytest.approx(shares.tolist(), abs=1e-3)
    assert [word in read.words for word in ("theatre", "cats")] == [True, False]
    sums = (directory / "SHA256SUMS").read_bytes()
    assert sums.decode() == sums_of(directory)
    assert read.digest == written.digest == hashlib.sha256(sums).hexdigest()
    assert list(directory.parent.iterdir()) == [directory]


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_one_changed_byte_is_refused(copy: Path, data: st.DataObject) -> None:
    """Flipping a bit of any file, SHA256SUMS included, makes a checkpoint unreadable."""
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    content = path.read_bytes()
    place, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
    try:
        with pytest.raises(CheckpointError, match=str(copy)):
            load_checkpoint(copy)
    finally:
        path.write_bytes(content)


def put_folder(path: Path) -> None:
    """Put a folder in the place of a file."""
    path.unlink()
    path.mkdir()


def edit_sums(directory: Path, change: Callable[[str], str]) -> None:
    """Change SHA256SUMS."""
    path = directory / "SHA256SUMS"
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    # files
    "no directory": (shutil.rmtree, "is not a directory; name one"),
    "no sums": (lambda d: (d / "SHA256SUMS").unlink(), r"SHA256SUMS is missing; copy"),
    "no graph": (lambda d: (d / "onnx" / "gap.onnx").unlink(), r"onnx/gap\.onnx is missing; copy"),
    "cut short": (
        lambda d: os.truncate(d / "onnx" / "int8.weights", 1000),
        r"int8\.weights does not have the sum in SHA256SUMS; .*: copy",
    ),
    "folder for a file": (lambda d: put_folder(d / "MODEL_CARD.md"), "Is a directory"),
    "other word ends": (
        lambda d: put(d, "word_end_probs.f16", word_end_probs_file(np.full(364, 2.0))),
        r"word_end_probs\.f16 \(728 bytes\) is not 364 shares from 0 to 1; export",
    ),
    "words out of order": (
        lambda d: put(d, "words", b"theatre\ncat\n"),
        r"/words: words are not in order, each once; export",
    ),
    "other tokenizer": (
        lambda d: put(d, "tokenizer.model", tiny_tokenizer(size=350).model_proto),
        r"tokenizer\.model has 350 tokens, the network 364",
    ),
    # sums
    "sums cut between lines": (
        lambda d: edit_sums(d, lambda s: s.rsplit("\n", 2)[0] + "\n"),
        r"does not list words; export",
    ),
    "sums not text": (lambda d: (d / "SHA256SUMS").write_bytes(b"\xff"), "line 1 is not 'sum"),
    # config.json
    "not JSON": (lambda d: put(d, "config.json", "{"), r"config\.json: .*Invalid JSON"),
    "NaN": (lambda d: put(d, "config.json", '{"format_version": NaN}'), "format_version"),
    "older format": (with_config(format_version=3), r"config\.json: format_version.*; export"),
    "newer format": (with_config(format_version=5), "format_version.* or upgrade Lacuna"),
    "field unknown": (with_config(colour="red"), "colour: Unexp"),
    "name with a path": (with_config(name="a/b"), "name: String"),
    "no size": (with_config(network={}), r"network\.vocabulary_size"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("state/state.json", "a training run; export it: python -m training export"),
        ("state.json", "a state of a run; export it"),
        ("manifest.json", "prepared data; train on them"),
        ("checkpoint/config.json", "the output of `lacuna train`; name .*/checkpoint"),
        ("run/state/state.json", "an unfinished `lacuna train`; give the same command again"),
    ],
)
def test_another_kind_of_directory_is_named(copy: Path, name: str, remedy: str) -> None:
    """A run or data in place of a checkpoint gets the command that is missing."""
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    (copy / name).write_text("{}", encoding="utf-8")
    load_checkpoint(copy)  # a stray file in a checkpoint does no harm
    (copy / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError, match=f"{copy} is {remedy}"):
        load_checkpoint(copy)


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_is_named(copy: Path, case: str) -> None:
    """A CheckpointError names the path, the problem and the remedy, and no file stays open."""
    damage, message = DAMAGES[case]
    damage(copy)
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(copy)
    assert str(copy) in str(caught.value)
    assert len(list(descriptors.iterdir())) == before


def test_links_are_followed_and_strays_ignored(
    copy: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """Links to the directory and its files are followed; unlisted files are never opened."""
    (copy / "store").mkdir()
    weights = copy / "words"
    weights.rename(copy / "store" / "1")
    weights.symlink_to(copy / "store" / "1")
    (copy / "onnx").rename(copy / "store" / "2")
    (copy / "onnx").symlink_to("store/2")
    (copy / "stray.txt").write_text("unlisted", encoding="utf-8")
    (tmp_path / "link").symlink_to(copy)
    checkpoint = load_checkpoint(tmp_path / "link")
    assert checkpoint.digest == load_checkpoint(tiny_checkpoint).digest
    open_runtime(checkpoint)


@pytest.mark.parametrize("name", ["onnx/int8.weights", "onnx/next.onnx"])
def test_unlisted_graphs_are_not_run(copy: Path, name: str) -> None:
    """A graph or its weights without a sum could have been altered."""
    edit_sums(copy, lambda sums: "".join(s for s in sums.splitlines(True) if name not in s))
    with pytest.raises(CheckpointError, match=f"SHA256SUMS does not list {name}; export"):
        open_runtime(load_checkpoint(copy))


def test_existing_checkpoint_is_replaced_only_on_demand(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """Without ``overwrite`` nothing is touched; with it the new one replaces the old one."""
    checkpoint, target = load_checkpoint(tiny_checkpoint), tmp_path / "target"
    first = write_again(checkpoint, target)
    with pytest.raises(CheckpointError, match="exists; choose another name"):
        write_again(checkpoint, target, version="2")
    with pytest.raises(CheckpointError, match="with a path inside"):
        write_again(checkpoint, target, files={"../outside": b""}, overwrite=True)
    assert load_checkpoint(target).digest == first.digest
    write_again(checkpoint, target, version="2", overwrite=True)
    assert load_checkpoint(target).version == "2"
    assert list(tmp_path.iterdir()) == [target]


def test_nothing_is_written_that_could_not_be_read(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """An unreadable checkpoint never gets its name; other directories are never overwritten."""
    checkpoint = load_checkpoint(tiny_checkpoint)
    with pytest.raises(CheckpointError, match="not a SentencePiece model"):
        write_again(checkpoint, tmp_path / "new", files={"tokenizer.model": b"x"})
    assert not any(tmp_path.iterdir())
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(CheckpointError, match="exists; choose another name"):
        write_again(checkpoint, tmp_path, overwrite=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "thesis.txt"]


def test_revision_changes_what_is_measured(
    copy: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """Other files stay, unlisted ones too; an output gets the new version, once."""
    edit_sums(copy, lambda sums: sums.replace("  ", " *"))  # the other mark of sha256sum
    before = load_checkpoint(copy)
    after = revise_checkpoint(copy, version="2", output=tmp_path / "new")
    assert (after.directory, after.version) == (tmp_path / "new", "2")
    assert load_checkpoint(copy).digest == before.digest != after.digest
    with pytest.raises(CheckpointError, match="exists"):
        revise_checkpoint(copy, version="3", output=tmp_path / "new")
    others = {"onnx/notes.txt": b"mine", ".git/HEAD": b"ref: main"}
    (copy / ".git").mkdir()
    for name, content in others.items():
        (copy / name).write_bytes(content)
    for name in before.sums.keys() - {"config.json", "MODEL_CARD.md", "words"}:
        others[name] = (tiny_checkpoint / name).read_bytes()
    calibration, scores = Calibration(chain_weight={"zh": 2.0, "en": 0.9}), {"en": {"ece": 0.01}}
    after = revise_checkpoint(
        copy, calibration=calibration, scores=scores, card="# New", words=b"cat\n"
    )
    assert (after.calibration, after.scores) == (calibration, scores)
    assert [word in after.words for word in ("cat", "theatre")] == [True, False]
    assert {name: (copy / name).read_bytes() for name in others} == others
    assert (copy / "MODEL_CARD.md").read_text() == "# New"


def counts_config(**changes: Any) -> Callable[[Path], None]:
    """Damage: change fields of the description of counts."""

    def damage(directory: Path) -> None:
        content = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        content["counts"][0] |= changes
        put(directory, "config.json", json.dumps(content))

    return damage


COUNTS_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "neither": (with_config(counts=[]), "neither a network nor counts"),
    "three": (
        with_config(counts=[{"ngrams": [364, 1], "contexts": [1], "training": {}}] * 3),
        "counts: Tuple should have at most 2 items",
    ),
    "no size": (counts_config(ngrams=[364, -1, 5]), r"counts\.0\.ngrams\.1: Input should be"),
    "other sizes": (counts_config(ngrams=[364, 5, 5]), r"counts/2\.ngrams has \d+ bytes, not"),
    "another order": (counts_config(ngrams=[364, 5]), "contexts are of another order"),
    "no order": (counts_config(ngrams=[364], contexts=[]), "counts.0.ngrams: Tuple should have"),
    "sizes of no file": (
        counts_config(ngrams=[364, *[(1 << 32) - 1] * 2]), r"1\.ngrams has \d+ bytes, not \d{8}"
    ),
    "an unlisted file": (
        lambda d: edit_sums(d, lambda s: "".join(line for line in s.splitlines(True)
                                                 if "2.ngrams" not in line)),
        r"does not list counts/2\.ngrams; build it again",
    ),
    "another tokenizer": (
        lambda d: put(d, "tokenizer.model", tiny_tokenizer(size=350).model_proto),
        "has 350 tokens, the counts 364; build it again",
    ),
    "no trie": (lambda d: put(d, "counts/1.ngrams",
                              (d / "counts/1.ngrams").read_bytes()[:-1] + b"\xff"), "contexts"),
}  # fmt: skip


@pytest.mark.parametrize("case", COUNTS_DAMAGES)
def test_damaged_counts_are_named(tiny_ngram: Path, tmp_path: Path, case: str) -> None:
    """Whatever does not fit is a CheckpointError with the path."""
    directory = shutil.copytree(tiny_ngram, tmp_path / "copy")
    load_checkpoint(directory)
    damage, message = COUNTS_DAMAGES[case]
    damage(directory)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(directory)
    assert str(directory) in str(caught.value)


def test_counts_do_not_go_with_a_network_that_reads_both_ways(tiny_ngram: Path) -> None:
    """The next token after a left side cannot be asked of a stacked bidirectional network."""
    stacked = NetworkConfig(364, "stacked_bidirectional", backward_layers=0, gap_hidden_size=0)
    with pytest.raises(ValueError, match="counts do not go with"):
        dataclasses.replace(load_checkpoint(tiny_ngram).config, network=stacked)
