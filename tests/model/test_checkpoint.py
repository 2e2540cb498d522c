"""A checkpoint is read only if it is whole, unaltered and understood; what is wrong is said with path and remedy."""

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
from safetensors.numpy import load_file, save_file

from model.checkpoint import (
    Checkpoint,
    count_parameters,
    load_checkpoint,
    revise_checkpoint,
    word_end_probs_file,
    write_checkpoint,
)
from model.config import Calibration
from model.errors import CheckpointError
from model.runtime import open_runtime
from tests.fixtures_checkpoint import build_tiny_checkpoint, tiny_tokenizer


@pytest.fixture
def copy(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A copy of the tiny checkpoint that a test may damage."""
    directory = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, directory)
    return directory


def contents(directory: Path) -> list[str]:
    """Names of what a directory holds."""
    return sorted(path.name for path in directory.iterdir())


def seal(directory: Path) -> None:
    """Write SHA256SUMS anew, as someone would who alters a checkpoint on purpose."""
    files = sorted(
        path for path in directory.rglob("*") if path.is_file() and path.name != "SHA256SUMS"
    )
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(directory)}\n"
        for path in files
    ]
    (directory / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def change_config(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Alter config.json and its sum."""
    path = directory / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")
    seal(directory)


def write_again(
    checkpoint: Checkpoint, directory: Path, *, overwrite: bool = False, **changes: Any
) -> Checkpoint:
    """Write a checkpoint's contents under another name, with some arguments changed."""
    arguments: dict[str, Any] = {
        field: getattr(checkpoint, field)
        for field in (
            "name",
            "version",
            "network",
            "calibration",
            "languages",
            "scores",
            "training",
        )
    }
    arguments["files"] = {
        name: (checkpoint.directory / name).read_bytes()
        for name in ("tokenizer.model", "weights.safetensors", "MODEL_CARD.md")
    }
    return write_checkpoint(directory, **(arguments | changes), overwrite=overwrite)


def test_everything_that_was_written_is_read(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Names, sizes, calibration, languages, scores and provenance come back as they were given."""
    calibration = Calibration(
        next_temperature=(("zh", 1.25), ("en", 0.9)),
        cloze_temperature=(("zh", 2.0),),
        choice_temperature=(("zh", 1.5), ("en", 3.0)),
        choice_uniform_mix=(("zh", 0.0), ("en", 0.04)),
        forward_weight=0.75,
    )
    written = write_again(
        load_checkpoint(tiny_checkpoint),
        tmp_path / "deep" / "new",
        name="second",
        version="2024.1",
        calibration=calibration,
        scores={"zh": {"bits_per_character": 4.5}},
        training={"seed": 7, "data_sha256": "0" * 64},
    )
    read = load_checkpoint(tmp_path / "deep" / "new")
    assert (read.name, read.version, read.languages) == ("second", "2024.1", ("zh", "en"))
    assert read.calibration == calibration
    assert read.network == load_checkpoint(tiny_checkpoint).network
    assert read.scores == {"zh": {"bits_per_character": 4.5}}
    assert read.training == {"seed": 7, "data_sha256": "0" * 64}
    assert read.tokenizer.size == read.network.vocabulary_size
    assert (
        read.digest
        == hashlib.sha256((tmp_path / "deep" / "new" / "SHA256SUMS").read_bytes()).hexdigest()
    )
    assert written.digest == read.digest
    assert contents(tmp_path / "deep") == ["new"], "nothing is left beside the final name"


def test_choice_temperature_of_an_older_export_is_the_cloze_one() -> None:
    """Without the field choices are tempered as they were then; with one that is no temperature, it is refused."""
    values = Calibration(cloze_temperature=(("zh", 2.0), ("en", 1.5))).to_dict()
    older = {name: value for name, value in values.items() if name != "choice_temperature"}
    assert Calibration.from_dict(older).choice_temperature == (("zh", 2.0), ("en", 1.5))
    assert Calibration.from_dict(values).choice_temperature == (("zh", 1.0), ("en", 1.0))
    oldest = {name: value for name, value in older.items() if name != "cloze_coverage_exponent"}
    assert Calibration.from_dict(oldest).cloze_coverage_exponent == ()
    assert (
        Calibration.from_dict(
            {n: v for n, v in values.items() if n != "choice_uniform_mix"}
        ).choice_uniform_mix
        == ()
    )
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(CheckpointError, match="choice_uniform_mix"):
            Calibration.from_dict({**values, "choice_uniform_mix": {"zh": share}})
    with pytest.raises(CheckpointError, match="choice_temperature"):
        Calibration.from_dict({**values, "choice_temperature": {"zh": 0.0}})
    with pytest.raises(CheckpointError, match="cloze_coverage_exponent"):
        Calibration.from_dict({**values, "cloze_coverage_exponent": {"zh": float("nan")}})
    with pytest.raises(CheckpointError, match="unknown: from_the_future"):
        Calibration.from_dict({**values, "from_the_future": 1})


def test_sums_are_those_of_sha256sum(tiny_checkpoint: Path) -> None:
    """SHA256SUMS lists every other file of the directory, in the form that sha256sum checks."""
    listed = {}
    for line in (tiny_checkpoint / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        found, name = line.split("  ")
        listed[name] = found
    files = {
        path for path in tiny_checkpoint.rglob("*") if path.is_file() and path.name != "SHA256SUMS"
    }
    assert listed == {
        path.relative_to(tiny_checkpoint).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.mark.parametrize(
    ("architecture", "capabilities"),
    [
        ("two_towers", ("predict", "score", "cloze")),
        ("forward", ("predict", "score", "cloze")),
    ],
)
def test_capabilities_follow_the_architecture(
    tmp_path: Path, architecture: str, capabilities: tuple[str, ...]
) -> None:
    """Two towers or a forward one answer every question."""
    checkpoint = build_tiny_checkpoint(tmp_path / "new", architecture=architecture, fp32=False)
    assert checkpoint.capabilities == capabilities


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_one_changed_byte_is_refused(copy: Path, data: st.DataObject) -> None:
    """Flipping any bit of any listed file, or of the sums themselves, makes the checkpoint unreadable."""
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    content = path.read_bytes()
    place, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    digest = load_checkpoint(copy).digest
    path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
    try:
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(copy)
        assert str(copy) in str(caught.value)
    finally:
        path.write_bytes(content)
    assert load_checkpoint(copy).digest == digest


def test_shares_of_word_ends_are_read(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """One share a token, as written; a checkpoint of before they were counted has none."""
    old = load_checkpoint(tiny_checkpoint)
    assert old.word_end_probs == ()
    shares = np.linspace(0, 1, old.tokenizer.size, dtype=np.float32)
    files = {
        name: (tiny_checkpoint / name).read_bytes()
        for name in ("tokenizer.model", "weights.safetensors", "MODEL_CARD.md")
    }
    written = write_again(
        old, tmp_path / "new", files=files | {"word_end_probs.f16": word_end_probs_file(shares)}
    )
    assert written.word_end_probs == pytest.approx(shares.tolist(), abs=1e-3)
    for damaged in (word_end_probs_file(shares[1:]), word_end_probs_file(shares + 1)):
        with pytest.raises(
            CheckpointError,
            match=r"word_end_probs\.f16 \(\d+ bytes\) is not \d+ shares from 0 to 1; export",
        ):
            write_again(old, tmp_path / "damaged", files=files | {"word_end_probs.f16": damaged})


Damage = Callable[[Path], object]
CASES: dict[str, tuple[Damage, str]] = {
    "no directory": (shutil.rmtree, "does not exist; name the directory"),
    "no sums": (lambda d: (d / "SHA256SUMS").unlink(), r"SHA256SUMS is missing; copy"),
    "no vocabulary": (
        lambda d: (d / "tokenizer.model").unlink(),
        r"tokenizer\.model is missing; copy",
    ),
    "no graph": (lambda d: (d / "onnx" / "gap.onnx").unlink(), r"onnx/gap\.onnx is missing; copy"),
    "cut short": (
        lambda d: os.truncate(d / "weights.safetensors", 1000),
        r"weights\.safetensors \(1000 bytes\) has SHA-256 [0-9a-f]{64}, SHA256SUMS says .* cut short",
    ),
    "made longer": (
        lambda d: append(d / "onnx" / "int8.weights", b"\0"),
        r"int8\.weights .* altered: copy",
    ),
    "a folder in a file's place": (
        lambda d: ((d / "MODEL_CARD.md").unlink(), (d / "MODEL_CARD.md").mkdir()),
        r"MODEL_CARD\.md cannot be read: Is a directory",
    ),
    "sums cut short": (
        lambda d: cut_lines(d / "SHA256SUMS", -1),
        r"does not list weights\.safetensors; export",
    ),
    "sums cut inside a line": (
        lambda d: os.truncate(d / "SHA256SUMS", 40),
        r"SHA256SUMS line 1 is not 'sum  path'",
    ),
    "sums empty": (lambda d: os.truncate(d / "SHA256SUMS", 0), r"does not list config\.json"),
    "sums not text": (
        lambda d: (d / "SHA256SUMS").write_bytes(b"\xff\xfe"),
        "not UTF-8 at byte 0; copy",
    ),
    "path to above": (
        lambda d: add_line(d, "../outside"),
        r"'\.\./outside' is not a plain path inside",
    ),
    "path through above": (
        lambda d: add_line(d, "onnx/../../outside"),
        "is not a plain path inside",
    ),
    "absolute path": (lambda d: add_line(d, "/etc/hostname"), "is not a plain path inside"),
    "backslashes": (lambda d: add_line(d, "..\\outside"), "is not a plain path inside"),
    "newer format": (
        lambda d: change_config(d, lambda c: c.update(format_version=3)),
        r"config\.json: format_version is 3, this Lacuna reads 2; upgrade Lacuna",
    ),
    "format of another kind": (
        lambda d: change_config(d, lambda c: c.update(format_version=True)),
        "whole number",
    ),
    "no format": (lambda d: change_config(d, lambda c: c.pop("format_version")), "whole number"),
    "a field missing": (
        lambda d: change_config(d, lambda c: c.pop("scores")),
        "scores is missing, it must be dict",
    ),
    "a field unknown": (
        lambda d: change_config(d, lambda c: c.update(colour="red")),
        "unknown colour",
    ),
    "a field of another type": (
        lambda d: change_config(d, lambda c: c.update(name=5)),
        "name is int, it must be str",
    ),
    "a name with a path": (
        lambda d: change_config(d, lambda c: c.update(name="a/b")),
        "character that a name cannot",
    ),
    "languages of another type": (
        lambda d: change_config(d, lambda c: c.update(languages=[1])),
        "must be strings",
    ),
    "a size as text": (
        lambda d: change_config(d, lambda c: c["network"].update(hidden_size="24")),
        r"config\.json: network\.hidden_size is str, it must be int",
    ),
    "a size of 0": (
        lambda d: change_config(d, lambda c: c["network"].update(hidden_size=0)),
        "hidden_size is 0; it must be at least 1",
    ),
    "a size unknown": (
        lambda d: change_config(d, lambda c: c["network"].update(width=3)),
        "network configuration",
    ),
    "another cell": (
        lambda d: change_config(d, lambda c: c["network"].update(cell="mamba")),
        "choose one of rnn_tanh",
    ),
    "another architecture": (
        lambda d: change_config(
            d,
            lambda c: c["network"].update(
                architecture="tree", backward_layers=0, gap_hidden_size=0
            ),
        ),
        "architecture is none of forward, two_towers",
    ),
    "a temperature of 0": (
        lambda d: change_config(d, lambda c: c["calibration"].update(next_temperature={"zh": 0})),
        r"config\.json: calibration: .*above 0",
    ),
    "another vocabulary": (
        lambda d: (
            (d / "tokenizer.model").write_bytes(tiny_tokenizer(size=350).to_bytes()),
            seal(d),
        ),
        r"tokenizer\.model has 350 tokens, the network 364",
    ),
    "no vocabulary in the file": (
        lambda d: ((d / "tokenizer.model").write_bytes(b"not a model"), seal(d)),
        r"tokenizer\.model: 11 bytes that are not a SentencePiece model",
    ),
    "not JSON": (
        lambda d: ((d / "config.json").write_text("{"), seal(d)),
        r"config\.json is not JSON",
    ),
    "a list": (
        lambda d: ((d / "config.json").write_text("[]"), seal(d)),
        "holds a list, not an object",
    ),
    "NaN": (
        lambda d: ((d / "config.json").write_text('{"format_version": NaN}'), seal(d)),
        "NaN is not a JSON number",
    ),
    "a pipe in a file's place": (
        lambda d: ((d / "MODEL_CARD.md").unlink(), os.mkfifo(d / "MODEL_CARD.md")),
        r"MODEL_CARD\.md cannot be read: is no file; check its kind",
    ),
    "a device for the sums": (
        lambda d: ((d / "SHA256SUMS").unlink(), (d / "SHA256SUMS").symlink_to("/dev/zero")),
        "SHA256SUMS cannot be read: is no file",
    ),
    "a file listed twice": (
        lambda d: (d / "SHA256SUMS").write_text((d / "SHA256SUMS").read_text(encoding="utf-8") * 2),
        r"SHA256SUMS lists MODEL_CARD\.md twice; export",
    ),
    "a weight of 400 digits": (
        lambda d: change_config(d, lambda c: c["calibration"].update(forward_weight=10**400)),
        r"config\.json: calibration: OverflowError",
    ),
    "a weight beyond all that is fitted": (
        lambda d: change_config(d, lambda c: c["calibration"].update(backward_weight=-1e300)),
        "backward_weight holds -1e\\+300; it must be at most 100",
    ),
    "a temperature near 0": (
        lambda d: change_config(
            d, lambda c: c["calibration"].update(next_temperature={"en": 1e-300})
        ),
        "next_temperature must be above 0, from 0.01 to 100",
    ),
    "half a character": (
        lambda d: change_config(d, lambda c: c["scores"].update({"\ud800": 1})),
        r"config\.json is not JSON: .*surrogates not allowed",
    ),
    "a score beyond all numbers": (
        lambda d: (
            (d / "config.json").write_text(
                (d / "config.json").read_text().replace('"scores": {', '"scores": {"a": 1e999')
            ),
            seal(d),
        ),
        r"config\.json is not JSON: Out of range float",
    ),
    "a token that is not UTF-8": (
        lambda d: (
            (d / "tokenizer.model").write_bytes(
                (d / "tokenizer.model").read_bytes().replace("我".encode(), b"\xe6\x88a")
            ),
            seal(d),
        ),
        r"tokenizer\.model: \d+ bytes that are not a SentencePiece model",
    ),
    "nested without end": (
        lambda d: ((d / "config.json").write_text("[" * 100_000), seal(d)),
        "is not JSON",
    ),
}


def append(path: Path, content: bytes) -> None:
    """Add bytes to the end of a file."""
    path.write_bytes(path.read_bytes() + content)


def cut_lines(path: Path, end: int) -> None:
    """Keep the lines of a file up to *end*."""
    path.write_text(
        "".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:end]), encoding="utf-8"
    )


def add_line(directory: Path, name: str) -> None:
    """List a file with the sum of no bytes, having put such a file above the checkpoint."""
    (directory.parent / "outside").write_bytes(b"")
    append(directory / "SHA256SUMS", f"{hashlib.sha256(b'').hexdigest()}  {name}\n".encode())


@pytest.mark.parametrize("case", CASES)
def test_damage_is_named(copy: Path, case: str) -> None:
    """Every kind of damage is a CheckpointError that names the path, the trouble and the remedy."""
    damage, message = CASES[case]
    damage(copy)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(copy)
    assert str(copy) in str(caught.value)


def test_a_file_is_not_a_checkpoint(tmp_path: Path) -> None:
    """Naming a file instead of a directory says so."""
    path = tmp_path / "file"
    path.write_text("text", encoding="utf-8")
    with pytest.raises(CheckpointError, match="is not a directory; name the directory"):
        load_checkpoint(path)


def test_links_are_followed_and_strays_ignored(
    copy: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """Symbolic links to the directory or to files in it are as good as the files; unlisted files are never opened."""
    weights = copy / "weights.safetensors"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    (copy / "stray.txt").write_text("unlisted", encoding="utf-8")
    (tmp_path / "link").symlink_to(copy)
    checkpoint = load_checkpoint(tmp_path / "link")
    assert checkpoint.digest == load_checkpoint(tiny_checkpoint).digest
    open_runtime(checkpoint)


def test_graphs_that_are_not_listed_are_not_served(copy: Path) -> None:
    """A graph or its weights without a sum could have been altered by anybody: nothing runs them."""
    sums = (copy / "SHA256SUMS").read_text(encoding="utf-8")
    for path in ("onnx/int8.weights", "onnx/next.onnx"):
        kept = [line for line in sums.splitlines() if not line.endswith(path)]
        (copy / "SHA256SUMS").write_text("\n".join(kept) + "\n", encoding="utf-8")
        with pytest.raises(CheckpointError, match=f"SHA256SUMS does not list {path}; export"):
            open_runtime(load_checkpoint(copy))


def test_weights_without_a_header_are_named(copy: Path) -> None:
    """Parameters are counted by the header of the weights; a file that has none is a CheckpointError with its path."""
    shapes = [
        f'{{"a":{{"shape":[{size}]}}}}'.encode()
        for size in ("-2", "1e999", "true", '"a"', "9" * 40)
    ]
    headers = [len(header).to_bytes(8, "little") + header for header in shapes]
    for content in (
        b"",
        b"\xff" * 16,
        b"\x02\0\0\0\0\0\0\0[]",
        b"\x07\0\0\0\0\0\0\0" + b'{"a":1}',
        *headers,
    ):
        (copy / "weights.safetensors").write_bytes(content)
        with pytest.raises(
            CheckpointError, match=r"weights\.safetensors has no header of safetensors"
        ):
            count_parameters(copy)


def test_what_is_not_listed_survives_a_revision(copy: Path) -> None:
    """Notes and a repository inside a checkpoint are still there when its card is written anew."""
    (copy / ".git").mkdir()
    (copy / ".git" / "HEAD").write_text("ref: main", encoding="utf-8")
    (copy / "onnx" / "notes.txt").write_text("mine", encoding="utf-8")
    revise_checkpoint(copy, card="# New")
    assert (copy / "MODEL_CARD.md").read_text(encoding="utf-8") == "# New"
    assert (copy / ".git" / "HEAD").read_text(encoding="utf-8") == "ref: main"
    assert (copy / "onnx" / "notes.txt").read_text(encoding="utf-8") == "mine"
    load_checkpoint(copy)


def test_what_is_no_checkpoint_is_not_overwritten(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """A folder of somebody's papers is refused, with ``overwrite`` as well."""
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(CheckpointError, match="is no checkpoint, so it is not overwritten"):
        write_again(load_checkpoint(tiny_checkpoint), tmp_path / "papers", overwrite=True)
    assert contents(tmp_path / "papers") == ["thesis.txt"]


@pytest.mark.parametrize("value", [True, "0.5", float("inf"), float("nan"), None])
def test_what_is_no_number_is_no_weight_and_no_temperature(value: object) -> None:
    """JSON may hold ``true``, a string, ``1e999`` or ``null`` in the place of a number: each is refused."""
    values = Calibration().to_dict()
    for changed in ({"forward_weight": value}, {"next_temperature": {"zh": value}}):
        with pytest.raises(CheckpointError, match="no finite number"):
            Calibration.from_dict(values | changed)


def test_an_existing_checkpoint_is_replaced_only_on_demand(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """Without ``overwrite`` nothing is touched; with it the new one stands there, with nothing left of the old."""
    checkpoint = load_checkpoint(tiny_checkpoint)
    first = write_again(checkpoint, tmp_path / "new")
    with pytest.raises(CheckpointError, match="exists; choose another name"):
        write_again(checkpoint, tmp_path / "new", version="2")
    assert load_checkpoint(tmp_path / "new").digest == first.digest
    write_again(checkpoint, tmp_path / "new", version="2", overwrite=True)
    assert load_checkpoint(tmp_path / "new").version == "2"
    assert contents(tmp_path) == ["new"]


def test_overwriting_through_a_link_replaces_what_it_points_to(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """A link to a checkpoint stays a link."""
    checkpoint = load_checkpoint(tiny_checkpoint)
    write_again(checkpoint, tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_again(checkpoint, tmp_path / "link", version="2", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert load_checkpoint(tmp_path / "real").version == "2"


def test_a_write_that_fails_leaves_the_old_one(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk fills in the middle of a write, or a rename fails, the old checkpoint still loads."""
    checkpoint = load_checkpoint(tiny_checkpoint)
    first = write_again(checkpoint, tmp_path / "new")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "fsync", full)
        write_again(checkpoint, tmp_path / "new", version="2", overwrite=True)
    rename = Path.rename

    def fail_to_arrive(self: Path, target: Path) -> Path:
        if self.name == ".new.new":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr(Path, "rename", fail_to_arrive)
        write_again(checkpoint, tmp_path / "new", version="2", overwrite=True)
    assert load_checkpoint(tmp_path / "new").digest == first.digest
    assert contents(tmp_path) == ["new"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "has space"}, "name: use 1 to 64"),
        ({"version": ""}, "version: use 1 to 64"),
        ({"files": {"../outside": b""}}, "is not a plain path"),
        ({"files": {"tokenizer.model": b"x"}}, "does not list weights.safetensors"),
    ],
)
def test_nothing_is_written_that_could_not_be_read(
    tmp_path: Path, tiny_checkpoint: Path, changes: dict[str, Any], message: str
) -> None:
    """A checkpoint is loaded before it takes its name, so one that could not be read never does."""
    with pytest.raises(CheckpointError, match=message):
        write_again(load_checkpoint(tiny_checkpoint), tmp_path / "new", **changes)
    assert contents(tmp_path) == []


def test_parameters_are_counted_without_reading_them(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The count is that of the numbers in the weights; notes in the file's header are no parameters."""
    arrays = load_file(tiny_checkpoint / "weights.safetensors")
    assert count_parameters(tiny_checkpoint) == sum(array.size for array in arrays.values()) > 1000
    save_file(arrays, tmp_path / "weights.safetensors", metadata={"note": "of another program"})
    assert count_parameters(tmp_path) == count_parameters(tiny_checkpoint)


def test_revising_keeps_the_files(copy: Path, tiny_checkpoint: Path) -> None:
    """New scores or temperatures change config.json and the digest, and nothing else."""
    before = load_checkpoint(copy)
    calibration = dataclasses.replace(before.calibration, forward_weight=0.9)
    after = revise_checkpoint(copy, calibration=calibration, scores={"en": {"ece": 0.01}})
    assert (after.calibration, after.scores) == (calibration, {"en": {"ece": 0.01}})
    assert (after.name, after.network, after.training) == (
        before.name,
        before.network,
        before.training,
    )
    assert after.digest != before.digest
    for path in tiny_checkpoint.rglob("*"):
        if path.is_file() and path.name not in ("config.json", "SHA256SUMS"):
            assert (copy / path.relative_to(tiny_checkpoint)).read_bytes() == path.read_bytes()


def test_revising_into_a_copy_leaves_the_checkpoint_as_it_is(copy: Path, tmp_path: Path) -> None:
    """With an output the new calibration goes there, once, whichever of its two marks SHA256SUMS sets before a name."""
    sums = (copy / "SHA256SUMS").read_text(encoding="utf-8")
    (copy / "SHA256SUMS").write_text(sums.replace("  ", " *"), encoding="utf-8")
    before = load_checkpoint(copy)
    calibration = dataclasses.replace(before.calibration, forward_weight=0.9)
    after = revise_checkpoint(copy, calibration=calibration, output=tmp_path / "new")
    assert (after.directory, after.calibration) == (tmp_path / "new", calibration)
    assert load_checkpoint(copy).digest == before.digest
    with pytest.raises(CheckpointError, match="exists"):
        revise_checkpoint(copy, calibration=calibration, output=tmp_path / "new")
