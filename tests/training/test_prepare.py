"""Text files in, prepared data out."""

import io
import itertools
import json
import lzma
import random
import sys
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.errors import CorpusError, PreparedDataError, TokenizerError
from model.tokenizer import Tokenizer
from training.__main__ import main
from training.data import prepare as module
from training.data.prepare import (
    PrepareOptions,
    SourceOptions,
    load_sources,
    prepare,
    train_tokenizer,
)
from training.data.shards import Shard, open_prepared

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "house",
    "river",
    "walks",
    "sees",
    "likes",
    "near",
    "old",
    "new",
    "green",
    "and",
    "to",
    "we",
]
HAN = "我你他们我们老师学生手机昨天今天喜欢批评旅游了的在去说很好，。？！"


def _english(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(4, 12))).capitalize() + "."


def _chinese(rng: random.Random) -> str:
    return "".join(rng.choices(HAN, k=rng.randint(6, 20))) + "。"


def _corpus(path: Path, count: int, make: Any, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    lines = [make(rng) for _ in range(count)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return lines


@pytest.fixture
def options(tmp_path: Path) -> PrepareOptions:
    """Two small sources, one of either language."""
    _corpus(tmp_path / "en.txt", 600, _english)
    _corpus(tmp_path / "zh.txt", 600, _chinese)
    return PrepareOptions(
        output=tmp_path / "out",
        sources=(
            SourceOptions("english", (str(tmp_path / "en.txt"),), weight=2.0),
            SourceOptions("chinese", (str(tmp_path / "zh.txt"),), consecutive=True),
        ),
        vocabulary_size=400,
        held_out_share=0.1,
        threads=1,
    )


def _parts(shard: Shard, tokenizer: Tokenizer) -> list[list[str]]:
    """Each line's text, divided at its cuts."""
    lines = []
    for index in range(shard.lines):
        ids = shard.ids[shard.offsets[index] : shard.offsets[index + 1]].tolist()
        edges = [0, *(cut for cut in shard.cuts[index].tolist() if cut >= 0), len(ids)]
        lines.append([tokenizer.decode(ids[a:b]) for a, b in itertools.pairwise(edges)])
    return lines


def _texts(shard: Shard, tokenizer: Tokenizer) -> list[str]:
    return ["".join(parts) for parts in _parts(shard, tokenizer)]


def _bytes(directory: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in directory.iterdir() if path.name != "manifest.json"
    }


# ── what comes out ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_text_becomes_shards(options: PrepareOptions, tmp_path: Path) -> None:
    """Every distinct line is in exactly one split, in order, and decodes to itself."""
    data = open_prepared(prepare(options), verify=True)
    assert [(s.name, s.language, s.consecutive, s.weight) for s in data.sources] == [
        ("english", "en", False, 2.0),
        ("chinese", "zh", True, 1.0),
    ]
    assert data.tokenizer.size == 400
    expected = list(dict.fromkeys((tmp_path / "en.txt").read_text().splitlines()))
    train, held_out = (
        _texts(shards[0], data.tokenizer) for shards in (data.sources, data.held_out)
    )
    assert sorted(train + held_out) == sorted(expected)
    assert train == [line for line in expected if line in set(train)]
    assert {path.name for path in options.output.iterdir()} == {
        "manifest.json",
        "tokenizer.model",
        *(
            f"{s}.{split}.{kind}"
            for s in ("english", "chinese")
            for split in ("train", "heldout")
            for kind in ("ids", "lines")
        ),
    }


def test_the_manifest_counts(options: PrepareOptions) -> None:
    """Lines, tokens and characters of the manifest are those of the files."""
    data = open_prepared(prepare(options))
    totals = data.manifest["totals"]
    assert totals["train_lines"] == sum(shard.lines for shard in data.sources)
    assert totals["heldout_tokens"] == sum(len(shard.ids) for shard in data.held_out)
    for shard in data.sources:
        assert shard.characters == sum(len(text) for text in _texts(shard, data.tokenizer))


def test_held_out_text_comes_in_blocks(options: PrepareOptions, tmp_path: Path) -> None:
    """About the asked share is held out, in whole blocks of neighbouring lines of the input."""
    data = open_prepared(prepare(options))
    lines = (tmp_path / "en.txt").read_text().splitlines()
    held_out = set(_texts(data.held_out[0], data.tokenizer))
    flags = [line in held_out for line in lines]
    size = data.manifest["sources"][0]["block_lines"]
    blocks = [flags[start : start + size] for start in range(0, len(flags), size)]
    assert all(all(block) or not any(block) for block in blocks)
    assert sum(any(block) for block in blocks) == round(0.1 * len(blocks))


def test_small_sources_hold_something_out_and_zero_holds_out_nothing(
    options: PrepareOptions, tmp_path: Path
) -> None:
    """A share above 0 holds out at least a block of every source; 0 holds out nothing."""
    data = open_prepared(prepare(replace(options, held_out_share=0.0001)))
    assert [shard.name for shard in data.held_out] == ["english", "chinese"]
    nothing = open_prepared(
        prepare(replace(options, held_out_share=0, output=tmp_path / "nothing"))
    )
    assert nothing.held_out == ()


def test_cuts_are_where_the_text_was_divided(options: PrepareOptions) -> None:
    """About 25 % of lines have cuts, and every part is encoded as it would be alone."""
    data = open_prepared(prepare(options))
    for shard in data.sources:
        parts = _parts(shard, data.tokenizer)
        share = sum(len(line) > 1 for line in parts) / len(parts)
        assert 0.17 < share < 0.33
        for index, line in enumerate(parts):
            ids = shard.ids[shard.offsets[index] : shard.offsets[index + 1]].tolist()
            assert ids == [token for part in line for token in data.tokenizer.encode(part)]
    assert any(
        len(line) == 3 and line[1].endswith(" ") for line in _parts(data.sources[0], data.tokenizer)
    )


def test_half_width_copies_follow_or_replace(options: PrepareOptions, tmp_path: Path) -> None:
    """A tenth of Chinese training lines has a half-width copy after it, or becomes it where lines follow on."""
    data = open_prepared(prepare(options))
    original = set((tmp_path / "zh.txt").read_text().splitlines())
    changed = [text for text in _texts(data.sources[1], data.tokenizer) if text not in original]
    assert 0.05 < len(changed) / len(original) < 0.15
    assert all(not set("，？！") & set(text) for text in changed)
    assert data.sources[1].lines + data.held_out[1].lines == len(original)
    apart = replace(options.sources[1], consecutive=False)
    data = open_prepared(prepare(replace(options, sources=(apart,), output=tmp_path / "apart")))
    copies = [text for text in _texts(data.sources[0], data.tokenizer) if text not in original]
    assert (
        data.sources[0].lines + data.held_out[0].lines
        == len(original) + len(copies)
        > len(original)
    )
    assert all(text in original for text in _texts(data.held_out[0], data.tokenizer))


def test_duplicates_are_dropped_across_sources(options: PrepareOptions, tmp_path: Path) -> None:
    """A line that any source had before is dropped and counted; nothing held out is also trained on."""
    again = SourceOptions("again", (str(tmp_path / "en.txt"), str(tmp_path / "more.txt")))
    more = _corpus(tmp_path / "more.txt", 100, _english, seed=5)
    data = open_prepared(
        prepare(replace(options, sources=(options.sources[0], again), vocabulary_size=300))
    )
    first, second = (_texts(shard, data.tokenizer) for shard in data.sources)
    assert not set(first) & set(second)
    assert set(second) <= set(more)
    assert data.manifest["sources"][1]["counts"]["duplicates"] >= 600
    held_out = {text for shard in data.held_out for text in _texts(shard, data.tokenizer)}
    assert not held_out & {*first, *second}


def test_memory_for_duplicates_is_bounded(
    options: PrepareOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound, lines are no longer remembered, and all of them are kept."""
    monkeypatch.setattr(module, "REMEMBERED_LINES", 10)
    sources = (options.sources[0], replace(options.sources[0], name="again"))
    data = open_prepared(prepare(replace(options, sources=sources, vocabulary_size=300)))
    assert data.manifest["sources"][1]["counts"]["duplicates"] < 100


def test_limits_take_blocks_spread_over_the_source(options: PrepareOptions, tmp_path: Path) -> None:
    """A limit is kept and reached nearly, with lines from all quarters of the file."""
    lines = (tmp_path / "en.txt").read_text().splitlines()
    size = (tmp_path / "en.txt").stat().st_size
    limited = replace(options.sources[0], limit_bytes=size // 3)
    data = open_prepared(prepare(replace(options, sources=(limited,), vocabulary_size=300)))
    texts = [
        text
        for shards in (data.sources, data.held_out)
        for text in _texts(shards[0], data.tokenizer)
    ]
    taken = sum(len(text) + 1 for text in texts)
    assert 0.85 * size / 3 < taken <= size / 3
    places = Counter(4 * lines.index(text) // len(lines) for text in texts)
    assert min(places[quarter] for quarter in range(4)) > 0.15 * len(texts)


def test_the_vocabulary_is_balanced_between_languages(
    options: PrepareOptions, tmp_path: Path
) -> None:
    """However much English there is, no more of its lines are sampled than half."""
    _corpus(tmp_path / "en.txt", 5000, _english)
    sources = module._open_sources(options, None, tmp_path / "stdin")
    with module._Progress("", None) as progress:
        for source in sources:
            module._scan(source, options, progress)
        sample = module._sample(replace(options, vocabulary_lines=400), sources, progress)
    han = sum(line[0] in HAN for line in sample)
    assert (han, len(sample) - han) == (200, 200)


def test_held_out_text_does_not_reach_the_vocabulary(
    options: PrepareOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vocabulary is trained on training lines only."""
    samples: list[list[str]] = []

    def train(lines: list[str], size: int, threads: int) -> Tokenizer:
        samples.append(lines)
        return train_tokenizer(lines, size, threads)

    monkeypatch.setattr(module, "train_vocabulary", train)
    data = open_prepared(prepare(options))
    held_out = {text for shard in data.held_out for text in _texts(shard, data.tokenizer)}
    assert len(held_out) > 50
    assert not held_out & set(samples[0])


def test_an_existing_vocabulary_is_used(options: PrepareOptions, tmp_path: Path) -> None:
    """With --vocabulary none is trained, and the model is copied byte for byte."""
    given = tmp_path / "given.model"
    given.write_bytes(train_tokenizer(["some other text here"] * 20, 272, threads=1).to_bytes())
    data = open_prepared(prepare(replace(options, tokenizer=given)))
    assert (options.output / "tokenizer.model").read_bytes() == given.read_bytes()
    assert _texts(data.held_out[0], data.tokenizer)[0].endswith(".")


# ── determinism, interruption ───────────────────────────────────────────────────────────────────────────────────────


def test_the_same_seed_gives_the_same_bytes(options: PrepareOptions, tmp_path: Path) -> None:
    """Prepared twice, every file is the same; another seed cuts and holds out differently."""
    first = prepare(options)
    second = prepare(replace(options, output=tmp_path / "second"))
    other = prepare(replace(options, output=tmp_path / "other", seed=2))
    assert _bytes(first) == _bytes(second)
    assert (
        open_prepared(first).sha256 == open_prepared(second).sha256 != open_prepared(other).sha256
    )


def test_interruption_keeps_finished_sources(
    options: PrepareOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the second source, the first is not done again, and the result is that of an unbroken run."""
    expected = _bytes(prepare(replace(options, output=tmp_path / "whole")))
    add = module._Cutter.add
    calls = Counter[str]()

    def interrupt(self: Any, split: Any, text: str) -> None:
        calls["zh" if set(text) & set(HAN) else "en"] += 1
        if calls["zh"] == 300:
            raise KeyboardInterrupt
        add(self, split, text)

    monkeypatch.setattr(module._Cutter, "add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(options)
    work = tmp_path / "out.partial"
    assert not options.output.exists()
    assert not list(work.glob("*.partial"))
    assert not list(work.glob("chinese.*"))
    monkeypatch.setattr(module, "train_vocabulary", None)  # the vocabulary is kept as well
    calls.clear()
    calls["zh"] = -10_000
    assert _bytes(prepare(options)) == expected
    assert calls["en"] == 0
    assert not work.exists()


def test_resumption_remembers_the_lines_of_finished_sources(
    options: PrepareOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an interruption, duplicates of what an earlier run finished are still dropped."""
    _corpus(tmp_path / "more.txt", 100, _english, seed=5)
    again = SourceOptions("again", (str(tmp_path / "en.txt"), str(tmp_path / "more.txt")))
    options = replace(options, sources=(options.sources[0], again), vocabulary_size=300)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_finish", lambda *_: None)  # stops just before the end
        prepare(options)
    (tmp_path / "out.partial" / "again.json").unlink()
    data = open_prepared(prepare(options), verify=True)
    first, second = (set(_texts(shard, data.tokenizer)) for shard in data.sources)
    assert second
    assert not first & second


def test_other_options_begin_afresh(
    options: PrepareOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another seed or text had begun is not taken up."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "_finish", lambda *_: None)  # stops just before the end
        prepare(options)
    _corpus(tmp_path / "en.txt", 600, _chinese, seed=3)
    data = open_prepared(prepare(options), verify=True)
    assert data.sources[0].language == "zh"


def test_a_finished_output_is_not_made_again(
    options: PrepareOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command again finds its result; other options refuse to overwrite it."""
    prepare(options)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_scan", None)
        assert prepare(options) == options.output
    with pytest.raises(
        CorpusError,
        match=r"out: exists and is not the result of these inputs; remove it or name another",
    ):
        prepare(replace(options, seed=9))


def test_memory_does_not_grow_with_the_input(
    options: PrepareOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six times the text needs nearly the same memory: only 8-byte hashes grow."""
    monkeypatch.setattr(module, "_BATCH_LINES", 64)
    tokenizer = tmp_path / "given.model"
    tokenizer.write_bytes(
        train_tokenizer([_english(random.Random(i)) for i in range(300)], 300, 1).to_bytes()
    )
    peaks = []
    for count in (300, 1_800):
        with lzma.open(tmp_path / f"{count}.txt.xz", "wt", preset=0) as file:
            for index in range(count):
                file.write(
                    f"line {index} " + "and the old river walks from the new house " * 10 + "\n"
                )
        source = SourceOptions("big", (str(tmp_path / f"{count}.txt.xz"),))
        tracemalloc.start()
        prepare(
            replace(
                options, output=tmp_path / f"out{count}", sources=(source,), tokenizer=tokenizer
            )
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    text_growth = 1_500 * 450
    assert peaks[1] - peaks[0] < text_growth / 2


# ── bad input ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_vocabularies_larger_than_the_text_allows_are_refused(options: PrepareOptions) -> None:
    """The error names the largest possible size, and that size works."""
    with pytest.raises(
        TokenizerError,
        match=r"size 16000 is more than this text allows; the largest possible is \d+",
    ) as caught:
        prepare(replace(options, vocabulary_size=16_000))
    largest = int(str(caught.value).rsplit(" ", 1)[1])
    assert (
        open_prepared(prepare(replace(options, vocabulary_size=largest))).tokenizer.size == largest
    )


def test_vocabularies_without_room_for_characters_are_refused(options: PrepareOptions) -> None:
    """The error names the smallest possible size, and that size works."""
    with pytest.raises(
        TokenizerError, match=r"size 270 has no room for the characters.*\d+ or more"
    ) as caught:
        prepare(replace(options, vocabulary_size=270))
    least = int(str(caught.value).removesuffix(" or more").rsplit(" ", 1)[1])
    assert open_prepared(prepare(replace(options, vocabulary_size=least))).tokenizer.size == least


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"source text: empty \(.*text\.txt\)"),
        (b"\n \n\t\n", r"source text: empty"),
        (b"123\n456\n", r"no line of the input holds a letter"),
        (b"fine\n\xff\xfe\n", r"text\.txt:2: not UTF-8"),
    ],
)
def test_text_that_gives_nothing_is_refused(
    options: PrepareOptions, tmp_path: Path, content: bytes, message: str
) -> None:
    """Empty, letterless and undecodable text is a named error, and no output appears."""
    (tmp_path / "text.txt").write_bytes(content)
    source = SourceOptions("text", (str(tmp_path / "text.txt"),))
    with pytest.raises(CorpusError, match=message):
        prepare(replace(options, sources=(source,)))
    assert not options.output.exists()


def test_a_source_of_duplicates_only_is_refused(options: PrepareOptions) -> None:
    """A source that adds nothing is an error that counts why."""
    again = replace(options.sources[0], name="again")
    with pytest.raises(
        CorpusError,
        match=r"source again: no line of 600 is left for training \(0 without letters, \d+ dup",
    ):
        prepare(replace(options, sources=(options.sources[0], again), vocabulary_size=300))


@pytest.mark.parametrize("damage", [b"", b"nonsense"])
def test_damaged_vocabularies_are_refused(
    options: PrepareOptions, tmp_path: Path, damage: bytes
) -> None:
    """A given vocabulary that cannot be read is an error that names it."""
    (tmp_path / "given.model").write_bytes(damage)
    with pytest.raises(TokenizerError, match=r"given\.model"):
        prepare(replace(options, tokenizer=tmp_path / "given.model"))
    with pytest.raises(TokenizerError, match=r"missing\.model"):
        prepare(replace(options, tokenizer=tmp_path / "missing.model"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out_share": 0.9}, "held-out share 0.9"),
        ({"max_characters": 2}, "max characters 2"),
        ({"sources": ()}, "no input"),
        ({"sources": (SourceOptions("a", ("-",)), SourceOptions("b", ("-",)))}, "- is named twice"),
    ],
)
def test_options_out_of_range_are_refused(
    options: PrepareOptions, changes: dict[str, Any], message: str
) -> None:
    """Options that cannot work are refused before anything is read."""
    with pytest.raises(CorpusError, match=message):
        replace(options, **changes)


@pytest.mark.parametrize("size", [10, 70_000])
def test_vocabulary_sizes_out_of_range_are_refused(options: PrepareOptions, size: int) -> None:
    """Ids must fit in 16 bits, and control and byte tokens in the vocabulary."""
    with pytest.raises(TokenizerError, match=f"size {size}; it must be 262 to 65536"):
        replace(options, vocabulary_size=size)


def test_source_names_must_be_unique(options: PrepareOptions) -> None:
    """Names are file names, so each is used once."""
    with pytest.raises(CorpusError, match="name english is used 2 times"):
        replace(options, sources=(options.sources[0], options.sources[0]))


# ── source lists ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_source_lists_are_read(tmp_path: Path) -> None:
    """Every key of a [[source]] table is taken."""
    path = tmp_path / "sources.toml"
    path.write_text(
        '[[source]]\nname = "a"\npaths = "zh/*.txt"\nlanguage = "zh"\nweight = 3\n'
        "limit_bytes = 1_000\nconsecutive = true\n"
        '[[source]]\nname = "b"\npaths = ["x", "y"]\nfield = "text"\n'
    )
    assert load_sources(path) == (
        SourceOptions("a", ("zh/*.txt",), "zh", 3, 1000, True),
        SourceOptions("b", ("x", "y"), field="text"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[source]]\nname = 'a'\npaths = 'x'\nwieght = 2\n", "source 1: .*wieght"),
        ("[[source]]\npaths = 'x'\n", "source 1: .*name"),
        ("[[source]]\nname = 'a'\n", "source a: no paths"),
        ("[[source]]\nname = '../a'\npaths = 'x'\n", "source name '../a'"),
        ("[[source]]\nname = 'a'\npaths = 'x'\nweight = 0\n", "weight 0; it must be above 0"),
        ("[[source]]\nname = 'a'\npaths = 'x'\nweight = nan\n", "weight nan"),
        ("[[source]]\nname = 'a'\npaths = 'x'\nweight = '3'\n", "weight '3'"),
        (
            "[[source]]\nname = 'a'\npaths = 'x'\nlanguage = 'fr'\n",
            "language 'fr'; choose one of zh, en, auto",
        ),
        ("[[source]]\nname = 'a'\npaths = 'x'\nlimit_bytes = 0\n", "limit_bytes 0"),
        ("[[source]]\nname = 'a'\npaths = 'x'\nconsecutive = 1\n", "consecutive 1"),
        ("[[source]]\nname = 'a'\npaths = [3]\n", "paths"),
        ("[[source]]\nname = 'a'\npaths = 3\n", "paths"),
        ("source = 3\n", "expected"),
        ("", "found: nothing"),
        ("[[source]\n", "not TOML"),
    ],
)
def test_source_lists_that_are_wrong_are_refused(tmp_path: Path, text: str, message: str) -> None:
    """A misspelt key or an impossible value is an error that names file, source and key."""
    path = tmp_path / "sources.toml"
    path.write_text(text)
    with pytest.raises(CorpusError, match=rf"sources\.toml: .*{message}"):
        load_sources(path)


def test_missing_source_lists_are_named(tmp_path: Path) -> None:
    """A source list that is not there is an error that names it."""
    with pytest.raises(CorpusError, match=r"nowhere\.toml: cannot be read"):
        load_sources(tmp_path / "nowhere.toml")


def test_the_bundled_source_list_is_valid() -> None:
    """The list of the bundled checkpoint can be read, names both languages, and no absolute path."""
    sources = load_sources(Path(module.__file__).parent / "sources" / "default.toml")
    assert {source.language for source in sources} == {"zh", "en"}
    assert not any(Path(path).is_absolute() for source in sources for path in source.paths)
    assert not any(
        "heldout" in path or "benchmark" in path for source in sources for path in source.paths
    )


# ── command line ────────────────────────────────────────────────────────────────────────────────────────────────────


def _run(*words: str) -> int:
    return main(["prepare", *words])


def test_the_command_prepares_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each INPUT is a source named after it; the output's path is printed."""
    _corpus(tmp_path / "en.txt", 300, _english)
    (tmp_path / "more").mkdir()
    rows = (json.dumps({"body": _chinese(random.Random(i))}) for i in range(300))
    (tmp_path / "more" / "zh.jsonl").write_text("\n".join(rows))
    code = _run(
        *(str(tmp_path / name) for name in ("en.txt", "more")),
        *(
            "--output",
            str(tmp_path / "out"),
            "--vocabulary-size",
            "350",
            "--field",
            "body",
            "--consecutive",
        ),
    )
    assert (code, capsys.readouterr().out) == (0, f"{tmp_path / 'out'}\n")
    data = open_prepared(tmp_path / "out")
    assert [(s.name, s.language, s.consecutive) for s in data.sources] == [
        ("en", "en", True),
        ("more", "zh", True),
    ]


def test_the_command_cuts_lines_into_sentences(tmp_path: Path) -> None:
    """--sentences makes every sentence a line of the prepared data."""
    rng = random.Random(2)
    lines = [f"{_english(rng)} {_english(rng)}" for _ in range(300)]
    (tmp_path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    arguments = (
        str(tmp_path / "text.txt"),
        "--vocabulary-size",
        "330",
        "--language",
        "en",
        "--sentences",
    )
    assert _run(*arguments, "--output", str(tmp_path / "out")) == 0
    prepared = open_prepared(tmp_path / "out")
    texts = [text for shard in prepared.sources for text in _texts(shard, prepared.tokenizer)]
    assert len(texts) > len(lines)
    assert all(text.count(".") == 1 for text in texts)


def test_the_command_reads_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """- is standard input, JSON Lines with --field; nothing of it is left lying about."""
    rows = "\n".join(json.dumps({"body": _english(random.Random(i))}) for i in range(300))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(rows.encode())))
    assert (
        _run("-", "--field", "body", "--output", str(tmp_path / "out"), "--vocabulary-size", "300")
        == 0
    )
    (shard,) = open_prepared(tmp_path / "out").sources
    assert shard.name == "stdin"
    assert shard.lines > 200
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_the_command_reads_source_lists(tmp_path: Path) -> None:
    """Paths of a source list are relative to --root, or else to the list itself."""
    _corpus(tmp_path / "en.txt", 300, _english)
    (tmp_path / "lists").mkdir()
    listed = tmp_path / "lists" / "sources.toml"
    listed.write_text('[[source]]\nname = "english"\npaths = "en.txt"\nweight = 3.0\n')
    given = ("--sources", str(listed), "--vocabulary-size", "300")
    assert _run(*given, "--root", str(tmp_path), "--output", str(tmp_path / "out")) == 0
    assert [(s.name, s.weight) for s in open_prepared(tmp_path / "out").sources] == [
        ("english", 3.0)
    ]
    assert _run(*given, "--output", str(tmp_path / "other")) == 2
    (tmp_path / "en.txt").rename(tmp_path / "lists" / "en.txt")
    assert _run(*given, "--output", str(tmp_path / "other")) == 0


def test_the_command_reports_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An error is one line on stderr and another exit status."""
    assert _run(str(tmp_path / "nowhere.txt"), "--output", str(tmp_path / "out")) == 2
    message = (
        f"CorpusError: {tmp_path / 'nowhere.txt'}: no such file, folder or match; check the path\n"
    )
    assert capsys.readouterr().err == message
    assert _run("--output", str(tmp_path / "out")) == 2
    assert "no input" in capsys.readouterr().err


def test_the_command_can_be_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interrupted, the command says how to go on, and gives the shell's status for it."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_scan", interrupt)
    _corpus(tmp_path / "en.txt", 10, _english)
    assert _run(str(tmp_path / "en.txt"), "--output", str(tmp_path / "out")) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_a_full_disk_is_a_named_error(
    options: PrepareOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the operating system refuses is a named error that says how to go on."""

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.ShardWriter, "write", refuse)
    with pytest.raises(
        CorpusError, match="No space left on device; what is finished is kept, run it again"
    ):
        prepare(options)
    assert not options.output.exists()


def test_inputs_of_the_same_name_get_their_own(tmp_path: Path) -> None:
    """Two files of one name are two sources."""
    for seed, folder in enumerate(("a", "b")):
        (tmp_path / folder).mkdir()
        _corpus(tmp_path / folder / "my text.txt", 200, _english, seed)
    files = [str(tmp_path / folder / "my text.txt") for folder in ("a", "b")]
    assert _run(*files, "--output", str(tmp_path / "out"), "--vocabulary-size", "300") == 0
    assert [s.name for s in open_prepared(tmp_path / "out").sources] == ["my_text", "my_text-2"]


def test_outputs_that_are_something_else_are_kept(options: PrepareOptions) -> None:
    """A directory that is not ours is never overwritten."""
    options.output.mkdir()
    (options.output / "thesis.txt").write_text("mine")
    with pytest.raises(CorpusError, match="exists and is not the result"):
        prepare(options)
    assert (options.output / "thesis.txt").read_text() == "mine"
    with pytest.raises(PreparedDataError):
        open_prepared(options.output)


def test_ids_stay_below_the_vocabulary(options: PrepareOptions) -> None:
    """Every id is a token of the vocabulary and none a control token."""
    data = open_prepared(prepare(options))
    for shard in (*data.sources, *data.held_out):
        assert int(np.max(shard.ids)) < data.tokenizer.size
        assert int(np.min(shard.ids)) >= 5
