"""The workloads: what is typed, and that no text or beginning is asked twice."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.workloads import (
    BLANK,
    Clozes,
    Contexts,
    Keystrokes,
    Prompts,
    TextError,
    body,
    is_chinese,
    read_lines,
    rotated,
)
from model.checkpoint import load_checkpoint
from model.tokenizer import Tokenizer
from research.toy_corpus import write_corpus


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Lines of the project's own text."""
    directory = tmp_path_factory.mktemp("text")
    write_corpus(directory, 300, seed=5)
    return read_lines(directory)


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> Tokenizer:
    """The tiny checkpoint's."""
    return load_checkpoint(tiny_checkpoint).tokenizer


def test_lines_alternate_between_chinese_and_others(lines: list[str]) -> None:
    """Typists meet both languages in turn."""
    assert lines
    assert [is_chinese(line) for line in lines[:6]] == [True, False] * 3


def test_text_of_one_language_is_refused(tmp_path: Path) -> None:
    """A workload of one language would not say what it seems to say."""
    (tmp_path / "en.txt").write_text("Only English here.\n")
    with pytest.raises(TextError, match="0 Chinese and 1 other"):
        read_lines(tmp_path)


def test_a_body_is_one_line_of_utf8() -> None:
    """Wrk reads one body from each line."""
    assert body("迟\n到") == '{"text":"迟\\n到"}'.encode()
    assert json.loads(body(["a", "b"])) == {"text": ["a", "b"]}


def test_typists_press_keys_in_turn_and_each_types_its_own_line() -> None:
    """Every 64th text continues the one before by one character, until its line ends and a fresh one begins."""
    texts = Keystrokes(["abc d", "xyz w", "klm n"], typists=2).peek(14)
    assert texts[0::2] == ["a", "ab", "abc", "abc ", "abc d", "k", "kl"]
    assert texts[1::2] == ["x", "xy", "xyz", "xyz ", "xyz w", "d abc"[:1], "d abc"[:2]]


def test_what_was_used_is_not_typed_again(lines: list[str]) -> None:
    """After advancing, lines that were begun do not come back; without it, the same texts do."""
    source = Keystrokes(lines)
    first = source.peek(2500)
    assert source.peek(2500) == first
    source.advance(2500)
    # Beginnings are common to many lines; a line typed to its end is itself.
    finished = set(first) & set(lines)
    assert finished
    assert finished.isdisjoint(source.peek(2500))


def test_lines_come_again_in_another_order_of_words() -> None:
    """Where the text is used up, a line begins elsewhere, and one with no other beginning left is passed over."""
    assert [rotated("the cat sat", turns) for turns in range(4)] == [
        "the cat sat",
        "cat sat the",
        "sat the cat",
        "",
    ]
    assert rotated("我的手机坏了", 1) == "手机坏了我的"
    with pytest.raises(TextError, match="too small"):
        Keystrokes(["ab", "cd"], typists=2).peek(20)


def test_prompts_share_no_beginning(lines: list[str], tokenizer: Tokenizer) -> None:
    """All have the size asked for, both languages take turns, and first tokens differ for as long as there are any."""
    prompts = Prompts(lines, tokenizer, 20)
    tokens = prompts.peek_tokens(200)
    texts = prompts.peek(200)
    assert [tokenizer.encode(text) for text in texts] == tokens
    assert {len(row) for row in tokens} == {20}
    assert len(set(texts)) == 200
    firsts = [row[0] for row in tokens]
    repeated = next(index for index, first in enumerate(firsts) if first in firsts[:index])
    assert repeated >= 20
    # Longer and longer beginnings must be shared only once the shorter ones are used up.
    shared = [
        max(sum(1 for _ in _common(row, earlier)) for earlier in tokens[:index])
        for index, row in enumerate(tokens)
        if index
    ]
    assert all(later >= earlier for earlier, later in pairwise(shared))


def _common(one: list[int], other: list[int]) -> list[int]:
    """The tokens that two rows begin with alike."""
    found = []
    for mine, theirs in zip(one, other, strict=True):
        if mine != theirs:
            break
        found.append(mine)
    return found


def test_prompts_move_on(lines: list[str], tokenizer: Tokenizer) -> None:
    """What has been used is not shown again while the text lasts."""
    prompts = Prompts(lines, tokenizer, 20)
    first = prompts.peek(50)
    prompts.advance(50)
    assert set(first).isdisjoint(prompts.peek(50))


def test_clozes_have_one_blank_in_the_middle(lines: list[str], tokenizer: Tokenizer) -> None:
    """A cloze is a stretch of text with one word replaced, and a space kept where the word had one."""
    for text in Clozes(Prompts(lines, tokenizer, 50), tokenizer).peek(40):
        before, marker, after = text.partition(BLANK)
        assert marker
        assert BLANK not in after
        assert 10 <= len(tokenizer.encode(before)) <= 40
        if not is_chinese(text):
            assert not before or not before[-1].isalnum()


def test_contexts_grow_at_their_end_in_turn(lines: list[str]) -> None:
    """At each length a text is typed on by one character a turn, and no text is used twice."""
    contexts = Contexts(lines, (10, 100), presses=3)
    beginnings, typed = contexts.take(2)
    assert [len(text) for text in beginnings] == [10, 100, 10, 100]
    assert [len(text) for text in typed] == [11, 101, 12, 102, 13, 103] * 2
    assert typed[0].startswith(beginnings[0])
    assert typed[5].startswith(beginnings[1])
    assert set(beginnings).isdisjoint(contexts.take(2)[0])
    assert not any(text[0].isspace() for text in beginnings)
