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
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from io import BufferedReader
from pathlib import Path
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
Capability = Literal["predict", "score", "cloze"]

# No part of a path starts with a dot, so none leads out of the checkpoint.
_SUM_LINE = re.compile(r"([0-9a-f]{64}) [ *]((?:[\w-][\w.-]*/)*[\w-][\w.-]*)", re.ASCII)
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
# The fields of config.json that a Checkpoint has, too.
_DESCRIPTION = ("name", "version", "network", "calibration", "languages", "scores", "training")
EXPORT_AGAIN = "export the checkpoint again"
_COPY_AGAIN = "copy the checkpoint again"


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class CheckpointConfig:
    """The content of ``config.json``."""

    format_version: Literal[2] = 2  # rises when an old reader would misread a new checkpoint
    name: Annotated[str, pydantic.Field(pattern=f"^{_NAME}$")]
    version: Annotated[str, pydantic.Field(pattern=f"^{_NAME}$")]
    network: NetworkConfig
    calibration: Calibration
    languages: tuple[str, ...]  # codes, such as zh
    scores: dict[str, Any]  # figures of an evaluation, as `training evaluate` names them
    training: dict[str, Any]  # origin: data hash, git commit, seed, tokens seen, date


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that has been verified and read, or an n-gram opened as if it were one.

    *word_end_probs* is, by token, the share of its occurrences in the training text that no letter
    follows; it is used for tokens that end in a letter. Other fields: :class:`CheckpointConfig`.
    """

    directory: Path
    name: str
    version: str
    digest: str  # SHA-256 of SHA256SUMS, hexadecimal: changes when any file does
    network: Sizes
    calibration: Calibration
    tokenizer: Tokenizer
    languages: tuple[str, ...]
    word_end_probs: tuple[float, ...]
    scores: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    files: frozenset[str] = frozenset()  # listed and with the right sums; no other may be opened

    @property
    def config(self) -> CheckpointConfig:
        """The content of config.json; CheckpointError for an n-gram, which has no network."""
        if not isinstance(self.network, NetworkConfig):
            raise CheckpointError(f"{self.directory} holds no network; name the directory of one")
        return CheckpointConfig(**{field: getattr(self, field) for field in _DESCRIPTION})

    @property
    def capabilities(self) -> tuple[Capability, ...]:
        """Questions that the network can answer; a stacked one has no next head."""
        stacked = self.network.architecture == "stacked_bidirectional"
        return ("cloze",) if stacked else ("predict", "score", "cloze")


def is_checkpoint(directory: Path) -> bool:
    """Return True if a checkpoint's two main files exist; the others are not looked at."""
    return all((directory / name).is_file() for name in (CONFIG, SUMS))


def load_checkpoint(directory: Path) -> Checkpoint:
    """Verify and read a checkpoint; it, and any file in it, may be a symbolic link.

    Raises:
        CheckpointError: it is missing, torn, altered, too new, or contradicts itself. The message
            names the path, the problem and the remedy.
    """
    digest, listed = _verify_sums(directory)
    for name in REQUIRED:
        if name not in listed:
            raise CheckpointError(f"{directory / SUMS} does not list {name}; {EXPORT_AGAIN}")
    try:
        config = parse(CheckpointConfig, (directory / CONFIG).read_bytes())
    except CheckpointError as error:
        remedy = f"{EXPORT_AGAIN}, or upgrade Lacuna if format_version is above 2"
        raise CheckpointError(f"{directory / CONFIG}: {error}; {remedy}") from error
    try:
        tokenizer = Tokenizer.load(directory / TOKENIZER)
    except TokenizerError as error:
        raise CheckpointError(f"{error}; {EXPORT_AGAIN}") from error
    if tokenizer.size != config.network.vocabulary_size:
        raise CheckpointError(
            f"{directory / TOKENIZER} has {tokenizer.size} tokens, the network has"
            f" {config.network.vocabulary_size}; {EXPORT_AGAIN}"
        )
    data = (directory / WORD_END_PROBS).read_bytes()
    shares = np.frombuffer(data, dtype="<f2") if len(data) == 2 * tokenizer.size else None
    if shares is None or not bool(((shares >= 0) & (shares <= 1)).all()):
        raise CheckpointError(
            f"{directory / WORD_END_PROBS} ({len(data)} bytes) is not {tokenizer.size} shares from"
            f" 0 to 1; {EXPORT_AGAIN}"
        )
    return Checkpoint(
        directory=directory,
        digest=digest,
        tokenizer=tokenizer,
        word_end_probs=tuple(shares.astype(np.float64).tolist()),
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
            tensors = json.loads(file.read(min(size, 100_000_000)))  # safetensors' own limit
        tensors.pop("__metadata__", None)
        return sum(math.prod(tensor["shape"]) for tensor in tensors.values())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} has no header of safetensors: {error!r}; {EXPORT_AGAIN}"
        ) from error


