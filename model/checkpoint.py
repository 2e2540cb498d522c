"""The checkpoint directory: what a finished network is when nothing is running. Read here, and written here.

    config.json         format version, name, version, network, calibration, languages, scores, training
    tokenizer.model    SentencePiece model
    word_end_probs.f16       how often a word ends after each token; older checkpoints have none
    weights.safetensors parameters, float16 or float32
    onnx/               int8 graphs and the one file of weights that they share
    onnx-fp32/          the same in float32, on request
    MODEL_CARD.md       data, licences, scores, limits
    SHA256SUMS          every file above, in the format of sha256sum

Loading trusts nothing: every listed file must be there with its sum, and every file that is read must be listed.
Files that are not listed are never opened, so a stray one does no harm. Nothing is unpickled. Neither torch nor onnx
nor safetensors is imported: weights are for the torch runtime (``model/torch_runtime.py``), graphs for
``model/runtime.py``. The format in full: docs/checkpoint.md.
"""

import errno
import hashlib
import json
import math
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from model.config import GATES, Architecture, Calibration, NetworkConfig
from model.errors import CheckpointError, TokenizerError
from model.files import replaced_directory
from model.tokenizer import Tokenizer

FORMAT_VERSION = 2
CONFIG, TOKENIZER, WORD_END_PROBS, WEIGHTS, CARD, SUMS = (
    "config.json",
    "tokenizer.model",
    "word_end_probs.f16",
    "weights.safetensors",
    "MODEL_CARD.md",
    "SHA256SUMS",
)
REQUIRED = (CONFIG, TOKENIZER, WEIGHTS, CARD)
MAX_HEADER_BYTES = 100_000_000  # safetensors' own bound
_LARGEST_SIZE = 1 << 40
Capability = Literal["predict", "score", "cloze"]

_SUM_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FIELDS: dict[str, type] = {
    "format_version": int,
    "name": str,
    "version": str,
    "network": dict,
    "calibration": dict,
    "languages": list,
    "scores": dict,
    "training": dict,
}
_EXPORT_AGAIN = "export the checkpoint again"
_COPY_AGAIN = "copy the checkpoint again"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that has been verified and read.

    Attributes:
        directory: where it lies.
        name: what it is called, such as ``default``; letters, digits, ``.``, ``_`` and ``-``.
        version: its own version, by the same rule.
        digest: SHA-256 of SHA256SUMS, hexadecimal: changes when any file does.
        network: sizes and cell.
        calibration: temperatures and rescoring weights.
        tokenizer: tokens.
        languages: codes, such as ``zh``.
        scores: figures of an evaluation, as ``training evaluate`` names them.
        training: where it comes from: data hash, git commit, seed, tokens seen, date.
        word_end_probs: by token, the share of its occurrences in the training text that no letter follows; of use where it
            ends in a letter. Empty in older checkpoints.
        files: the listed files, whose sums were right; no other is to be opened.
    """

    directory: Path
    name: str
    version: str
    digest: str
    network: NetworkConfig
    calibration: Calibration
    tokenizer: Tokenizer
    languages: tuple[str, ...]
    scores: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    word_end_probs: tuple[float, ...] = ()
    files: frozenset[str] = frozenset()

    @property
    def capabilities(self) -> tuple[Capability, ...]:
        """Questions that the network can answer.

        A forward tower alone fills blanks by rescoring what it proposes; a stacked network knows no "next".
        """
        stacked = self.network.architecture == "stacked_bidirectional"
        return ("cloze",) if stacked else ("predict", "score", "cloze")


def is_checkpoint(directory: Path) -> bool:
    """Whether a checkpoint's two files stand there, which says nothing of the others."""
    return all((directory / name).is_file() for name in (CONFIG, SUMS))


