"""Read and write the checkpoint directory, which holds everything that serving needs.

    config.json          names, sizes, calibration, languages, scores, origin
    tokenizer.model      SentencePiece model
    word_end_probs.f16   how often a word ends after each token
    words                words of the training text
    onnx/                int8 graphs and the one file of weights that they share
    counts/              counts of n-grams (model/counts.py), mixed with the network
    own-counts/          more of them, of a text that was added later
    MODEL_CARD.md        data, licences, scores, limits
    SHA256SUMS           every file above, in the format of sha256sum

A checkpoint has a network, counts or both.

Loading trusts nothing. Every listed file must be there with its sum, and only listed files are
read, so a stray file does no harm (model/listed_files.py). Nothing is unpickled, and torch is not
imported. The format in full: docs/checkpoint.md.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Set
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pydantic

from model.config import STRICT, Calibration, CountsConfig, NetworkConfig, parse
from model.counts import BUILD_AGAIN, Counts, CountsFiles, file_names, open_counts
from model.errors import CheckpointError, TokenizerError
from model.files import replaced_directory
from model.listed_files import (
    MAX_TOTAL_BYTES,
    SUMS,
    ListedFiles,
    parse_sums,
    read_listed_files,
    sums_file,
)
from model.tokenizer import Tokenizer
from model.words import KnownWords, read_words

DEFAULT_CHECKPOINT = Path(__file__).resolve().parent / "pretrained" / "default"
CONFIG = "config.json"
TOKENIZER = "tokenizer.model"
WORD_END_PROBS = "word_end_probs.f16"
WORDS = "words"
GRAPHS = "onnx"
WEIGHTS = f"{GRAPHS}/int8.weights"
CARD = "MODEL_CARD.md"
REQUIRED = (CONFIG, TOKENIZER, WORD_END_PROBS, WORDS, CARD)
COUNTS = ("counts", "own-counts")  # folders, in the order of `counts` in config.json
Capability = Literal["predict", "score", "cloze"]

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
NAME_RULE = "use 1 to 64 letters, digits, '.', '_' or '-', a letter or digit first"
# The fields of config.json that a Checkpoint has, too.
_DESCRIPTION = ("name", "version", "network", "calibration", "languages", "scores", "training")
EXPORT_AGAIN = "export the checkpoint again"
# Directories that are often named instead of a checkpoint, by a file in them, and what to do
_OTHER_DIRECTORIES = {
    f"checkpoint/{CONFIG}": "the output of `lacuna train`; name {0}/checkpoint",
    "run/state/state.json": "an unfinished `lacuna train`; give the same command again",
    "state/state.json": "a training run; export it: python -m training export {0} --output DIR",
    "state.json": "a state of a run; export it: python -m training export {0} --output DIR",
    "manifest.json": "prepared data; train on them, and export the run: python -m training --help",
}


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class CheckpointConfig:
    """The content of ``config.json``."""

    format_version: Literal[4] = 4  # rises when an old reader would misread a new checkpoint
    name: Annotated[str, pydantic.Field(pattern=f"^{NAME_PATTERN}$")]
    version: Annotated[str, pydantic.Field(pattern=f"^{NAME_PATTERN}$")]
    network: NetworkConfig | None
    counts: Annotated[tuple[CountsConfig, ...], pydantic.Field(max_length=len(COUNTS))] = ()
    calibration: Calibration
    languages: tuple[str, ...]  # codes, such as zh
    scores: dict[str, Any]  # figures of an evaluation, as `training evaluate` names them
    training: dict[str, Any]  # origin: data hash, git commit, seed, tokens seen, date

    @pydantic.model_validator(mode="after")
    def _check_parts(self) -> "CheckpointConfig":
        if not self.network and not self.counts:
            raise ValueError("neither a network nor counts")
        if self.counts and self.network and self.network.architecture == "stacked_bidirectional":
            raise ValueError("counts do not go with a stacked_bidirectional network")
        return self


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that has been verified and read.

    *word_end_probs* is, by token, the share of its occurrences in the training text that no letter
    follows; it is used for tokens that end in a letter. Other fields: :class:`CheckpointConfig`.
    """

    directory: Path
    name: str
    version: str
    digest: str  # SHA-256 of SHA256SUMS, hexadecimal: changes when any file does
    network: NetworkConfig | None
    calibration: Calibration
    tokenizer: Tokenizer
    languages: tuple[str, ...]
    word_end_probs: tuple[float, ...]
    words: KnownWords = field(default_factory=KnownWords)
    counts: tuple[Counts, ...] = ()  # general ones, then a writer's own
    scores: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    sums: Mapping[str, str] = field(default_factory=dict)  # of the listed files, each verified

    @property
    def config(self) -> CheckpointConfig:
        """The content of config.json."""
        counts = tuple(each.config for each in self.counts)
        return CheckpointConfig(
            **{field: getattr(self, field) for field in _DESCRIPTION}, counts=counts
        )

    def required_network(self) -> NetworkConfig:
        """Return the sizes of the network.

        Raises:
            CheckpointError: there are counts alone.
        """
        if self.network is None:
            raise CheckpointError(f"{self.directory} holds counts alone; name one with a network")
        return self.network

    @property
    def capabilities(self) -> tuple[Capability, ...]:
        """Questions that it can answer; a stacked network has no next head."""
        stacked = self.network and self.network.architecture == "stacked_bidirectional"
        return ("cloze",) if stacked else ("predict", "score", "cloze")


