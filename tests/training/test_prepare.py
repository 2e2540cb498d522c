"""Text files to prepared data."""

import errno
import itertools
import json
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.errors import CorpusError, TokenizerError
from model.tokenizer import Tokenizer
from model.words import read_words, words_in
from tests.fixtures_checkpoint import tiny_tokenizer
from tests.training.made_up_text import HAN, WORDS, chinese, english, write_lines
from training.__main__ import main
from training.data import encode, reading
from training.data.prepare import PrepareOptions, prepare, sample_lines
from training.data.reading import read_text
from training.data.shards import Shard, open_prepared
from training.data.sources import SourceOptions
from training.data.text_report import TextReport
from training.data.train_tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small files of text, one of either language; read them, never change them."""
    directory = tmp_path_factory.mktemp("text")
    write_lines(directory / "en.txt", 600, english)
    write_lines(directory / "zh.txt", 600, chinese)
    return directory


@pytest.fixture(scope="module")
def sources(folder: Path) -> tuple[SourceOptions, SourceOptions]:
    """A source of each file."""
    return (
        SourceOptions("english", str(folder / "en.txt"), weight=2.0),
        SourceOptions("chinese", str(folder / "zh.txt"), consecutive=True),
    )


def small_options(folder: Path) -> PrepareOptions:
    """A small tokenizer, and much held-out text."""
    output = folder / "out"
    return PrepareOptions(output=output, vocabulary_size=400, held_out_share=0.1)


@pytest.fixture
def options(tmp_path: Path) -> PrepareOptions:
    """The same, for one test."""
    return small_options(tmp_path)


def parts(shard: Shard, tokenizer: Tokenizer) -> list[list[str]]:
    """Each line's text, divided at its cuts."""
    lines = []
    for index in range(shard.lines):
        ids = shard.ids[shard.offsets[index] : shard.offsets[index + 1]].tolist()
        edges = [0, *(cut for cut in shard.cuts[index].tolist() if cut >= 0), len(ids)]
        lines.append([tokenizer.decode(ids[a:b]) for a, b in itertools.pairwise(edges)])
    return lines


def texts(shard: Shard, tokenizer: Tokenizer) -> list[str]:
    """Each line's text."""
    return ["".join(each) for each in parts(shard, tokenizer)]


def entry(directory: Path, number: int) -> dict[str, Any]:
    """A source's entry in the manifest."""
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    return dict(manifest["sources"][number])


