"""Questions of the native search, which it asks Python while it runs: unusual words and characters.

The search knows whom to ask by a number. Several threads may search, each for texts of its own.
"""

import ctypes
from collections.abc import Callable
from typing import Any

from model.decoding.vocabulary import spelled_character
from model.native import search as native

# How characters are shown that a candidate appends, if they may: they, the number of characters at
# the end of the text that their token covers, and if the token makes them a word for certain.
Decide = Callable[[str, int, bool], str | None]


class Questions:
    """Calls functions of one search, and answers what they ask.

    Attributes:
        owner: the number by which the search names this.
    """

    def __init__(self) -> None:
        self.owner = id(self)
        self._decide: Decide | None = None  # only during a call: it may refer to the search
        self._errors: list[BaseException] = []

    def call(self, decide: Decide, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function, which may ask *decide*; raise its error after the function returns."""
        self._decide, _calling[self.owner] = decide, self
        try:
            result = function(*arguments)
        finally:
            self._decide = None
            del _calling[self.owner]
        if self._errors:
            raise self._errors.pop()
        return result

    def answer(self, append: str, covered: int, is_allowed: bool) -> str | None:
        """Answer a question. C++ has no exceptions, so an error waits for the end of the call."""
        try:
            return self._decide(append, covered, is_allowed) if self._decide else None
        except BaseException as error:  # ctypes would drop an interrupt, too
            self._errors.append(error)
            return None


# By owner, while a function is called.
_calling: dict[int, Questions] = {}


@native.AskWord  # type: ignore[untyped-decorator]
def ask_word(
    owner: int, append: int, length: int, covered: int, is_allowed: int, shown: int
) -> int:
    """See AskWord in search.hpp."""
    text = ctypes.string_at(append, 4 * length).decode("utf-32-le")
    answer = _calling[owner].answer(text, covered, bool(is_allowed))
    if not answer or len(answer) > native.LONGEST:
        return -1
    data = answer.encode("utf-32-le")
    ctypes.memmove(shown, data, len(data))
    return len(answer)


@native.AskCharacter  # type: ignore[untyped-decorator]
def ask_character(spelled: int, length: int) -> int:
    """See AskCharacter in search.hpp."""
    return spelled_character(ctypes.string_at(spelled, length))
