"""The quickstart with twenty seconds of training, and the corpus that it writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from model.errors import CorpusError
from research.toy_corpus import Grammar, different_sentences, write_corpus


@pytest.mark.slow
def test_a_corpus_becomes_a_service_that_answers(tmp_path: Path) -> None:
    """After 20 CPU seconds of training the service knows the drinks and the shops of the corpus."""
    command = [sys.executable, "-m", "research.quickstart", "--seconds", "20"]
    result = subprocess.run(
        [*command, "--directory", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    cup, london, bookshop, hospital = (json.loads(line)["results"][0] for line in lines)
    assert cup["candidates"][0]["word"] in {"tea", "coffee", "cocoa"}
    assert (london["candidates"][0]["word"], london["candidates"][0]["append"]) == ("train", "ain")
    # The order depends on how many steps this machine takes in 20 seconds.
    assert "买" in {candidate["word"] for candidate in bookshop["blanks"][0]["candidates"]}
    assert len(hospital["blanks"][0]["candidates"]) == 3


def test_a_seed_writes_the_same_corpus_again(tmp_path: Path) -> None:
    """One seed writes the same bytes twice, another seed writes others; no line comes twice."""
    names = (("a", 1), ("b", 1), ("c", 2))
    first, again, other = (write_corpus(tmp_path / name, 500, seed) for name, seed in names)
    for one, same, different in zip(first, again, other, strict=True):
        lines = one.read_text(encoding="utf-8").splitlines()
        assert len(lines) == len(set(lines)) == 500
        assert one.read_bytes() == same.read_bytes() != different.read_bytes()


def test_a_grammar_with_too_few_sentences_is_refused() -> None:
    """Asking for five of four sentences raises an error and does not search forever."""
    grammar = Grammar({"who": ["anna", "tom"]}, [(["{who} {verb}s."], [{"verb": ["run", "sing"]}])])
    assert len(different_sentences(grammar, 4, 1)) == 4
    with pytest.raises(CorpusError, match="only 4 different sentences of 5"):
        different_sentences(grammar, 5, 1)
