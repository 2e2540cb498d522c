"""``python -m training prepare``: text files in, a prepared data directory out. Not the reading itself (``corpus.py``).

    1  scan      bytes, lines and blocks of each source; the language where it is ``auto``; bad input is found here
    2  plan      which blocks are taken (``limit_bytes``, spread over the source) and which of them are held out
    3  sample    lines for the vocabulary, as many Chinese as others, sources by weight; then SentencePiece
    4  encode    clean, drop duplicates, cut, encode, write; source by source

Everything is written to ``OUTPUT.partial``, renamed when complete; begun again with the same inputs and options,
finished sources are kept. Memory: the vocabulary's sample (``vocabulary_lines``), 8-byte hashes of lines (some 60 bytes
each as a set, at most ``REMEMBERED_LINES``), and a batch of lines; no input is ever held whole.
"""

import argparse
import hashlib
import heapq
import io
import itertools
import json
import random
import re
import shutil
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from tqdm import tqdm

from model.errors import CorpusError, LacunaError, TokenizerError
from model.text import language_of
from model.tokenizer import CONTROL_TOKENS, SPACE_MARK, Tokenizer
from training.data.shards import (
    FORMAT_VERSION,
    NO_CUT,
    SPLITS,
    ShardWriter,
    Split,
    manifest_digest,
    open_prepared,
)
from training.data.text_sources import (
    STDIN,
    choose_cuts,
    clean,
    expand_inputs,
    half_width,
    read_lines,
    sentences,
    spool_stdin,
)

# Held-out text and samples are taken by blocks of neighbouring lines, fewer where a source is small.
BLOCK_LINES = 50
# Duplicates of lines first seen after this many distinct ones are no longer noticed: some 1.2 GB.
REMEMBERED_LINES = 20_000_000
CUT_SHARE = 0.25
HALF_WIDTH_SHARE = 0.10
LANGUAGES = ("zh", "en", "auto")
# Room in the ids' uint16.
MAX_VOCABULARY_SIZE = 65_536

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BATCH_LINES = 4096
_DETECTION_LINES = 1000


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """One source of text: files that share a weight and a treatment.

    Attributes:
        name: letters, digits, ``. _ -``; unique; names the files.
        paths: files, folders, globs, or ``-`` for standard input.
        language: ``zh``, ``en``, or ``auto``: told from the first lines.
        weight: passes over the source in an epoch, relative to the others; above 0.
        limit_bytes: read about this much, in blocks spread over the source; None for all.
        consecutive: neighbouring lines follow on from each other.
        field: the member of JSON Lines that holds the text.
    """

    name: str
    paths: tuple[str, ...]
    language: str = "auto"
    weight: float = 1.0
    limit_bytes: int | None = None
    consecutive: bool = False
    field: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise CorpusError(
                f"source name {self.name!r}: use 1 to 64 letters, digits and . _ - only"
            )
        if not self.paths or not all(isinstance(path, str) for path in self.paths):
            raise CorpusError(
                f"source {self.name}: no paths; name a file, folder or glob, or a list of them"
            )
        if self.language not in LANGUAGES:
            raise CorpusError(
                f"source {self.name}: language {self.language!r}; choose one of {', '.join(LANGUAGES)}"
            )
        if not _is_number(self.weight) or not 0 < self.weight < 1000:
            raise CorpusError(
                f"source {self.name}: weight {self.weight!r}; it must be above 0 and below 1000"
            )
        if self.limit_bytes is not None and (
            not isinstance(self.limit_bytes, int) or self.limit_bytes < 1
        ):
            raise CorpusError(
                f"source {self.name}: limit_bytes {self.limit_bytes!r}; it must be a number above 0"
            )
        if not isinstance(self.consecutive, bool):
            raise CorpusError(
                f"source {self.name}: consecutive {self.consecutive!r}; it must be true or false"
            )