@pytest.fixture(scope="module")
def data(
    sources: tuple[SourceOptions, SourceOptions], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Both sources, prepared; read it, never change it."""
    return prepare(sources, small_options(tmp_path_factory.mktemp("prepared")))


def test_text_becomes_shards(data: Path, folder: Path) -> None:
    """Each distinct line is in exactly one split, in order, and decodes to itself."""
    found = open_prepared(data)
    assert [(s.name, s.language, s.consecutive, s.weight) for s in found.sources] == [
        ("english", "en", False, 2.0),
        ("chinese", "zh", True, 1.0),
    ]
    assert found.tokenizer.size == 400
    expected = list(dict.fromkeys((folder / "en.txt").read_text().splitlines()))
    train = texts(found.sources[0], found.tokenizer)
    held_out = texts(found.held_out[0], found.tokenizer)
    assert sorted(train + held_out) == sorted(expected)
    assert train == [line for line in expected if line in set(train)]
    kinds = itertools.product(("english", "chinese"), ("train", "heldout"), ("ids", "lines"))
    files = {
        "manifest.json",
        "report.json",
        "tokenizer.model",
        "words",
        *(".".join(kind) for kind in kinds),
    }
    assert {path.name for path in data.iterdir()} == files
    for shard in (*found.sources, *found.held_out):
        assert shard.characters == sum(len(text) for text in texts(shard, found.tokenizer))
        assert 5 <= int(np.min(shard.ids)) <= int(np.max(shard.ids)) < found.tokenizer.size


def test_held_out_text_comes_in_blocks(data: Path, folder: Path) -> None:
    """About the asked share is held out, in whole blocks of neighbouring lines of the input."""
    found = open_prepared(data)
    held_out = set(texts(found.held_out[0], found.tokenizer))
    flags = [line in held_out for line in (folder / "en.txt").read_text().splitlines()]
    size = entry(data, 0)["block_lines"]
    blocks = [flags[start : start + size] for start in range(0, len(flags), size)]
    assert all(all(block) or not any(block) for block in blocks)
    assert sum(any(block) for block in blocks) == round(0.1 * len(blocks))


def test_words_of_training_lines_are_known(
    data: Path, sources: tuple[SourceOptions, ...], options: PrepareOptions
) -> None:
    """A word that occurs often enough is listed; held-out lines do not count."""
    strict = prepare(sources, replace(options, known_from=350))
    for directory, known_from, different in ((data, 3, 12), (strict, 350, 8)):
        found = open_prepared(directory)
        counts = Counter(
            word
            for shard in found.sources
            for line in set(texts(shard, found.tokenizer))
            for word in words_in(line)
        )
        expected = {word for word, count in counts.items() if count >= known_from}
        assert set(read_words(found.words)) == expected
        assert len(expected) == different


@pytest.mark.parametrize(("share", "names"), [(0.0001, ["english", "chinese"]), (0.0, [])])
def test_small_shares_hold_out_one_block(
    sources: tuple[SourceOptions, ...], options: PrepareOptions, share: float, names: list[str]
) -> None:
    """A share above 0 holds out at least one block of every source; 0 holds out nothing."""
    found = open_prepared(prepare(sources, replace(options, held_out_share=share)))
    assert [shard.name for shard in found.held_out] == names


def test_cuts_are_where_the_text_was_divided(data: Path) -> None:
    """About 25 % of lines have cuts, and every part is encoded as it would be alone."""
    found = open_prepared(data)
    for shard in found.sources:
        divided = parts(shard, found.tokenizer)
        assert 0.17 < sum(len(line) > 1 for line in divided) / len(divided) < 0.33
        for index, line in enumerate(divided):
            ids = shard.ids[shard.offsets[index] : shard.offsets[index + 1]].tolist()
            assert ids == [token for part in line for token in found.tokenizer.encode(part)]


def test_half_width_copies_follow_or_replace_a_line(
    data: Path, folder: Path, sources: tuple[SourceOptions, ...], options: PrepareOptions
) -> None:
    """A tenth of Chinese training lines gets a copy, or becomes it if lines are consecutive."""
    original = set((folder / "zh.txt").read_text().splitlines())
    apart = prepare((replace(sources[1], consecutive=False),), options)
    for found, number, copied in (
        (open_prepared(data), 1, False),
        (open_prepared(apart), 0, True),
    ):
        lines = texts(found.sources[number], found.tokenizer)
        changed = [text for text in lines if text not in original]
        assert 0.05 < len(changed) / len(original) < 0.15
        assert all(not set("，？！") & set(text) for text in changed)
        held_out = found.held_out[number]
        assert len(lines) + held_out.lines == len(original) + copied * len(changed)
        assert all(text in original for text in texts(held_out, found.tokenizer))


def test_duplicates_are_dropped_across_sources(
    folder: Path,
    sources: tuple[SourceOptions, ...],
    options: PrepareOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A line that a source had before is dropped and counted, up to a limit of memory."""
    more = write_lines(tmp_path / "more.txt", 100, english, seed=5)
    (tmp_path / "old.txt").write_bytes((folder / "en.txt").read_bytes())
    again = SourceOptions("again", str(tmp_path / "*.txt"))
    options = replace(options, vocabulary_size=300)
    found = open_prepared(prepare((sources[0], again), options))
    first, second = (texts(shard, found.tokenizer) for shard in found.sources)
    held_out = {text for shard in found.held_out for text in texts(shard, found.tokenizer)}
    assert set(second) <= set(more)
    assert not set(first) & set(second)
    assert not held_out & {*first, *second}
    assert entry(options.output, 1)["counts"]["duplicates"] >= 600
    monkeypatch.setattr(reading, "REMEMBERED_LINES", 10)
    prepare((sources[0], again), replace(options, output=tmp_path / "b"))
    assert entry(tmp_path / "b", 1)["counts"]["duplicates"] < 100


def test_limits_take_blocks_spread_over_the_source(
    folder: Path, sources: tuple[SourceOptions, ...], options: PrepareOptions
) -> None:
    """A limit is nearly reached, with lines from all quarters of the file, which is reported."""
    lines = (folder / "en.txt").read_text().splitlines()
    size = (folder / "en.txt").stat().st_size
    limited = replace(sources[0], limit_bytes=size // 3)
    found = open_prepared(prepare((limited,), replace(options, vocabulary_size=300)))
    taken = [t for s in (*found.sources, *found.held_out) for t in texts(s, found.tokenizer)]
    assert 0.85 * size / 3 < sum(len(text) + 1 for text in taken) <= size / 3
    quarters = [4 * lines.index(text) // len(lines) for text in taken]
    assert min(quarters.count(quarter) for quarter in range(4)) > 0.15 * len(taken)
    assert entry(options.output, 0)["files"] == ["en.txt"]


def test_the_tokenizer_sees_both_languages_evenly(
    sources: tuple[SourceOptions, ...], options: PrepareOptions, tmp_path: Path
) -> None:
    """At most half of the sample is English, and none of it is held out."""
    write_lines(tmp_path / "en.txt", 5000, english)
    english_source = replace(sources[0], path=str(tmp_path / "en.txt"))
    text = read_text((english_source, sources[1]), options, tmp_path / "spool")
    sample = sample_lines(text.parts, replace(options, vocabulary_bytes=20_000))
    sizes = [sum(len(s.encode()) for s in sample if (s[0] in HAN) == is_han) for is_han in (0, 1)]
    assert all(8_000 < size < 12_000 for size in sizes)
    train = {line for part in text.parts for split, line in part.split_lines() if split == "train"}
    assert set(sample) <= train
    assert text.report.held_out_lines["en"] > 50


def test_a_given_tokenizer_is_used(
    sources: tuple[SourceOptions, ...], options: PrepareOptions, tmp_path: Path
) -> None:
    """A given tokenizer is copied byte for byte; a missing one is an error with its name."""
    given = tmp_path / "given.model"
    options = replace(options, tokenizer=given)
    with pytest.raises(TokenizerError, match=r"given\.model"):
        prepare(sources, options)
    given.write_bytes(tiny_tokenizer().model_proto)
    found = open_prepared(prepare(sources, options))
    assert (options.output / "tokenizer.model").read_bytes() == given.read_bytes()
    assert texts(found.held_out[0], found.tokenizer)[0].endswith(".")


def test_the_same_seed_gives_the_same_bytes(
    data: Path, sources: tuple[SourceOptions, ...], options: PrepareOptions
) -> None:
    """Every file is the same, an output is never replaced, and another seed gives other data."""
    second = prepare(sources, options)
    for path in data.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()
    with pytest.raises(CorpusError, match="exists; remove it, or name another"):
        prepare(sources, options)
    other = prepare(sources, replace(options, output=second.with_name("other"), seed=2))
    hashes = [open_prepared(each).sha256 for each in (data, second, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_memory_does_not_grow_with_the_input(
    options: PrepareOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four times the text needs nearly the same memory: only the hashes of lines grow."""
    monkeypatch.setattr(encode, "BATCH_LINES", 20)
    (tmp_path / "given.model").write_bytes(train_tokenizer(WORDS * 20, 280).model_proto)
    options = replace(options, tokenizer=tmp_path / "given.model")
    peaks, padding = [], "and the old river walks from the new house " * 20
    for count in (100, 400):
        path = tmp_path / f"{count}.txt"
        path.write_text("".join(f"line {n} {padding}\n" for n in range(count)))
        tracemalloc.start()
        prepare(
            (SourceOptions("big", str(path), "en"),), replace(options, output=tmp_path / str(count))
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 300 * len(padding) / 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_a_failure_leaves_nothing_behind(
    folder: Path,
    options: PrepareOptions,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
) -> None:
    """An interrupt or a full disk ends the command with a message and without an output."""

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(encode.ShardWriter, "write", refuse)
    given = [str(folder / "en.txt"), "--vocabulary-size", "300"]
    status = main(["prepare", *given, "--output", str(options.output)])
    interrupted = isinstance(error, KeyboardInterrupt)
    assert status == (130 if interrupted else 2)
    assert ("interrupted" if interrupted else "No space left") in capsys.readouterr().err
    assert list(options.output.parent.iterdir()) == []


def test_test_lines_are_kept_apart(
    folder: Path, sources: tuple[SourceOptions, ...], options: PrepareOptions
) -> None:
    """A share of blocks is written as plain text; these lines are in no shard."""
    found = open_prepared(prepare(sources, replace(options, test_share=0.2)))
    shards = [*found.sources, *found.held_out]
    prepared = {text for shard in shards for text in texts(shard, found.tokenizer)}
    for language in ("en", "zh"):
        path = options.output / "test" / f"{language}.txt"  # type: ignore[operator]
        lines = path.read_text(encoding="utf-8").splitlines()
        original = set((folder / f"{language}.txt").read_text().splitlines())
        assert 0.15 < len(lines) / len(original) < 0.25
        assert set(lines) <= original - prepared


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"text\.txt: empty"),
        (b"123\n456\n", r"none of 2 lines has a letter to learn from"),
    ],
)
def test_unusable_text_is_refused(
    options: PrepareOptions, tmp_path: Path, content: bytes, message: str
) -> None:
    """Empty and letterless text is a named error, and no output appears."""
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        prepare((SourceOptions("text", str(tmp_path / "text.txt")),), options)
    assert not options.output.exists()


def test_unusable_sources_are_refused(
    sources: tuple[SourceOptions, ...], options: PrepareOptions
) -> None:
    """Missing and repeated sources are errors."""
    for given, message in (
        ((), "no input"),
        ((sources[0], sources[0]), "source name english is used 2 times"),
    ):
        with pytest.raises(CorpusError, match=message):
            prepare(given, options)


def test_a_source_without_new_lines_is_left_out(
    sources: tuple[SourceOptions, ...], options: PrepareOptions
) -> None:
    """The same text under another name is not used, and a warning says so."""
    reports: list[TextReport] = []
    options = replace(options, vocabulary_size=300)
    again = replace(sources[0], name="again")
    found = open_prepared(prepare((sources[0], again), options, reports.append))
    assert [shard.name for shard in found.sources] == ["english"]
    assert "no line is new" in reports[0].warnings[0]
