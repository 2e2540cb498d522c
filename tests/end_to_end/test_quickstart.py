"""A newcomer's whole road, cut to twenty seconds of training: text, prepare, train, export, serve, ask."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from research.toy_corpus import Grammar, different_sentences, write_corpus


def test_twenty_seconds_are_enough_to_learn_what_follows(tmp_path: Path) -> None:
    """After 20 CPU seconds of training the service knows what comes by the cup and what one does in a bookshop."""
    command = [
        sys.executable,
        "-m",
        "research.quickstart",
        "--seconds",
        "20",
        "--directory",
        str(tmp_path / "newcomer"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    answers = [
        json.loads(line)["results"][0]
        for line in result.stdout.splitlines()
        if line.startswith("{")
    ]
    cup, london, bookshop, hospital = answers
    assert cup["candidates"][0]["word"] in {"tea", "coffee", "cocoa"}
    assert london["candidates"][0] == {
        "word": "train",
        "append": "ain",
        "probability": pytest.approx(1, abs=0.2),
    }
    # Among them and not the first: how many steps fit into 20 seconds is the machine's affair, and a few less say 订.
    assert "买" in {candidate["word"] for candidate in bookshop["blanks"][0]["candidates"]}
    assert len(hospital["blanks"][0]["candidates"]) == 3


def test_the_corpus_is_reproducible_and_has_no_line_twice(tmp_path: Path) -> None:
    """A seed writes the same bytes again, another seed writes others, and no sentence is written twice."""
    first, again, other = (
        write_corpus(tmp_path / name, 500, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    for one, same, different in zip(first, again, other, strict=True):
        lines = one.read_text(encoding="utf-8").splitlines()
        assert len(lines) == len(set(lines)) == 500
        assert one.read_bytes() == same.read_bytes() != different.read_bytes()


def test_more_sentences_than_a_grammar_has_are_refused() -> None:
    """Asking for more than there are ends with how many there are, not in an endless search."""
    grammar = Grammar({"who": ("anna", "tom")}, (((("{who} {verb}s.",), ({"verb": "run/sing"},))),))
    assert sorted(different_sentences(grammar, 4, 1)) == [
        "Anna runs.",
        "Anna sings.",
        "Tom runs.",
        "Tom sings.",
    ]
    with pytest.raises(
        ValueError, match="only 4 different sentences came in 100, 5 asked for; ask for fewer"
    ):
        different_sentences(grammar, 5, 1)