@dataclass(frozen=True, slots=True)
class PrepareOptions:
    """What to prepare and how.

    Attributes:
        output: directory to make; must not exist, unless it is the finished result of the same options.
        sources: the text.
        vocabulary_size: tokens, 5 control and 256 byte tokens included.
        tokenizer: an existing model to use instead of training one.
        held_out_share: share of each source's blocks that is held out, from 0 to 0.5; at least one block unless 0.
        seed: of every random choice.
        max_characters: longer lines are split.
        sentences: lines are cut into sentences, each a line of its own.
        vocabulary_lines: lines that the vocabulary is trained on, at most.
        threads: of SentencePiece training; another number may give another vocabulary.
    """

    output: Path
    sources: tuple[SourceOptions, ...]
    vocabulary_size: int = 16_000
    tokenizer: Path | None = None
    held_out_share: float = 0.005
    seed: int = 1
    max_characters: int = 500
    sentences: bool = False
    vocabulary_lines: int = 400_000
    threads: int = 2

    def __post_init__(self) -> None:
        if not self.sources:
            raise CorpusError(
                "no input; name files, folders or globs, - for standard input, or --sources FILE.toml"
            )
        names = Counter(source.name for source in self.sources)
        if repeated := [name for name, times in names.items() if times > 1]:
            raise CorpusError(
                f"source name {repeated[0]} is used {names[repeated[0]]} times; names must be unique"
            )
        if sum(source.paths.count(STDIN) for source in self.sources) > 1:
            raise CorpusError(f"{STDIN} is named twice; standard input can be read only once")
        if not 0 <= self.held_out_share <= 0.5:
            raise CorpusError(f"held-out share {self.held_out_share}; it must be from 0 to 0.5")
        if self.max_characters < 16:
            raise CorpusError(f"max characters {self.max_characters}; it must be at least 16")
        least = len(CONTROL_TOKENS) + 257
        if not least <= self.vocabulary_size <= MAX_VOCABULARY_SIZE:
            raise TokenizerError(
                f"vocabulary size {self.vocabulary_size}; it must be {least} to {MAX_VOCABULARY_SIZE}"
            )


