"""Read and write the checkpoint directory, which holds everything that serving needs.

    config.json          names, sizes, calibration, languages, scores, origin
    tokenizer.model      SentencePiece model
    word_end_probs.f16   how often a word ends after each token
    weights.safetensors  parameters, float16 or float32
    onnx/                int8 graphs and the one file of weights that they share
    onnx-fp32/           the same in float32, on request
    MODEL_CARD.md        data, licences, scores, limits
    SHA256SUMS           every file above, in the format of sha256sum

Loading trusts nothing. Every listed file must be there with its sum, and only listed files are
read, so a stray file does no harm. Nothing is unpickled, and neither torch nor onnx nor safetensors
is imported. The format in full: docs/checkpoint.md.
"""

import errno
import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pydantic

from model.config import STRICT, Calibration, NetworkConfig, Sizes, parse
from model.errors import CheckpointError, TokenizerError
from model.files import replaced_directory
from model.tokenizer import Tokenizer

CONFIG = "config.json"
TOKENIZER = "tokenizer.model"
WORD_END_PROBS = "word_end_probs.f16"
WEIGHTS = "weights.safetensors"
CARD = "MODEL_CARD.md"
SUMS = "SHA256SUMS"
REQUIRED = (CONFIG, TOKENIZER, WORD_END_PROBS, WEIGHTS, CARD)
# Limits of the header of weights: its bytes (safetensors' own limit) and one size of a tensor.
MAX_HEADER_BYTES = 100_000_000
_MAX_TENSOR_SIZE = 1 << 40
Capability = Literal["predict", "score", "cloze"]

_SUM_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
# The fields of config.json that a Checkpoint has, too.
_DESCRIPTION = ("name", "version", "network", "calibration", "languages", "scores", "training")
_EXPORT_AGAIN = "export the checkpoint again"
_COPY_AGAIN = "copy the checkpoint again"


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class CheckpointConfig:
    """The content of ``config.json``.

    Attributes:
        format_version: rises when an old reader would misread a new checkpoint.
        name: such as ``default``; 1 to 64 letters, digits, ``.``, ``_`` and ``-``.
        version: its own version, by the same rule.
        network: sizes and cell.
        calibration: temperatures and rescoring weights.
        languages: codes, such as ``zh``.
        scores: figures of an evaluation, as ``training evaluate`` names them.
        training: origin: data hash, git commit, seed, tokens seen, date.
    """

    format_version: Literal[2] = 2
    name: Annotated[str, pydantic.Field(pattern=f"^{_NAME}$")]
    version: Annotated[str, pydantic.Field(pattern=f"^{_NAME}$")]
    network: NetworkConfig
    calibration: Calibration
    languages: tuple[str, ...]
    scores: dict[str, Any]
    training: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that has been verified and read, or an n-gram opened as if it were one.

    Attributes:
        directory: its path.
        name, version, calibration, languages, scores, training: see :class:`CheckpointConfig`.
        digest: SHA-256 of SHA256SUMS, hexadecimal: changes when any file does.
        network: sizes, of an n-gram as well.
        tokenizer: tokens.
        word_end_probs: by token, the share of its occurrences in the training text that no letter
            follows; used for tokens that end in a letter.
        files: the listed files, whose sums were right; no other may be opened.
    """

    directory: Path
    name: str
    version: str
    digest: str
    network: Sizes
    calibration: Calibration
    tokenizer: Tokenizer
    languages: tuple[str, ...]
    word_end_probs: tuple[float, ...]
    scores: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    files: frozenset[str] = frozenset()

    @property
    def config(self) -> CheckpointConfig:
        """The content of config.json; CheckpointError for an n-gram, which has no network."""
        if not isinstance(self.network, NetworkConfig):
            raise CheckpointError(f"{self.directory} holds no network; name the directory of one")
        return CheckpointConfig(**{field: getattr(self, field) for field in _DESCRIPTION})

    @property
    def capabilities(self) -> tuple[Capability, ...]:
        """Questions that the network can answer.

        A forward tower alone rescores its own proposals; a stacked network has no next head.
        """
        stacked = self.network.architecture == "stacked_bidirectional"
        return ("cloze",) if stacked else ("predict", "score", "cloze")


def is_checkpoint(directory: Path) -> bool:
    """Return True if a checkpoint's two main files exist; the others are not looked at."""
    return all((directory / name).is_file() for name in (CONFIG, SUMS))