def load_checkpoint(directory: Path) -> Checkpoint:
    """Verify and read a checkpoint.

    Args:
        directory: the checkpoint; it, and any file in it, may be a symbolic link.

    Raises:
        CheckpointError: it is missing, torn, altered, too new, or contradicts itself. The message names the path, what
            is wrong and what to do.
    """
    digest, listed = _verify_sums(directory)
    for name in REQUIRED:
        if name not in listed:
            raise CheckpointError(f"{directory / SUMS} does not list {name}; {_EXPORT_AGAIN}")
    values = _read_config(directory / CONFIG)
    try:
        network = _read_network(values["network"])
        calibration = Calibration.from_dict(values["calibration"])
    except CheckpointError as error:
        raise CheckpointError(f"{directory / CONFIG}: {error}; {_EXPORT_AGAIN}") from error
    try:
        tokenizer = Tokenizer.load(directory / TOKENIZER)
    except TokenizerError as error:
        raise CheckpointError(f"{error}; {_EXPORT_AGAIN}") from error
    if tokenizer.size != network.vocabulary_size:
        raise CheckpointError(
            f"{directory / TOKENIZER} has {tokenizer.size} tokens, the network {network.vocabulary_size};"
            f" they belong to different checkpoints: {_EXPORT_AGAIN}"
        )
    return Checkpoint(
        directory=directory,
        name=values["name"],
        version=values["version"],
        digest=digest,
        network=network,
        calibration=calibration,
        tokenizer=tokenizer,
        languages=tuple(values["languages"]),
        scores=values["scores"],
        training=values["training"],
        word_end_probs=_read_word_end_probs(directory / WORD_END_PROBS, tokenizer.size)
        if WORD_END_PROBS in listed
        else (),
        files=frozenset(listed),
    )


def word_end_probs_file(word_end_probs: npt.NDArray[np.float32]) -> bytes:
    """The contents of ``word_end_probs.f16``: shares (V,), from 0 to 1."""
    return word_end_probs.astype("<f2").tobytes()


def count_parameters(directory: Path) -> int:
    """Trained numbers of a checkpoint, by the header of its weights: 8 bytes of length, then JSON with every shape.

    Raises:
        CheckpointError: the weights cannot be read, or are no safetensors file.
    """
    path = directory / WEIGHTS
    try:
        with _named_errors(path), path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > MAX_HEADER_BYTES:
                raise ValueError(f"a header of {size} bytes")
            header = json.loads(file.read(size))
        shapes = [array["shape"] for name, array in header.items() if name != "__metadata__"]
        if not all(
            type(size) is int and 0 <= size <= _LARGEST_SIZE for shape in shapes for size in shape
        ):
            raise ValueError("a shape that no array has")
        return sum(map(math.prod, shapes))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} has no header of safetensors: {error!r}; {_EXPORT_AGAIN}"
        ) from error