@dataclass(slots=True)
class _Source:
    """A source as scanned and planned."""

    options: SourceOptions
    files: list[tuple[Path, str]]  # where to read, what to call it
    size: int = 0
    lines: int = 0
    blocks: int = 0
    language: str = ""
    block_lines: int = BLOCK_LINES
    share: float = 1.0
    held_out: frozenset[int] = frozenset()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``python -m training prepare``."""
    parser.add_argument(
        "inputs", nargs="*", metavar="INPUT", help="file, folder, glob, or - for standard input"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="directory to make"
    )
    parser.add_argument(
        "--sources", type=Path, metavar="FILE.toml", help="sources with weights and limits"
    )
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="what paths in --sources are relative to"
    )
    parser.add_argument("--field", metavar="NAME", help="member of JSON Lines that holds the text")
    parser.add_argument(
        "--language", choices=LANGUAGES, default="auto", help="of the INPUTs (default: auto)"
    )
    parser.add_argument(
        "--consecutive", action="store_true", help="lines of the INPUTs follow on from each other"
    )
    parser.add_argument(
        "--vocabulary-size", type=int, default=16_000, metavar="N", help="tokens (default: 16000)"
    )
    parser.add_argument(
        "--tokenizer", type=Path, metavar="FILE", help="use this tokenizer.model, train none"
    )
    parser.add_argument(
        "--held-out-share", type=float, default=0.005, metavar="SHARE", help="default: 0.005"
    )
    parser.add_argument(
        "--max-characters", type=int, default=500, metavar="N", help="longest line (default: 500)"
    )
    parser.add_argument(
        "--sentences", action="store_true", help="cut lines into sentences, each a line of its own"
    )
    parser.add_argument("--seed", type=int, default=1, help="of every random choice (default: 1)")


def run(arguments: argparse.Namespace) -> int:
    """Prepare as the command line says; returns 0, or 130 where interrupted. Raises what :func:`prepare` raises."""
    try:
        sources = named_sources(
            arguments.inputs, arguments.field, arguments.language, arguments.consecutive
        )
        if arguments.sources is not None:
            sources += load_sources(arguments.sources)
        directory = prepare(
            PrepareOptions(
                output=arguments.output,
                sources=sources,
                vocabulary_size=arguments.vocabulary_size,
                tokenizer=arguments.tokenizer,
                held_out_share=arguments.held_out_share,
                seed=arguments.seed,
                max_characters=arguments.max_characters,
                sentences=arguments.sentences,
            ),
            root=arguments.root
            if arguments.root is not None or arguments.sources is None
            else arguments.sources.parent,
        )
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on with the next source\n")
        return 130
    sys.stdout.write(f"{directory}\n")
    return 0


def load_sources(path: Path) -> tuple[SourceOptions, ...]:
    """Read ``[[source]]`` tables; their keys are the fields of :class:`SourceOptions`.

    Raises:
        CorpusError: unreadable, not TOML, an unknown key or a value out of range.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: not TOML: {error}") from error
    if set(tables) != {"source"} or not isinstance(tables["source"], list):
        raise CorpusError(
            f"{path}: expected [[source]] tables and nothing else, found: {', '.join(tables) or 'nothing'}"
        )
    sources = []
    for index, table in enumerate(tables["source"], start=1):
        paths = table.get("paths")
        table["paths"] = tuple(paths) if isinstance(paths, list) else (paths,)
        try:
            sources.append(SourceOptions(**table))
        except TypeError as error:
            raise CorpusError(
                f"{path}: source {index}: {str(error).split('__init__() ')[-1]}"
            ) from error
        except CorpusError as error:
            raise CorpusError(f"{path}: {error}") from error
    return tuple(sources)


def prepare(options: PrepareOptions, root: Path | None = None) -> Path:
    """Make a prepared data directory.

    Args:
        options: what and how.
        root: what relative paths of the sources are relative to; None for the current directory.

    Returns:
        ``options.output``, complete.

    Raises:
        CorpusError: bad input, with file, line number and remedy; or the output exists and is something else.
        TokenizerError: no vocabulary of this size can be made from this text, or the given one cannot be read.
    """
    started = time.monotonic()
    work = options.output.with_name(options.output.name + ".partial")
    standard_input = work.with_name(work.name + ".stdin")
    try:
        return _prepare(options, root, work, standard_input, started)
    except OSError as error:
        raise CorpusError(
            f"{error.filename or work}: {error.strerror}; what is finished is kept, run it again"
        ) from error
    finally:
        standard_input.unlink(missing_ok=True)


def _prepare(
    options: PrepareOptions, root: Path | None, work: Path, standard_input: Path, started: float
) -> Path:
    sources = _open_sources(options, root, standard_input)
    fingerprint = _fingerprint(options, sources)
    if options.output.exists():
        if _finished_fingerprint(options.output) == fingerprint:
            return options.output
        raise CorpusError(
            f"{options.output}: exists and is not the result of these inputs; remove it or name another"
        )
    _begin(work, fingerprint)
    with _Progress("scan", None) as progress:
        for source in sources:
            _scan(source, options, progress)
    taken = sum(source.size * source.share for source in sources)
    tokenizer = _tokenizer(options, sources, work, taken)
    seen: set[int] = set()
    with _Progress("encode", taken) as progress:
        entries = [
            _encode_once(source, options, tokenizer, seen, work, progress) for source in sources
        ]
    _finish(options, work, tokenizer, entries, fingerprint, time.monotonic() - started)
    return options.output