def load_checkpoint(directory: Path) -> Checkpoint:
    """Verify and read a checkpoint.

    Args:
        directory: the checkpoint; it, and any file in it, may be a symbolic link.

    Raises:
        CheckpointError: it is missing, torn, altered, too new, or contradicts itself. The message
            names the path, the problem and the remedy.
    """
    digest, listed = _verify_sums(directory)
    for name in REQUIRED:
        if name not in listed:
            raise CheckpointError(f"{directory / SUMS} does not list {name}; {_EXPORT_AGAIN}")
    config = _read_config(directory / CONFIG)
    try:
        tokenizer = Tokenizer.load(directory / TOKENIZER)
    except TokenizerError as error:
        raise CheckpointError(f"{error}; {_EXPORT_AGAIN}") from error
    if tokenizer.size != config.network.vocabulary_size:
        raise CheckpointError(
            f"{directory / TOKENIZER} has {tokenizer.size} tokens, the network has"
            f" {config.network.vocabulary_size}; {_EXPORT_AGAIN}"
        )
    return Checkpoint(
        directory=directory,
        digest=digest,
        tokenizer=tokenizer,
        word_end_probs=_read_word_end_probs(directory / WORD_END_PROBS, tokenizer.size),
        files=frozenset(listed),
        **{field: getattr(config, field) for field in _DESCRIPTION},
    )


def word_end_probs_file(word_end_probs: npt.NDArray[np.float32]) -> bytes:
    """Return the content of ``word_end_probs.f16``: shares (V,), from 0 to 1."""
    return word_end_probs.astype("<f2").tobytes()


def count_parameters(directory: Path) -> int:
    """Count the trained numbers of a checkpoint by the header of its weights.

    The header is its length in 8 bytes, then JSON with the shape of every tensor.

    Raises:
        CheckpointError: the weights cannot be read, or are not a safetensors file.
    """
    path = directory / WEIGHTS
    try:
        with _opened(path) as file:
            size = int.from_bytes(file.read(8), "little")
            if size > MAX_HEADER_BYTES:
                raise ValueError(f"a header of {size} bytes")
            header = json.loads(file.read(size))
        shapes = [tensor["shape"] for name, tensor in header.items() if name != "__metadata__"]
        for size in (size for shape in shapes for size in shape):
            if type(size) is not int or not 0 <= size <= _MAX_TENSOR_SIZE:
                raise ValueError(f"a tensor of size {size!r}")
        return sum(map(math.prod, shapes))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} has no header of safetensors: {error!r}; {_EXPORT_AGAIN}"
        ) from error


def write_checkpoint(
    directory: Path,
    config: CheckpointConfig,
    files: Mapping[str, bytes],
    *,
    overwrite: bool = False,
) -> Checkpoint:
    """Write a checkpoint next to its final name, load it, and rename it into place.

    Args:
        directory: final name; missing parents are made.
        config: what ``config.json`` will hold.
        files: every other file, by its path inside the directory.
        overwrite: replace an existing checkpoint (:func:`model.files.replaced_directory`); its
            unlisted files are copied.

    Raises:
        CheckpointError: *directory* exists and may not be replaced, or a file is invalid.
        OSError: the disk is full or read-only; an existing checkpoint is untouched.
    """
    check_target(directory, config.name, config.version, overwrite)
    contents = {**files, CONFIG: _to_json(config)}
    sums = [f"{hashlib.sha256(contents[path]).hexdigest()}  {path}\n" for path in sorted(contents)]
    contents[SUMS] = "".join(sums).encode()
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
        CheckpointError: *directory* exists and may not be replaced, or a name is invalid.
    """
    for label, value in (("name", name), ("version", version)):
        if not re.fullmatch(_NAME, value):
            raise CheckpointError(
                f"{label}: use 1 to 64 letters, digits, '.', '_' or '-', a letter or digit first"
            )
    if directory.exists() and not overwrite:
        raise CheckpointError(
            f"{directory} exists; choose another name or allow it to be overwritten (--overwrite)"
        )
    if directory.exists() and not is_checkpoint(directory):
        raise CheckpointError(
            f"{directory} is not a checkpoint, so it is not overwritten; choose another name"
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
    """Replace the measured parts; weights, graphs and tokenizer stay as they are.

    Args:
        directory: a checkpoint, replaced as a whole as by :func:`write_checkpoint`.
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
    config = replace(
        old.config,
        version=version or old.version,
        calibration=calibration or old.calibration,
        scores=old.scores if scores is None else dict(scores),
    )
    return write_checkpoint(output or directory, config, files, overwrite=output is None)