def write_checkpoint(
    directory: Path,
    *,
    name: str,
    version: str,
    network: NetworkConfig,
    calibration: Calibration,
    languages: tuple[str, ...],
    scores: Mapping[str, Any],
    training: Mapping[str, Any],
    files: Mapping[str, bytes],
    overwrite: bool = False,
) -> Checkpoint:
    """Write a checkpoint beside its final name, rename it, and load it back.

    Args:
        directory: final name; its parent is made where needed.
        name: see :class:`Checkpoint`, as are *version*, *network*, *calibration*, *languages*, *scores*, *training*.
        version: its own version.
        network: sizes and cell.
        calibration: temperatures and rescoring weights.
        languages: codes.
        scores: figures of an evaluation.
        training: where it comes from.
        files: every other file, by its path inside the directory: vocabulary, weights, graphs, model card.
        overwrite: replace the checkpoint that stands there; what lies in it unlisted stays. A crash between the two
            renames leaves the old one as ``.NAME.old``.

    Raises:
        CheckpointError: something stands there already, or is no checkpoint, or a name or file cannot be part of one.
        OSError: the disk is full or read-only; what stood there before is untouched.
    """
    check_target(directory, name, version, overwrite)
    config = {
        "format_version": FORMAT_VERSION,
        "name": name,
        "version": version,
        "network": network.to_dict(),
        "calibration": calibration.to_dict(),
        "languages": list(languages),
        "scores": dict(scores),
        "training": dict(training),
    }
    contents = dict(files)
    contents[CONFIG] = (
        json.dumps(config, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    ).encode()
    sums = "".join(
        f"{hashlib.sha256(contents[path]).hexdigest()}  {path}\n" for path in sorted(contents)
    )
    contents[SUMS] = sums.encode()

    with replaced_directory(directory) as fresh:
        for path, content in contents.items():
            _check_path(directory, path)
            (fresh / path).parent.mkdir(parents=True, exist_ok=True)
            (fresh / path).write_bytes(content)
        load_checkpoint(fresh)
        if directory.exists():
            _copy_unlisted(directory, fresh)
    return load_checkpoint(directory)


def check_target(directory: Path, name: str, version: str, overwrite: bool) -> None:
    """Refuse early what :func:`write_checkpoint` would refuse.

    Raises:
        CheckpointError: something stands there already, or a name is none.
    """
    for label, value in (("name", name), ("version", version)):
        if not _NAME.fullmatch(value):
            raise CheckpointError(
                f"{label}: use 1 to 64 letters, digits, '.', '_' or '-', a letter or digit first"
            )
    if directory.exists() and not overwrite:
        raise CheckpointError(
            f"{directory} exists; choose another name or allow it to be overwritten (--overwrite)"
        )
    if directory.exists() and not is_checkpoint(directory):
        raise CheckpointError(
            f"{directory} is no checkpoint, so it is not overwritten; choose another name"
        )


def revise_checkpoint(
    directory: Path,
    *,
    calibration: Calibration | None = None,
    scores: Mapping[str, Any] | None = None,
    card: str | None = None,
    version: str | None = None,
    output: Path | None = None,
) -> Checkpoint:
    """Replace what is measured after a network is finished; its weights, graphs and vocabulary stay as they are.

    Args:
        directory: a checkpoint, replaced as a whole as by :func:`write_checkpoint`; what lies in it unlisted stays.
        calibration: new temperatures and weights.
        scores: new figures.
        card: new text of MODEL_CARD.md.
        version: a new one.
        output: write a copy there, which must not exist, and leave *directory* as it is.

    Raises:
        CheckpointError: it cannot be loaded, or *output* exists.
        OSError: the disk is full or read-only; the checkpoint is untouched.
    """
    old = load_checkpoint(directory)
    files = {path: (directory / path).read_bytes() for path in old.files - {CONFIG}}
    if card is not None:
        files[CARD] = card.encode()
    return write_checkpoint(
        output or directory,
        name=old.name,
        version=version or old.version,
        network=old.network,
        calibration=calibration or old.calibration,
        languages=old.languages,
        scores=old.scores if scores is None else scores,
        training=old.training,
        files=files,
        overwrite=output is None,
    )


def _verify_sums(directory: Path) -> tuple[str, set[str]]:
    """The digest of SHA256SUMS and the files that it lists, each of which has its sum."""
    if not directory.is_dir():
        problem = "is not a directory" if directory.exists() else "does not exist"
        raise CheckpointError(
            f"{directory} {problem}; name the directory that holds {CONFIG} and {SUMS}"
        )
    sums = _read(directory / SUMS)
    try:
        lines = sums.decode().removesuffix("\n").split("\n") if sums else []
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{directory / SUMS} is not UTF-8 at byte {error.start}; {_COPY_AGAIN}"
        ) from error
    listed: set[str] = set()
    for number, line in enumerate(lines, start=1):
        match = _SUM_LINE.fullmatch(line)
        if match is None:
            raise CheckpointError(
                f"{directory / SUMS} line {number} is not 'sum  path'; {_COPY_AGAIN}"
            )
        expected, path = match.groups()
        _check_path(directory, path)
        if path in listed:
            raise CheckpointError(f"{directory / SUMS} lists {path} twice; {_EXPORT_AGAIN}")
        size, found = _measure(directory / path)
        if found != expected:
            raise CheckpointError(
                f"{directory / path} ({size} bytes) has SHA-256 {found}, {SUMS} says {expected};"
                f" it was cut short or altered: {_COPY_AGAIN}"
            )
        listed.add(path)
    return hashlib.sha256(sums).hexdigest(), listed


def _check_path(directory: Path, path: str) -> None:
    """Refuse paths that lead out of the checkpoint by their name; a symbolic link is the owner's own doing."""
    parts = PurePosixPath(path)
    if (
        parts.is_absolute()
        or ".." in parts.parts
        or "\\" in path
        or str(parts) != path
        or "\0" in path
    ):
        raise CheckpointError(
            f"{directory / SUMS}: {path!r} is not a plain path inside the checkpoint; {_EXPORT_AGAIN}"
        )


