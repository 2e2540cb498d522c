"""Counting in runs, checked against one run and against the formulas written with dictionaries."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from model.tokenizer import START
from tests.training.test_ngram import SIZE, BruteForce, Exact, random_lines, text
from training import counting
from training.counting import Counting, Text, count_grams
from training.data.shards import open_prepared
from training.ngram import NgramOptions, build, estimate, run

# Runs the command with small blocks; the process kills itself when it has written some runs.
KILLED = """
import os, signal, sys
from pathlib import Path
from training import counting, ngram
ngram.BLOCK_TOKENS = 30
def write(path, data, write=counting.write_atomically):
    write(path, data)
    if path.name == "000002.run":
        os.kill(os.getpid(), signal.SIGKILL)
counting.write_atomically = write
ngram.run(ngram.NgramOptions(Path(sys.argv[1]), Path(sys.argv[2]), order=3))
"""


def in_texts(lines: list[list[int]], texts: int) -> list[Text]:
    """Divide lines into texts."""
    return [text(*lines[number::texts]) for number in range(texts)]


@pytest.mark.parametrize("order", [2, 3, 5])
@pytest.mark.parametrize("jobs", [1, 3])
def test_one_run_and_many_give_the_same_counts(
    order: int, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the number of runs, nor that of parts or jobs, changes an array."""
    lines = random_lines(3, 400, 40)
    whole = count_grams(in_texts(lines, 1), 40, order)
    assert sum(whole[-1].occurrences) == sum(max(0, len(line) + 2 - order) for line in lines)
    monkeypatch.setattr(counting, "PART_WINDOWS", 64)
    merged = []
    merge_part = counting._merge_part
    monkeypatch.setattr(counting, "_merge_part", lambda *a: merged.append(a) or merge_part(*a))
    for found, wanted in zip(
        count_grams(in_texts(lines, 7), 40, order, Counting(jobs=jobs)), whole, strict=True
    ):
        for field in fields(wanted):
            np.testing.assert_array_equal(getattr(found, field.name), getattr(wanted, field.name))
    assert len(merged) > 4


@pytest.mark.parametrize("max_ngrams", [400, 250])
def test_left_out_ngrams_are_pruned_ones(max_ngrams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest has the probabilities of a model from which rare long n-grams were removed."""
    lines = random_lines(9, 160)
    monkeypatch.setattr(counting, "PART_WINDOWS", 64)
    unigram, levels, discounts, left_out = estimate(
        in_texts(lines, 3), np.arange(SIZE) >= 5, 4, counting=Counting(max_ngrams=max_ngrams)
    )
    found = Exact(unigram, levels)
    kept = {gram for order in found.orders for gram in order}
    reference = BruteForce(lines, 4)
    seen = {gram: n for k in (2, 3, 4) for gram, n in reference.seen[k].items()}
    assert len(kept) == len(seen) - left_out <= max_ngrams
    cut_off = min(n for gram, n in seen.items() if gram in kept and len(gram) > 2)
    assert kept == {gram for gram, n in seen.items() if len(gram) == 2 or n >= cut_off}
    assert len(seen) - len(kept) > 50
    reference = BruteForce(lines, 4, kept=kept)
    for own, wanted in zip(discounts, (2, 3, 4), strict=True):
        assert [own[name] for name in ("D1", "D2", "D3+")] == reference.discount[wanted]
    for line in lines[:20]:
        context = (START, *line)[-3:]
        wanted_row = [reference.probability(word, context) for word in range(5, SIZE)]
        np.testing.assert_allclose(found.row(context)[5:], wanted_row, rtol=2e-5)


def test_a_killed_command_continues(
    tiny_prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runs that are complete are not counted again, and the checkpoint is the same."""
    options = NgramOptions(tiny_prepared, tmp_path / "killed", order=3)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(options.prepared), str(options.output)], check=False
    )
    assert ended.returncode == -9
    assert sorted(path.name for path in (tmp_path / ".killed.runs").glob("*.run")) == [
        f"00000{number}.run" for number in range(3)
    ]
    written: list[str] = []

    def write(path: Path, data: bytes, write=counting.write_atomically) -> None:  # type: ignore[no-untyped-def]
        written.append(path.name)
        write(path, data)

    monkeypatch.setattr(counting, "write_atomically", write)
    monkeypatch.setattr("training.ngram.BLOCK_TOKENS", 30)
    killed = build(options)
    assert written[0] == "000003.run"
    monkeypatch.undo()
    whole = build(NgramOptions(tiny_prepared, tmp_path / "whole", order=3, jobs=2))
    for name in ("1.ngrams", "2.ngrams", "3.ngrams"):
        assert killed.sums[f"counts/{name}"] == whole.sums[f"counts/{name}"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]


def test_the_cut_is_reported(
    tiny_prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The number of n-grams left out is printed and is in the checkpoint."""
    run(NgramOptions(tiny_prepared, tmp_path / "cut", order=3, max_ngrams=250))
    printed, *_ = capsys.readouterr().out.split()
    checkpoint = build(NgramOptions(tiny_prepared, tmp_path / "again", order=3, max_ngrams=250))
    assert 0 < checkpoint.training["left_out"] == int(printed.replace(",", ""))


def test_blocks_are_the_shard(tiny_prepared: Path) -> None:
    """Blocks have whole lines, all of them, and about as many tokens as asked for."""
    shard = open_prepared(tiny_prepared).sources[0]
    blocks = list(shard.blocks(40))
    assert len(blocks) > 1
    np.testing.assert_array_equal(np.concatenate([each.ids for each in blocks]), shard.ids)
    np.testing.assert_array_equal(np.concatenate([each.table for each in blocks]), shard.table)
    assert all(len(each.ids) == each.offsets[-1] <= 40 for each in blocks)
