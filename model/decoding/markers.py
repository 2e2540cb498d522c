"""The markers of blanks in a text, the brackets around them, and the spaces next to them.

People write ``is ____ .``, ``is (____).`` and ``is____.`` for ``is ____.``, and all are read as the
last. Every function looks no further than to the blanks on either side, so that all blanks of a
text together take linear time.
"""

import re
from collections.abc import Iterable

from model.text import APOSTROPHES, LATIN_LETTER, is_east_asian, is_han

# One pattern per bracket: each then searches for its first character, 40 times faster than one
# alternation over a long text.
_USUAL = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        "[_＿]{2,}",
        r"[\[［] ?(?:mask|blank) ?[\]］]",
        r"[{｛] ?(?:mask|blank) ?[}｝]",
        "[<＜] ?(?:mask|blank) ?[>＞]",
    )
]
# Opening brackets and quotes, and what may close them; 《 》 are read, as they make a title.
_OPENERS = {
    opener: closers
    for openers, closers in (
        ("(（", ")）"),
        ("[［【〔〖", "]］】〕〗"),
        ("{｛", "}｝"),
        ("<＜‹«", ">＞›»"),
        ("「『", "」』"),
        ('"“”„＂', '"“”＂'),
        ("'‘’", "'’"),
        ("`", "`"),
    )
    for opener in openers
}
# Brackets that open, and no quote that may close as well.
_NO_SPACE_AFTER = "([{“‘«"
# Marks of Chinese and of English.
_SHARED = "“”‘’…—·"
# What belongs to the word before it, or ends the line.
_NO_SPACE_BEFORE = re.compile(
    r"""
    (?! [:;]-?[)(DPp] | :\w+: | [.,]\d | [!:]= )  # not smileys, numbers, operators
    [,.;:!?…%)\]}”’»\n]
    | ["'] (?!\w)
    | ' (?: s | re | ll | ve | d | m | t ) \b
    | n['’]t \b
    """,
    re.VERBOSE | re.IGNORECASE,
)
# Parts of words: a blank that is glued to one is the rest of the word.
_BEGINNINGS = frozenset(["un", "Un", "dis", "Dis", "mis", "Mis", "non", "Non", "pre", "Pre"])
_ENDINGS = frozenset(
    ["s", "es", "d", "ed", "r", "er", "ers", "est", "ing", "y", "ly", "ness", "n't", "n’t"]
)
_PARTS = _BEGINNINGS | _ENDINGS | frozenset(["im", "in", "il", "ir", "re"])
# The number of an exercise.
_NUMBER = re.compile(r"\(?\d{1,2}[.)]")
_AFTER_WORD = ".,;:!?)]}”"


def find_markers(text: str, marker: str | None) -> list[tuple[int, int]]:
    """Return start and end of each marker of a blank in normalised *text*, in order.

    A *marker*, in normal form, is taken literally; an empty one marks nothing. The usual ones are
    two or more ``_`` or ``＿``, and ``[MASK]`` or ``[BLANK]``, in any case and in square, curly or
    angle brackets.
    """
    if marker is None:
        return sorted(match.span() for each in _USUAL for match in each.finditer(text))
    found, start = list[tuple[int, int]](), 0
    while marker and (start := text.find(marker, start)) >= 0:  # `re` would keep the pattern
        found.append((start, start + len(marker)))
        start += len(marker)
    return found


def with_brackets(text: str, start: int, end: int, low: int, high: int) -> tuple[int, int]:
    """Return where the brackets and quotes around text[start:end] begin and end.

    They are directly around it, but for spaces, and inside text[low:high].
    """
    while True:
        left = start
        while left > low and text[left - 1] == " ":
            left -= 1
        right = end
        while right < high and text[right] == " ":
            right += 1
        if left == low or right == high or text[right] not in _OPENERS.get(text[left - 1], ""):
            return start, end
        before, after = text[max(0, left - 2) : left - 1], text[right + 1 : right + 2]
        if text[right] in APOSTROPHES and (before.isalnum() or after.isalpha()):
            return start, end
        if text[right] == '"' and (
            (left < start and before.strip() and not is_east_asian(before))
            or (right > end and after.isalnum() and not is_east_asian(after))
        ):
            return start, end  # around other words: "a" ____ "b"
        start, end = left - 1, right + 1


def read_left(left: str, right: str, joins: bool) -> tuple[str, bool]:
    """Return the text left of a blank as it is read, and if it has a space that *left* lacks.

    *left* and *right* are the texts around the blank, up to the next blanks. If it *joins*, the
    blank is a part of the word that it is glued to.
    """
    bare = left.rstrip(" ")
    if bare[-1:] in ("", "\n") or _is_unspaced(bare[:-3:-1]) or (bare != left and _opens(bare)):
        return bare, False
    if bare == left and not joins and _ends_word(left, right):
        return f"{left} ", True
    return left, False


def read_right(left: str, right: str, joins: bool) -> tuple[str, bool, bool]:
    """Return the text right of a blank without the space that belongs to the word in the blank.

    Also return if there is such a space, and if *right* lacks it.
    """
    bare = right.lstrip(" ")
    if _is_unspaced(bare[:2]) or (bare != right and _NO_SPACE_BEFORE.match(bare)):
        return bare, False, False
    if bare != right:
        return bare, True, False
    lacks = not joins and _begins_word(left, right)
    return right, lacks, lacks


def completes_word(choices: Iterable[str]) -> bool:
    """Return True if *choices* are parts of words, as ``ed`` or ``'s``."""
    words = [choice.lower() for choice in choices]
    return all(word in _PARTS for word in words) or any(word[0] in APOSTROPHES for word in words)


def _is_unspaced(nearest: str) -> bool:
    """Return True if the *nearest* one or two characters to a blank are of a text in Chinese."""
    return is_east_asian(nearest[-1] if nearest[0] in _SHARED else nearest[0])


def _opens(bare: str) -> bool:
    return bare[-1] in _NO_SPACE_AFTER or (bare[-1] == '"' and not bare[-2:-1].strip())


def _ends_word(left: str, right: str) -> bool:
    """Return True if *left* ends in a Latin word that a blank is glued to, or in its full stop."""
    if _NUMBER.fullmatch(left, left.rfind("\n") + 1):
        return True
    end = len(left.rstrip(_AFTER_WORD))
    if not (end and LATIN_LETTER.match(left[end - 1])):
        return False
    start = end
    while start and _in_word(left[start - 1]):
        start -= 1
    word = left[start:end]
    is_part = word not in "aAiI" if len(word) == 1 else word in _BEGINNINGS
    if is_part and end == len(left):
        return False  # the blank is the rest of the word
    return not (start and is_han(left[start - 1])) and not is_han(right.lstrip(" ")[:1])


def _begins_word(left: str, right: str) -> bool:
    """Return True if *right* begins with a Latin word that a blank is glued to."""
    if not LATIN_LETTER.match(right):
        return False
    end = 1
    while end < len(right) and _in_word(right[end]):
        end += 1
    if right[:end] in _ENDINGS:
        return False
    return not is_han(right[end : end + 1]) and not is_han(left.rstrip(" ")[-1:])


def _in_word(character: str) -> bool:
    return character in APOSTROPHES or (character.isalnum() and not is_east_asian(character))