def _read(path: Path) -> bytes:
    with _named_errors(path):
        _refuse_endless(path)
        return path.read_bytes()


def _measure(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file, without holding it."""
    with _named_errors(path):
        _refuse_endless(path)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            return file.tell(), found


def _refuse_endless(path: Path) -> None:
    """Refuse what may be read for ever, such as a pipe that nobody writes into."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "is no file")


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; {_COPY_AGAIN}") from error
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}; check its kind and permissions"
        ) from error


def _read_config(path: Path) -> dict[str, Any]:
    """The values of config.json, each of the type that it must have."""
    try:
        values = json.loads(_read(path), parse_constant=_refuse_constant)
        # GET /model shows it: no lone surrogate, no 1e999.
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON, NaN, Infinity
        raise CheckpointError(f"{path} is not JSON: {error}; {_EXPORT_AGAIN}") from error
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{path} holds a {type(values).__name__}, not an object; {_EXPORT_AGAIN}"
        )
    version = values.get("format_version")
    if type(version) is not int or version < 1:
        raise CheckpointError(
            f"{path}: format_version is not a whole number from 1; {_EXPORT_AGAIN}"
        )
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format_version is {version}, this Lacuna reads {FORMAT_VERSION}; upgrade Lacuna"
        )
    for key, expected in _FIELDS.items():
        if type(values.get(key)) is not expected:
            found = type(values[key]).__name__ if key in values else "missing"
            raise CheckpointError(
                f"{path}: {key} is {found}, it must be {expected.__name__}; {_EXPORT_AGAIN}"
            )
    unknown = sorted(values.keys() - _FIELDS.keys())
    if unknown:
        raise CheckpointError(f"{path}: unknown {', '.join(unknown)}; {_EXPORT_AGAIN}")
    for key in ("name", "version"):
        if not _NAME.fullmatch(values[key]):
            raise CheckpointError(
                f"{path}: {key} has a character that a name cannot have; {_EXPORT_AGAIN}"
            )
    if not all(type(language) is str for language in values["languages"]):
        raise CheckpointError(f"{path}: languages must be strings; {_EXPORT_AGAIN}")
    return cast("dict[str, Any]", values)


def _read_word_end_probs(path: Path, tokens: int) -> tuple[float, ...]:
    data = _read(path)
    shares = np.frombuffer(data, dtype="<f2") if len(data) == 2 * tokens else None
    if shares is None or not bool(((shares >= 0) & (shares <= 1)).all()):
        raise CheckpointError(
            f"{path} ({len(data)} bytes) is not {tokens} shares from 0 to 1; {_EXPORT_AGAIN}"
        )
    return tuple(shares.astype(np.float64).tolist())


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


def _read_network(values: dict[str, Any]) -> NetworkConfig:
    """The network's sizes; :class:`NetworkConfig` checks ranges, this checks what JSON may hold in their place."""
    for key, value in values.items():
        expected = str if key in ("architecture", "cell") else int
        if type(value) is not expected:
            raise CheckpointError(
                f"network.{key} is {type(value).__name__}, it must be {expected.__name__}"
            )
    network = NetworkConfig.from_dict(values)
    if network.architecture not in get_args(Architecture):
        raise CheckpointError(
            f"network.architecture is none of {', '.join(get_args(Architecture))}"
        )
    if network.cell not in GATES:
        raise CheckpointError(
            f"network.cell is none of {', '.join(GATES)}, of which networks can be served"
        )
    return network


def _copy_unlisted(old: Path, new: Path) -> None:
    """Copy what the old checkpoint does not list, such as notes or a repository, into the new one."""
    sums = (old / SUMS).read_text(encoding="utf-8", errors="replace")
    listed = {match[2] for line in sums.split("\n") if (match := _SUM_LINE.fullmatch(line))}
    for path in old.rglob("*"):
        name = path.relative_to(old)
        if not path.is_dir() and name.as_posix() not in listed and not (new / name).exists():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, new / name, follow_symlinks=False)
