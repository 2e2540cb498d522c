"""Someone types a line and takes suggestions: how many key presses are saved. Asks the predictor, fits nothing.

After every key the three best candidates are shown. If one of them continues the text rightly, it is accepted with one
key; else the next character is typed with one key. Accepted is the longest right one, if it saves at least a key. It is
right if the line goes on with what it appends and, in a spaced script, a word ends there. Nothing is typed by itself:
the space after an accepted word costs a key unless a candidate brings it.
"""

from collections.abc import Callable, Sequence

from model.queries import PredictQuery, PredictResult
from model.text import is_word_character

SUGGESTIONS = 3
# Accepting costs a key, so what appends one character saves nothing
MIN_APPENDED = 2


def keys_pressed(
    lines: Sequence[str],
    predict: Callable[[list[PredictQuery]], list[PredictResult]],
    advanced: Callable[[int], object] = lambda _: None,
) -> list[int]:
    """Type all lines side by side, one key at a time.

    Args:
        lines: texts to type, from an empty field.
        predict: answers queries, in order.
        advanced: told after each round how many characters came to stand in all lines together.

    Returns:
        Keys that each line took; without suggestions it would be its length.
    """
    keys = [0] * len(lines)
    typed = [0] * len(lines)
    while live := [index for index, line in enumerate(lines) if typed[index] < len(line)]:
        answers = predict(
            [PredictQuery(lines[index][: typed[index]], SUGGESTIONS) for index in live]
        )
        before = sum(typed)
        for index, answer in zip(live, answers, strict=True):
            rest = lines[index][typed[index] :]
            appends = [candidate.append for candidate in answer.candidates]
            typed[index] += max(
                (len(append) for append in appends if continues(rest, append)), default=1
            )
            keys[index] += 1
        advanced(sum(typed) - before)
    return keys


def continues(rest: str, append: str) -> bool:
    """Whether accepting *append* is right and saves a key where *rest* is still to be typed."""
    if len(append) < MIN_APPENDED or not rest.startswith(append):
        return False
    after = rest[len(append) : len(append) + 1]
    return not (after and is_word_character(append[-1]) and is_word_character(after))
