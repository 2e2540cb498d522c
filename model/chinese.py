"""Traditional and Simplified Chinese, character for character, by the phrases of OpenCC."""

import re
from functools import lru_cache

from opencc import OpenCC

# Common Traditional characters that Simplified Chinese keeps in a few names.
_IN_NAMES = "後於"
# Characters before a text that decide how it is written.
_NEAR = 8
# Characters that decide if a text is Traditional.
_LONG = 200
_KANA = re.compile("[\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f]")


def to_simplified(text: str) -> str:
    """Return *text* in Simplified Chinese; Japanese, which has kana, stays as it is."""
    for _ in range(3):  # once more turns the few characters that two steps lead to
        if not _traditional().search(text) or _KANA.search(text):
            break
        text = _converted(_simplifier(), text)
    return text


def to_traditional(before: str, text: str) -> str:
    """Return *text*, which follows *before*, in Traditional Chinese as Taiwan writes it."""
    before = before[-_NEAR:]
    return _converted(_traditionaliser(), before + text)[len(before) :]


@lru_cache(maxsize=1 << 12)
def is_same_character(sent: str, written: str) -> bool:
    """Return False if two Traditional characters are not variants, as 髮 and 發 are not.

    Characters that Big5 lacks are variants that other regions use.
    """
    is_same = sent == written or _traditionaliser().convert(sent) == written
    return is_same or not _encodes(sent, "big5")


def is_traditional(text: str) -> bool:
    """Return True if *text* has more Traditional than Simplified characters, and no kana.

    Of a long text, only the end is looked at.
    """
    text = text[-_LONG:]
    if text.isascii():
        return False
    traditional = len(_traditional().findall(text))
    if not traditional or _KANA.search(text):
        return False
    return traditional > sum(map(_is_simplified, text))


@lru_cache(maxsize=1)
def traditional_characters() -> str:
    """Return the common characters of Traditional Chinese only: GB 2312 lacks most of them."""
    every = "\n".join(map(chr, range(0x3400, 0xA000)))  # nothing converts across lines
    pairs = zip(every, _simplifier().convert(every), strict=True)
    changed = (old for old, new in pairs if old != new)
    return "".join(old for old in changed if old in _IN_NAMES or not _encodes(old, "gb2312"))


def _converted(converter: OpenCC, text: str) -> str:
    """Convert *text* by phrases, or by characters if that would change its length."""
    converted: str = converter.convert(text)
    if len(converted) == len(text):
        return converted
    single = map(converter.convert, text)
    return "".join(new if len(new) == 1 else old for new, old in zip(single, text, strict=True))


@lru_cache(maxsize=1)
def _simplifier() -> OpenCC:
    return OpenCC("t2s")


@lru_cache(maxsize=1)
def _traditionaliser() -> OpenCC:
    return OpenCC("s2tw")  # 45 MB, which only a service with Traditional texts takes


@lru_cache(maxsize=1)
def _traditional() -> re.Pattern[str]:
    return re.compile(f"[{traditional_characters()}]")


@lru_cache(maxsize=1 << 14)
def _is_simplified(character: str) -> bool:
    """Return True for a character that only Simplified Chinese has: Big5 lacks it."""
    common = character >= "\u3400" and _encodes(character, "gb2312")
    return common and not _encodes(character, "big5")


def _encodes(character: str, encoding: str) -> bool:
    try:
        return bool(character.encode(encoding))
    except UnicodeEncodeError:
        return False