def is_checkpoint(directory: Path) -> bool:
    """Return True if a checkpoint's two main files exist; the others are not looked at."""
    return all((directory / name).is_file() for name in (CONFIG, SUMS))


def load_checkpoint(directory: Path, max_bytes: int = MAX_TOTAL_BYTES) -> Checkpoint:
    """Verify and read a checkpoint; it, and any file in it, may be a symbolic link.

    Raises:
        CheckpointError: it is missing, torn, altered, too new, or contradicts itself. The message
            names the path, the problem and the remedy.
    """
    is_file = os.path.isfile
    for name, kind in _OTHER_DIRECTORIES.items():
        if is_file(directory / name) and not is_file(directory / SUMS):
            raise CheckpointError(f"{directory} is {kind.format(directory)}")
    listed = read_listed_files(directory, (CONFIG, TOKENIZER, WORD_END_PROBS, WORDS), max_bytes)
    _check_listed(listed, directory, REQUIRED)
    try:
        config = parse(CheckpointConfig, listed.contents[CONFIG])
    except CheckpointError as error:
        remedy = f"{EXPORT_AGAIN}, or upgrade Lacuna if format_version is above 4"
        raise CheckpointError(f"{directory / CONFIG}: {error}; {remedy}") from error
    _check_listed(listed, directory, [WEIGHTS] if config.network else [])
    try:
        tokenizer = Tokenizer(listed.contents[TOKENIZER])
    except TokenizerError as error:
        raise CheckpointError(f"{directory / TOKENIZER}: {error}; {EXPORT_AGAIN}") from error
    folders = dict(zip(COUNTS, config.counts, strict=False))
    for folder, each in folders.items():
        names = [f"{folder}/{name}" for name in file_names(each)]
        _check_listed(listed, directory, names, BUILD_AGAIN)
    sizes = {folder: each.ngrams[0] for folder, each in folders.items()}
    if config.network:
        sizes["network"] = config.network.vocabulary_size
    for part, size in sizes.items():
        if tokenizer.size != size:
            raise CheckpointError(
                f"{directory / TOKENIZER} has {tokenizer.size} tokens, the {part} {size};"
                f" {EXPORT_AGAIN if part == 'network' else BUILD_AGAIN}"
            )
    data = listed.contents[WORD_END_PROBS]
    shares = np.frombuffer(data, dtype="<f2") if len(data) == 2 * tokenizer.size else None
    if shares is None or not bool(((shares >= 0) & (shares <= 1)).all()):
        raise CheckpointError(
            f"{directory / WORD_END_PROBS} ({len(data)} bytes) is not {tokenizer.size} shares from"
            f" 0 to 1; {EXPORT_AGAIN}"
        )
    try:
        words = KnownWords(read_words(listed.contents[WORDS]))
    except ValueError as error:
        raise CheckpointError(f"{directory / WORDS}: {error}; {EXPORT_AGAIN}") from error
    return Checkpoint(
        directory=directory,
        digest=listed.digest,
        tokenizer=tokenizer,
        word_end_probs=tuple(shares.astype(np.float64).tolist()),
        counts=tuple(open_counts(directory, folder, each) for folder, each in folders.items()),
        words=words,
        sums=listed.sums,
        **{field: getattr(config, field) for field in _DESCRIPTION},
    )


