"""Tokenizers of a size that is given or chosen, trained in another process."""

import json
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from model.errors import TokenizerError
from tests.training.made_up_text import WORDS, chinese, english
from training.data import sentencepiece_process
from training.data import train_tokenizer as module
from training.data.train_tokenizer import choose_size, train_tokenizer

OTHER_SCRIPTS = "Вчера мы 昨日は 어제 ગઈકાલે เมื่อวาน 𝔘𝔫𝔦 🙂"


def lines(count: int) -> list[str]:
    """Random lines of both languages."""
    rng = random.Random(1)
    return [make(rng) for _ in range(count // 2) for make in (english, chinese)]


@pytest.mark.parametrize("size", [16_000, 262])
def test_an_impossible_size_names_possible_ones(size: int) -> None:
    """The error of a size too large or too small for the text names sizes, which work."""
    text = lines(400)
    with pytest.raises(TokenizerError, match=rf"size {size}: .* needs \d+ .*; leave") as caught:
        train_tokenizer(text, size)
    possible = list(map(int, re.findall(r"\d+", str(caught.value))))[1:]
    assert len(possible) == (2 if size == 16_000 else 1)
    assert [train_tokenizer(text, each).size for each in possible] == possible


@pytest.mark.parametrize(
    "text",
    [
        ["One short line."],
        ["".join(chr(0x4E00 + 7 * n + k) for k in range(7)) for n in range(400)],
        [f"{word}{n}{OTHER_SCRIPTS}" for n, word in enumerate(OTHER_SCRIPTS.split() * 9)],
    ],
)
def test_a_size_is_chosen_for_any_text(text: list[str]) -> None:
    """No text is too small, has too many characters or is too mixed for a tokenizer."""
    size = choose_size(text, sum(map(len, text)))
    tokenizer = train_tokenizer(text, size, exactly=False)
    assert 261 < tokenizer.size <= size
    assert [tokenizer.decode(tokenizer.encode(line)) for line in text] == text


def test_more_text_gets_more_tokens() -> None:
    """A size grows with the text, up to a limit that only more different characters exceed."""
    text = lines(100)
    sizes = [choose_size(text, characters) for characters in (10**3, 10**5, 10**6, 10**8)]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == 16_000
    assert choose_size(["".join(map(chr, range(0x3400, 0x9000))) * 5], 10**8) > 16_000


def test_rare_characters_are_no_tokens_of_a_chosen_size() -> None:
    """A character that occurs once is spelled in bytes, unless the user gave the size."""
    text = [*lines(60), "龘"]
    size = choose_size(text, sum(map(len, text)))
    chosen = train_tokenizer(text, size, exactly=False).surfaces
    given = train_tokenizer(text, 360).surfaces
    assert ("们" in chosen, "龘" in chosen, "龘" in given) == (True, False, True)


def test_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    """It ends as soon as the pipe from its parent is closed, even while it trains."""
    rng = random.Random(1)
    text = ["".join(rng.choices(WORDS, k=30)) for _ in range(20_000)]
    (tmp_path / "text").write_text("\n".join(text), encoding="utf-8")
    settings = {"input": "text", "model_prefix": "t", "vocab_size": 4000, "num_threads": 1}
    (tmp_path / "s.json").write_text(json.dumps(settings), encoding="utf-8")
    pipe, command = subprocess.PIPE, [sys.executable, sentencepiece_process.__file__, "s.json"]
    with subprocess.Popen(command, cwd=tmp_path, stdin=pipe, stderr=pipe) as process:
        assert process.stderr is not None
        assert process.stdin is not None
        assert process.stderr.readline()  # it trains
        process.stdin.close()
        assert process.wait() == -signal.SIGIO


def test_an_interrupt_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is gone when the interrupt reaches the caller."""
    started = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def wait(self, timeout: float | None = None) -> int:
            if not started:
                started.append(self)
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_tokenizer(WORDS * 20, 280)
    assert started[0].poll() is not None


def test_a_trainer_that_fails_is_not_taken_for_a_wrong_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A full disk or a killed process has another error."""
    monkeypatch.setattr(module, "_run", lambda *_: "RESOURCE_EXHAUSTED: no space left")
    with pytest.raises(TokenizerError, match="SentencePiece failed: RESOURCE_EXHAUSTED"):
        train_tokenizer(WORDS * 20, 280)