def _verify_sums(directory: Path) -> tuple[str, set[str]]:
    """Return the digest of SHA256SUMS and the files that it lists, each of which has its sum."""
    if not directory.is_dir():
        problem = "is not a directory" if directory.exists() else "does not exist"
        raise CheckpointError(
            f"{directory} {problem}; name the directory that holds {CONFIG} and {SUMS}"
        )
    path = directory / SUMS
    with _opened(path) as file:
        sums = file.read()
    try:
        lines = sums.decode().removesuffix("\n").split("\n") if sums else []
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{path} is not UTF-8 at byte {error.start}; {_COPY_AGAIN}"
        ) from error
    listed: set[str] = set()
    for number, line in enumerate(lines, start=1):
        match = _SUM_LINE.fullmatch(line)
        if match is None:
            raise CheckpointError(f"{path} line {number} is not 'sum  path'; {_COPY_AGAIN}")
        expected, name = match.groups()
        _check_path(directory, name)
        if name in listed:
            raise CheckpointError(f"{path} lists {name} twice; {_EXPORT_AGAIN}")
        with _opened(directory / name) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
        if found != expected:
            raise CheckpointError(
                f"{directory / name} ({size} bytes) has SHA-256 {found}, {SUMS} says {expected};"
                f" it was cut short or altered: {_COPY_AGAIN}"
            )
        listed.add(name)
    return hashlib.sha256(sums).hexdigest(), listed


def _check_path(directory: Path, path: str) -> None:
    """Refuse names that lead out of the checkpoint; symbolic links are the owner's own decision."""
    pure = PurePosixPath(path)
    plain = str(pure) == path and not {"\\", "\0"} & {*path}
    if not plain or pure.is_absolute() or ".." in pure.parts:
        raise CheckpointError(
            f"{directory / SUMS}: {path!r} is not a plain path inside it; {_EXPORT_AGAIN}"
        )


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file to read; errors name it. A pipe or a device could be read for ever."""
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is not a regular file")
        with path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; {_COPY_AGAIN}") from error
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}; check its kind and permissions"
        ) from error


def _to_json(config: CheckpointConfig) -> bytes:
    """Return the bytes of config.json; ValueError for NaN and infinity."""
    text = json.dumps(asdict(config), ensure_ascii=False, indent=2, allow_nan=False)
    return f"{text}\n".encode()


def _read_config(path: Path) -> CheckpointConfig:
    with _opened(path) as file:
        data = file.read()
    try:
        config = parse(CheckpointConfig, data)
        if json.loads(_to_json(config)) != json.loads(data):
            raise CheckpointError("a field of network or calibration is missing")
    except (CheckpointError, ValueError) as error:  # ValueError: NaN or 1e999
        remedy = f"{_EXPORT_AGAIN}, or upgrade Lacuna if format_version is above 2"
        raise CheckpointError(f"{path}: {error}; {remedy}") from error
    return config


def _read_word_end_probs(path: Path, tokens: int) -> tuple[float, ...]:
    with _opened(path) as file:
        data = file.read()
    shares = np.frombuffer(data, dtype="<f2") if len(data) == 2 * tokens else None
    if shares is None or not bool(((shares >= 0) & (shares <= 1)).all()):
        raise CheckpointError(
            f"{path} ({len(data)} bytes) is not {tokens} shares from 0 to 1; {_EXPORT_AGAIN}"
        )
    return tuple(shares.astype(np.float64).tolist())


def _copy_unlisted(old: Path, new: Path) -> None:
    """Copy unlisted files, such as notes or a repository, into the new checkpoint."""
    sums = (old / SUMS).read_text(encoding="utf-8", errors="replace")
    listed = {match[2] for line in sums.split("\n") if (match := _SUM_LINE.fullmatch(line))}
    for path in old.rglob("*"):
        target = new / path.relative_to(old)
        folder = path.is_dir() and not path.is_symlink()
        if not folder and path.relative_to(old).as_posix() not in listed and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target, follow_symlinks=False)
