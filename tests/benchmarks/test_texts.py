"""Request texts: both languages in turn, and no text twice while there are others."""

from itertools import islice, pairwise
from pathlib import Path

import pytest

from benchmarks.texts import (
    BLANK,
    TextError,
    keystrokes,
    lines_with_blank,
    post,
    read_lines,
    stretches,
)
from model.checkpoint import load_checkpoint
from model.text import language_of


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """Lines of the toy corpus."""
    return read_lines(None)


def test_lines_alternate_between_languages(lines: list[str], tmp_path: Path) -> None:
    """Chinese and other lines come in turn; a folder without one of them is refused."""
    assert [language_of(line) == "zh" for line in lines[:6]] == [True, False] * 3
    (tmp_path / "en.txt").write_text("Only English here.\n")
    with pytest.raises(TextError, match="0 Chinese and 1 other"):
        read_lines(tmp_path)


def test_typists_press_keys_in_turn(lines: list[str]) -> None:
    """Every 64th text continues the one before by one character, until its line ends."""
    typed = list(islice(keystrokes(lines), 64 * 400))
    for typist in (0, 1, 63):
        mine = typed[typist::64]
        for before, after in pairwise(mine):
            assert after[:-1] == before or (before in lines and len(after) == 1)


def test_texts_are_fresh_for_long(lines: list[str], tiny_checkpoint: Path) -> None:
    """Lines come again only when all were used, in another order of words; stretches begin
    anywhere.
    """
    two = ["the cat sat", "天地玄黄"]
    blanked = list(islice(lines_with_blank(two), 4))
    assert blanked == [f"the {BLANK} sat", f"天地{BLANK}", f"cat {BLANK} the", f"玄黄{BLANK}"]
    tokenizer = load_checkpoint(tiny_checkpoint).tokenizer
    found = list(islice(stretches(lines, tokenizer, 20), 200))
    assert len(set(found)) > 190
    assert max(len(tokenizer.encode(text)) for text in found) < 30
    assert b'{"text":["a","\xe8\xbf\x9f"]}' in post("/predict", ["a", "迟"])