def _check_listed(
    listed: ListedFiles, directory: Path, names: Iterable[str], remedy: str = EXPORT_AGAIN
) -> None:
    for name in names:
        if name not in listed.sums:
            raise CheckpointError(f"{directory / SUMS} does not list {name}; {remedy}")


def word_end_probs_file(word_end_probs: npt.NDArray[np.float32]) -> bytes:
    """Return the content of ``word_end_probs.f16``: shares (V,), from 0 to 1."""
    return word_end_probs.astype("<f2").tobytes()


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
    sums = {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
    contents[SUMS] = sums_file(sums)
    parse_sums(directory, contents[SUMS])  # refuses paths that lead out of it
    with replaced_directory(directory) as fresh:
        for path, content in contents.items():
            (fresh / path).parent.mkdir(parents=True, exist_ok=True)
            (fresh / path).write_bytes(content)
        load_checkpoint(fresh)
        if directory.exists():
            replaced = contents.keys() | parse_sums(directory, (directory / SUMS).read_bytes())
            _copy_others(directory, fresh, replaced)
    return load_checkpoint(directory)


def check_target(directory: Path, name: str, version: str, overwrite: bool) -> None:
    """Refuse early what :func:`write_checkpoint` would refuse.

    Raises:
        CheckpointError: *directory* exists and may not be replaced, or a name is invalid.
    """
    if not all(re.fullmatch(NAME_PATTERN, label) for label in (name, version)):
        raise CheckpointError(f"name, version: {NAME_RULE}")
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
    words: bytes | None = None,
    counts: Mapping[int, CountsFiles] | None = None,
    version: str | None = None,
    output: Path | None = None,
) -> Checkpoint:
    """Replace measured parts and *counts* by index; the network and the tokenizer stay.

    The directory is replaced as by :func:`write_checkpoint`, or stays if *output*, which must not
    exist, gets a copy.

    Raises:
        CheckpointError: it cannot be loaded, or *output* exists.
        OSError: the disk is full or read-only; the checkpoint is untouched.
    """
    old = load_checkpoint(directory)
    files = {path: (directory / path).read_bytes() for path in old.sums.keys() - {CONFIG}}
    if card is not None:
        files[CARD] = card.encode()
    if words is not None:
        files[WORDS] = words
    configs = list(old.config.counts)
    for index, (own, contents) in (counts or {}).items():
        folder = COUNTS[index]
        configs[index : index + 1] = [own]
        files = {path: data for path, data in files.items() if not path.startswith(f"{folder}/")}
        files |= {f"{folder}/{name}": data for name, data in contents.items()}
    config = replace(
        old.config,
        counts=tuple(configs),
        version=version or old.version,
        calibration=calibration or old.calibration,
        scores=old.scores if scores is None else dict(scores),
    )
    return write_checkpoint(output or directory, config, files, overwrite=output is None)


def _copy_others(old: Path, new: Path, replaced: Set[str]) -> None:
    def skip(folder: str, names: list[str]) -> list[str]:
        return [n for n in names if Path(folder, n).relative_to(old).as_posix() in replaced]

    shutil.copytree(old, new, symlinks=True, ignore=skip, dirs_exist_ok=True)
