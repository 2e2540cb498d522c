"""Key presses saved while lines are typed with suggestions.

After every key three candidates are shown. If one of them continues the text rightly, it is
accepted with one key; else the next character is typed with one key. A candidate is right if the
line goes on with it and, in a spaced script, a word ends there. The longest right one is accepted,
if it saves a key. The space after an accepted word costs a key unless the candidate has it.
"""

from collections.abc import Callable, Sequence

from model.queries import PredictQuery, PredictResult
from model.text import is_word_character

SUGGESTIONS = 3
# Accepting costs a key, so one appended character saves nothing
MIN_APPENDED = 2


def keys_pressed(
    lines: Sequence[str], predict: Callable[[list[PredictQuery]], list[PredictResult]]
) -> list[int]:
    """Type all lines side by side, one key at a time.

    Args:
        lines: texts to type, from an empty field.
        predict: answers queries, in order.

    Returns:
        Keys that each line took; without suggestions that is its length.
    """
    keys = [0] * len(lines)
    typed = [0] * len(lines)
    while live := [index for index, line in enumerate(lines) if typed[index] < len(line)]:
        queries = [PredictQuery(lines[index][: typed[index]], SUGGESTIONS) for index in live]
        for index, answer in zip(live, predict(queries), strict=True):
            rest = lines[index][typed[index] :]
            appends = [candidate.append for candidate in answer.candidates]
            typed[index] += max((len(each) for each in appends if continues(rest, each)), default=1)
            keys[index] += 1
    return keys


def continues(rest: str, append: str) -> bool:
    """Return True if *append* is right and saves a key when *rest* is still to be typed."""
    if len(append) < MIN_APPENDED or not rest.startswith(append):
        return False
    after = rest[len(append) : len(append) + 1]
    return not (after and is_word_character(append[-1]) and is_word_character(after))
