"""Signs that a file was decoded wrongly, or is in another script than Chinese or Latin."""

import re
import unicodedata
from collections import Counter

from model.text import HAN_CHARACTER, LATIN_LETTER, LETTER

# Of each file, this many lines are looked at, and then one line in as many as SAMPLED_EVERY.
FIRST_LINES = 500
SAMPLED_EVERY = 16

# Second and later bytes of UTF-8, read as Windows-1252 or Latin-1
_LATER = (
    "[\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac"
    "\u2122]"
)
_UTF8_AS_LATIN = re.compile(f"[ÂÃ]{_LATER}|[ä-é]{_LATER}{{2}}|â€")
_UTF8_AS_GBK = re.compile("[鐨涓鍦浜锛銆鏄鎴浠鍙]")  # beginnings of 的一在人，。是我们可
_HIGH_LATIN = re.compile("[\u00a1-\u00ff]")  # GBK or Big5, read as Windows-1252 or Latin-1
_LOST = re.compile("\ufffd|锟斤拷|烫烫烫")
_MAX_LATIN_SHARE = 0.001
_MAX_GBK_SHARE = 0.02
_MAX_HIGH_LATIN_SHARE = 0.4
_MAX_LOST_SHARE = 0.001
_MAX_OTHER_SCRIPT_SHARE = 0.2


class TextSigns:
    """Counts of suspicious characters in some lines of one file."""

    def __init__(self) -> None:
        self._lines = 0
        self._counts: Counter[str] = Counter()
        self._scripts: Counter[str] = Counter()

    def add(self, line: str) -> None:
        """Take note of a line, or pass over it."""
        self._lines += 1
        if self._lines > FIRST_LINES and self._lines % SAMPLED_EVERY:
            return
        self._counts["characters"] += len(line)
        if line.isascii():
            self._counts["letters"] += len(line)
            return
        self._counts["latin"] += len(_UTF8_AS_LATIN.findall(line))
        self._counts["gbk"] += len(_UTF8_AS_GBK.findall(line))
        self._counts["high"] += len(_HIGH_LATIN.findall(line))
        self._counts["lost"] += len(_LOST.findall(line))
        letters = list(filter(str.isalpha, LETTER.findall(line)))  # fractions are none
        self._counts["letters"] += len(letters)
        for letter in letters:
            if not HAN_CHARACTER.match(letter) and not LATIN_LETTER.match(letter):
                self._scripts[unicodedata.name(letter, "unnamed").split()[0].title()] += 1

    def warnings(self) -> list[str]:
        """Return a sentence for each suspicion."""
        characters = max(1, self._counts["characters"])
        found = []
        if (
            self._counts["latin"] > _MAX_LATIN_SHARE * characters
            or self._counts["gbk"] > _MAX_GBK_SHARE * characters
            or self._counts["high"] > _MAX_HIGH_LATIN_SHARE * characters
        ):
            found.append(
                "looks like mojibake, text read in a wrong encoding; give the right --encoding, or"
                " get the text again if it was saved so"
            )
        if self._counts["lost"] > _MAX_LOST_SHARE * characters:
            found.append(
                f"{self._counts['lost']} replacement characters in {characters}: characters were"
                " lost when it was written or read; give the right --encoding or another file"
            )
        others = sum(self._scripts.values())
        if others > _MAX_OTHER_SCRIPT_SHARE * max(1, self._counts["letters"]):
            script, _ = self._scripts.most_common(1)[0]
            found.append(
                f"{others / max(1, self._counts['letters']):.0%} of its letters are neither Chinese"
                f" nor Latin ({script}); they are learned slowly, byte by byte if they are rare"
            )
        return found
