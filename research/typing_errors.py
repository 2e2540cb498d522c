"""Type held-out lines with random typing errors, with and without corrections.

One letter in 20 is another one, mostly a neighbour on the keyboard, or left out, doubled or swapped
with the next. After every key three candidates are shown, and the writer accepts a right one if
that saves a key or corrects an error. An error that nothing corrects stays, but counts once: the
following words are typed after the right text.
"""

import random
import sys
from dataclasses import dataclass
from pathlib import Path

from model.decoding.typing_errors import neighbours
from model.queries import PredictQuery, PredictResult
from model.words import spelled_words
from training.evaluation.systems import EvaluatedSystem, open_system
from training.options import argument, option

ERROR_RATE, SUGGESTIONS, MIN_SAVED = 0.05, 3, 2
KINDS = ("neighbour", "neighbour", "neighbour", "left out", "doubled", "swapped")


@dataclass(frozen=True, slots=True)
class TypingErrorsOptions:
    """Options of the command."""

    checkpoint: Path = argument("checkpoint directory")
    directory: Path = argument("directory of English text files, one line an item")
    lines: int = option("lines to type", 36)
    seed: int = option("of lines and errors", 1)


def run(options: TypingErrorsOptions) -> int:
    """Print the figures without and with corrections; return 0."""
    system, draw = open_system(options.checkpoint), random.Random(options.seed)
    texts = [file.read_text("utf-8") for file in sorted(options.directory.glob("*.txt"))]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    lines = [line for line in lines if 40 <= len(line) <= 100 and line.isascii()]
    chosen = [line.split() for line in draw.sample(lines, options.lines)]
    words = [
        (line[:n], word, mistype(word, draw)) for line in chosen for n, word in enumerate(line)
    ]
    characters = sum(len(word) + 1 for _, word, _ in words)
    for corrections in (0, 2):
        keys = wrong = errors = among = 0
        for before, word, typed in words:
            text = "".join([f"{each} " for each in before])
            offers = [
                word_is_offered(system, text, word, typed[:n], corrections)
                for n in range(len(typed) + 1)
            ]
            pressed, is_right = keys_of(word, typed, offers)
            keys, wrong = keys + pressed + 1, wrong + (not is_right)
            errors, among = errors + (typed != word), among + (typed != word and offers[-1])
        sys.stdout.write(
            f"corrections {corrections}: {1 - keys / characters:.3f} of {characters} characters "
            f"saved; of {errors} misspelt words {among} right among {SUGGESTIONS}, {wrong} left\n"
        )
    return 0


def mistype(word: str, draw: random.Random) -> str:
    """Return the typed letters of a word."""
    typed, place = "", 0
    while place < len(word):
        letter, place = word[place], place + 1
        near = neighbours(letter.lower())
        kind = draw.choice(KINDS) if near and draw.random() < ERROR_RATE else ""
        if kind == "neighbour":
            letter = draw.choice(near)
        elif kind == "swapped" and place < len(word):
            letter, place = word[place] + letter, place + 1
        typed += {"left out": "", "doubled": 2 * letter}.get(kind, letter)
    return typed


def keys_of(word: str, typed: str, offers: list[bool]) -> tuple[int, bool]:
    """Return the keys that a word takes, and if it is right; *offers* say if it was, after each."""
    is_wrong = typed != word
    for count, is_offered in enumerate(offers):
        if is_offered and (is_wrong or len(typed) - count >= MIN_SAVED):
            return count + 1, True
    return len(typed), not is_wrong


def word_is_offered(
    system: EvaluatedSystem, text: str, word: str, typed: str, corrections: int
) -> bool:
    """Return True if a candidate makes *typed* the word, but for marks around it."""
    query = PredictQuery(text + typed, SUGGESTIONS, corrections=corrections)
    (result,) = system.ask([query], PredictResult)
    (core, *_) = spelled_words(word) or [word]
    wanted, whole = text + word[: word.index(core) + len(core)], text + typed
    return any(
        whole[: len(whole) - (each.replace or 0)] + each.append == wanted
        for each in result.candidates
    )