def train_tokenizer(lines: Iterable[str], size: int, threads: int = 2) -> Tokenizer:
    """Train a SentencePiece unigram vocabulary.

    Args:
        lines: clean text; U+2581 is read as a space.
        size: tokens, control and byte tokens included.
        threads: of the training.

    Raises:
        TokenizerError: the text allows no vocabulary of this size (with the nearest size that it does allow).
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line.replace(SPACE_MARK, " ") for line in lines),
            model_writer=model,
            model_type="unigram",
            vocab_size=size,
            character_coverage=0.9995,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            treat_whitespace_as_suffix=True,
            split_digits=True,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            control_symbols=",".join(CONTROL_TOKENS[3:]),
            max_sentence_length=1 << 16,
            num_threads=threads,
            minloglevel=2,
        )
    except RuntimeError as error:
        message = str(error)
        if largest := re.search(r"set it to a value <= (\d+)", message):
            raise TokenizerError(
                f"vocabulary size {size} is more than this text allows; the largest possible is {largest[1]}:"
                f" add text or use --vocabulary-size {largest[1]}"
            ) from error
        if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
            raise TokenizerError(
                f"vocabulary size {size} has no room for the characters of this text;"
                f" use --vocabulary-size {least[1]} or more"
            ) from error
        raise TokenizerError(
            f"vocabulary training failed: {message.splitlines()[0]}; add text"
        ) from error
    return Tokenizer.from_bytes(model.getvalue())


# ── 0. sources and resumption ────────────────────────────────────────────────────────────────────────────────────────


def named_sources(
    inputs: Sequence[str], field: str | None, language: str, consecutive: bool
) -> tuple[SourceOptions, ...]:
    """One source for each INPUT, named after its file."""
    sources: list[SourceOptions] = []
    names: Counter[str] = Counter()
    for entry in inputs:
        stem = "stdin" if entry == STDIN else Path(entry).name.split(".")[0]
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-")[:50] or "text"
        names[name] += 1
        if names[name] > 1:
            name = f"{name}-{names[name]}"
        path = entry if entry == STDIN else str(Path(entry).absolute())
        sources.append(
            SourceOptions(name, (path,), language=language, consecutive=consecutive, field=field)
        )
    return tuple(sources)


def _open_sources(
    options: PrepareOptions, root: Path | None, standard_input: Path
) -> list[_Source]:
    """Find every source's files; copy standard input, which is read three times, to a file."""
    sources = []
    for source in options.sources:
        files: list[tuple[Path, str]] = []
        for entry in source.paths:
            if entry != STDIN:
                files.extend((path, str(path)) for path in expand_inputs([entry], root))
                continue
            standard_input.parent.mkdir(parents=True, exist_ok=True)
            spool_stdin(standard_input)
            files.append((standard_input, "stdin.jsonl" if source.field else "stdin"))
        sources.append(_Source(source, files))
    return sources


def _fingerprint(options: PrepareOptions, sources: list[_Source]) -> str:
    """What must be the same for a begun or finished directory to be taken up again."""
    files = []
    for source in sources:
        for path, name in source.files:
            if name.startswith("stdin"):
                with path.open("rb") as file:
                    files.append([name, hashlib.file_digest(file, "sha256").hexdigest()])
            else:
                status = path.stat()
                files.append([name, f"{status.st_size} {status.st_mtime_ns}"])
    given = (
        options.tokenizer.read_bytes() if options.tokenizer and options.tokenizer.is_file() else b""
    )
    settings = {**asdict(options), "output": "", "tokenizer": hashlib.sha256(given).hexdigest()}
    return hashlib.sha256(json.dumps([FORMAT_VERSION, settings, files]).encode()).hexdigest()


def _finished_fingerprint(output: Path) -> str | None:
    try:
        return str(open_prepared(output).manifest["fingerprint"])
    except (LacunaError, KeyError):
        return None


def _begin(work: Path, fingerprint: str) -> None:
    marker = work / "fingerprint"
    if work.exists() and not (marker.exists() and marker.read_text() == fingerprint):
        shutil.rmtree(work)  # begun from other text or options: nothing in it can be used
    work.mkdir(parents=True, exist_ok=True)
    _write(marker, fingerprint.encode())