def write_checkpoint(
    directory: Path, config: CheckpointConfig, files: Mapping[str, bytes], overwrite: bool = False
) -> Checkpoint:
    """Write a checkpoint next to its final name, load it, and rename it into place.

    *files* are all but ``config.json``, by path. An existing checkpoint is only replaced with
    *overwrite* (:func:`model.files.replaced_directory`); its unlisted files, such as notes or a
    repository, are copied.

    Raises:
        CheckpointError: *directory* exists and may not be replaced, or a file is invalid.
        OSError: the disk is full or read-only; an existing checkpoint is untouched.
    """
    check_target(directory, config.name, config.version, overwrite)
    config_json = json.dumps(asdict(config), ensure_ascii=False, indent=2, allow_nan=False)
    contents = {**files, CONFIG: f"{config_json}\n".encode()}
    sums = [f"{hashlib.sha256(contents[path]).hexdigest()}  {path}\n" for path in sorted(contents)]
    contents[SUMS] = "".join(sums).encode()
    _parse_sums(directory, contents[SUMS])  # refuses paths that lead out of it
    with replaced_directory(directory) as fresh:
        for path, content in contents.items():
            (fresh / path).parent.mkdir(parents=True, exist_ok=True)
            (fresh / path).write_bytes(content)
        load_checkpoint(fresh)
        if directory.exists():
            replaced = contents.keys() | _parse_sums(directory, (directory / SUMS).read_bytes())
            _copy_others(directory, fresh, replaced)
    return load_checkpoint(directory)


def check_target(directory: Path, name: str, version: str, overwrite: bool) -> None:
    """Refuse early what :func:`write_checkpoint` would refuse.

    Raises:
        CheckpointError: *directory* exists and may not be replaced, or a name is invalid.
    """
    if not all(re.fullmatch(_NAME, label) for label in (name, version)):
        raise CheckpointError(
            "name, version: use 1 to 64 letters, digits, '.', '_' or '-', a letter or digit first"
        )
    if directory.exists() and not (overwrite and is_checkpoint(directory)):
        raise CheckpointError(
            f"{directory} exists; choose another name, or overwrite a checkpoint with --overwrite"
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

    The directory is replaced as by :func:`write_checkpoint`, or stays if *output*, which must not
    exist, gets a copy.

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
        raise CheckpointError(f"{directory} is no directory; name one with {CONFIG} and {SUMS}")
    with _opened(directory / SUMS) as file:
        data = file.read()
    listed = _parse_sums(directory, data)
    for name, expected in listed.items():
        with _opened(directory / name) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
        if found != expected:
            raise CheckpointError(
                f"{directory / name} ({size} bytes) has SHA-256 {found}, {SUMS} says {expected};"
                f" it was cut short or altered: {_COPY_AGAIN}"
            )
    return hashlib.sha256(data).hexdigest(), {*listed}


def _parse_sums(directory: Path, data: bytes) -> dict[str, str]:
    """Return the sum of each listed file."""
    sums = {}
    for number, line in enumerate(data.decode(errors="replace").splitlines(), start=1):
        match = _SUM_LINE.fullmatch(line)
        if match is None:
            raise CheckpointError(
                f"{directory / SUMS} line {number} is not 'sum  path' with a path inside the"
                f" checkpoint; {_COPY_AGAIN}"
            )
        sums[match[2]] = match[1]
    return sums


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


def _copy_others(old: Path, new: Path, replaced: Set[str]) -> None:
    def skip(folder: str, names: list[str]) -> list[str]:
        return [n for n in names if Path(folder, n).relative_to(old).as_posix() in replaced]

    shutil.copytree(old, new, symlinks=True, ignore=skip, dirs_exist_ok=True)