# ── 1. scan and plan ─────────────────────────────────────────────────────────────────────────────────────────────────


def _scan(source: _Source, options: PrepareOptions, progress: "_Progress") -> None:
    counts: list[int] = []
    sample: list[str] = []
    for path, name in source.files:
        lines = 0
        for number, text, size in read_lines(path, source.options.field, name):
            lines = number
            source.size += size
            progress.add(size)
            if len(sample) < _DETECTION_LINES and text.strip():
                sample.append(text[:200])
        counts.append(lines)
    if not sample:
        names = ", ".join(name for _, name in source.files[:3])
        raise CorpusError(f"source {source.options.name}: empty ({names}); every source needs text")
    source.lines = sum(counts)
    # Small sources get smaller blocks, so that they too have something to hold out.
    source.block_lines = min(BLOCK_LINES, max(1, source.lines // 20))
    source.blocks = sum(-(-lines // source.block_lines) for lines in counts)
    source.language = source.options.language
    if source.language == "auto":
        source.language = language_of("\n".join(sample))
    if source.options.limit_bytes is not None:
        source.share = min(1.0, source.options.limit_bytes / source.size)
    taken = [block for block in range(source.blocks) if _is_taken(block, source.share)]
    if options.held_out_share > 0 and len(taken) > 1:
        held = max(1, round(options.held_out_share * len(taken)))
        key = f"{options.seed}:{source.options.name}"
        source.held_out = frozenset(
            heapq.nsmallest(held, taken, key=lambda block: _hash(f"{key}:{block}"))
        )


def _is_taken(block: int, share: float) -> bool:
    """Evenly spread: of any n neighbouring blocks, ``share * n`` are taken, give or take one."""
    return int((block + 1) * share) > int(block * share)


def _taken_lines(source: _Source) -> Iterator[tuple[Split, str, int]]:
    """Every raw line of the blocks that are taken, with its split and size in bytes."""
    first_block = 0
    left = source.options.limit_bytes if source.options.limit_bytes is not None else source.size
    for path, name in source.files:
        number = 0
        for number, text, size in read_lines(path, source.options.field, name):
            block = first_block + (number - 1) // source.block_lines
            if not _is_taken(block, source.share):
                continue
            left -= size
            if left < 0:
                return
            yield ("heldout" if block in source.held_out else "train"), text, size
        first_block += -(-number // source.block_lines)


# ── 2. vocabulary ────────────────────────────────────────────────────────────────────────────────────────────────────


def _tokenizer(
    options: PrepareOptions, sources: list[_Source], work: Path, taken: float
) -> Tokenizer:
    path = work / "tokenizer.model"
    if path.exists():
        return Tokenizer.load(path)
    if options.tokenizer is not None:
        tokenizer = Tokenizer.load(options.tokenizer)
        if tokenizer.size > MAX_VOCABULARY_SIZE:
            raise TokenizerError(
                f"{options.tokenizer}: {tokenizer.size} tokens; at most {MAX_VOCABULARY_SIZE} fit"
            )
    else:
        with _Progress("sample", taken) as progress:
            lines = _sample(options, sources, progress)
        if not lines:
            raise CorpusError("no line of the input holds a letter; nothing can be learned from it")
        tokenizer = train_tokenizer(lines, options.vocabulary_size, options.threads)
    _write(path, tokenizer.to_bytes())
    return tokenizer


def _sample(options: PrepareOptions, sources: list[_Source], progress: "_Progress") -> list[str]:
    """Training lines, at most half of them Chinese and half not, a source's chance in proportion to its weight.

    Weighted reservoir sampling with a heap of u^(1/w): Efraimidis & Spirakis 2006.
    """
    rng = random.Random(f"{options.seed}:vocabulary")
    room = max(1, options.vocabulary_lines // 2)
    reservoirs: dict[bool, list[tuple[float, str]]] = {True: [], False: []}
    for source in sources:
        exponent = 1 / source.options.weight
        reservoir = reservoirs[source.language == "zh"]
        for split, text, size in _taken_lines(source):
            progress.add(size)
            key = rng.random() ** exponent
            if split == "heldout" or (len(reservoir) == room and key <= reservoir[0][0]):
                continue
            parts = _lines_of(text, options, Counter())
            if not parts:
                continue
            item = (key, parts[rng.randrange(len(parts))])
            if len(reservoir) < room:
                heapq.heappush(reservoir, item)
            else:
                heapq.heapreplace(reservoir, item)
    # In order of text: SentencePiece then sees the same whatever the heaps' order.
    return sorted(line for reservoir in reservoirs.values() for _, line in reservoir)


# ── 3. encode ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _encode_once(
    source: _Source,
    options: PrepareOptions,
    tokenizer: Tokenizer,
    seen: set[int],
    work: Path,
    progress: "_Progress",
) -> dict[str, Any]:
    """Encode a source, unless an earlier run finished it; returns its entry in the manifest."""
    name = source.options.name
    done, hashes = work / f"{name}.json", work / f"{name}.seen"
    if done.exists():
        seen.update(np.fromfile(hashes, dtype="<u8").tolist())
        progress.add(round(source.size * source.share))
        finished: dict[str, Any] = json.loads(done.read_bytes())
        return finished
    new: list[int] = []
    counts: Counter[str] = Counter()
    with ShardWriter(work, name, "train") as train, ShardWriter(work, name, "heldout") as held_out:
        writers: dict[Split, ShardWriter] = {"train": train, "heldout": held_out}
        cutter = _Cutter(tokenizer, random.Random(f"{options.seed}:{name}"))
        for split, line in _clean_lines(source, options, seen, new, counts, progress):
            copies = cutter.variants(
                line, copy=split == "train", consecutive=source.options.consecutive
            )
            counts["half_width"] += copies != [line]
            for text in copies:
                cutter.add(split, text)
            if cutter.full:
                cutter.flush(writers)
        cutter.flush(writers)
        if not train.lines:
            raise CorpusError(
                f"source {name}: no line of {source.lines} is left for training"
                f" ({counts['without_letters']} without letters, {counts['duplicates']} duplicates); remove the source"
            )
        split_entries = {split: {"shards": [writers[split].close()]} for split in SPLITS}
    entry = {
        "name": name,
        "language": source.language,
        "consecutive": source.options.consecutive,
        "weight": source.options.weight,
        "files": [Path(shown).name for _, shown in source.files],
        "bytes": source.size,
        "block_lines": source.block_lines,
        "counts": dict(counts),
        "split": split_entries,
    }
    _write(hashes, np.array(new, dtype="<u8").tobytes())
    _write(done, json.dumps(entry, ensure_ascii=False).encode())
    return entry


def _clean_lines(
    source: _Source,
    options: PrepareOptions,
    seen: set[int],
    new: list[int],
    counts: Counter[str],
    progress: "_Progress",
) -> Iterator[tuple[Split, str]]:
    """Clean lines that no source has had yet."""
    for split, text, size in _taken_lines(source):
        progress.add(size)
        counts["lines"] += 1
        for line in _lines_of(text, options, counts):
            key = _hash(line)
            if key in seen:
                counts["duplicates"] += 1
                continue
            if len(seen) < REMEMBERED_LINES:
                seen.add(key)
                new.append(key)
            yield split, line


def _lines_of(text: str, options: PrepareOptions, counts: Counter[str]) -> list[str]:
    lines = clean(text, options.max_characters, counts)
    return (
        [sentence for line in lines for sentence in sentences(line)] if options.sentences else lines
    )


class _Cutter:
    """Cuts some lines and encodes them in batches, the parts of a cut line apart."""

    def __init__(self, tokenizer: Tokenizer, rng: random.Random) -> None:
        self._tokenizer = tokenizer
        self._surfaces = frozenset(surface for surface in tokenizer.surfaces if surface)
        self._rng = rng
        self._lines: list[tuple[Split, int]] = []  # split and number of parts
        self._parts: list[str] = []

    @property
    def full(self) -> bool:
        return len(self._lines) >= _BATCH_LINES

    def variants(self, line: str, *, copy: bool, consecutive: bool) -> list[str]:
        """The line, and for 10 % of Chinese ones a half-width copy; it replaces the line where lines follow on."""
        if not copy or self._rng.random() >= HALF_WIDTH_SHARE:
            return [line]
        changed = half_width(line, self._rng)
        if changed is None:
            return [line]
        return [changed] if consecutive else [line, changed]

    def add(self, split: Split, text: str) -> None:
        cuts = (
            choose_cuts(text, self._surfaces, self._rng) if self._rng.random() < CUT_SHARE else ()
        )
        edges = [0, *cuts, len(text)]
        self._lines.append((split, len(edges) - 1))
        self._parts.extend(text[start:end] for start, end in itertools.pairwise(edges))

    def flush(self, writers: dict[Split, ShardWriter]) -> None:
        encoded = iter(self._tokenizer.encode_many(self._parts))
        characters: Counter[Split] = Counter()
        batch: dict[Split, list[tuple[list[int], tuple[int, int]]]] = {
            split: [] for split in SPLITS
        }
        texts = iter(self._parts)
        for split, parts in self._lines:
            tokens: list[int] = []
            cuts = [NO_CUT, NO_CUT]
            for part in range(parts):
                if part:
                    cuts[part - 1] = len(tokens)
                tokens.extend(next(encoded))
                characters[split] += len(next(texts))
            batch[split].append((tokens, (cuts[0], cuts[1])))
        for split in SPLITS:
            writers[split].write(batch[split], characters[split])
        self._lines.clear()
        self._parts.clear()


# ── 4. finish ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _finish(
    options: PrepareOptions,
    work: Path,
    tokenizer: Tokenizer,
    entries: list[dict[str, Any]],
    fingerprint: str,
    seconds: float,
) -> None:
    total: Counter[str] = Counter()
    for entry in entries:
        for split in SPLITS:
            for shard in entry["split"][split]["shards"]:
                for key in ("tokens", "lines", "characters"):
                    total[f"{split}_{key}"] += shard[key]
    manifest: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "tokenizer_sha256": tokenizer.digest,
        "vocabulary_size": tokenizer.size,
        "sources": entries,
        "totals": dict(total),
        "options": {
            "held_out_share": options.held_out_share,
            "seed": options.seed,
            "max_characters": options.max_characters,
            "sentences": options.sentences,
            "vocabulary_lines": options.vocabulary_lines,
            "cut_share": CUT_SHARE,
            "half_width_share": HALF_WIDTH_SHARE,
        },
        "fingerprint": fingerprint,
        "seconds": round(seconds, 1),
    }
    manifest["sha256"] = manifest_digest(manifest)
    _write(work / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False).encode())
    for entry in entries:
        for suffix in ("json", "seen"):
            (work / f"{entry['name']}.{suffix}").unlink()
    (work / "fingerprint").unlink()
    work.rename(options.output)


class _Progress:
    """A progress bar in bytes on stderr, for people only: nothing where stderr is not a terminal."""

    def __init__(self, title: str, total: float | None) -> None:
        self._bar: tqdm[Any] = tqdm(
            total=total, desc=title, unit="B", unit_scale=True, disable=None, leave=True
        )
        self._waiting = 0

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.update(self._waiting)
        self._bar.close()

    def add(self, size: int) -> None:
        self._waiting += size
        if self._waiting > 1 << 20:  # the bar is slower than the reading
            self._bar.update(self._waiting)
            self._waiting = 0


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _write(path: Path, data: bytes) -> None:
    """Write all or nothing."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)
