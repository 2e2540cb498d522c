"""The encoding of text, from a sample of its bytes.

    1  a byte order mark, or the zero bytes of ASCII in UTF-16
    2  UTF-8, if most characters beyond ASCII are valid
    3  GB18030, Big5, UTF-16 or cp1252: the one in which most characters beyond ASCII are frequent
    4  any other that charset-normalizer recognises

charset-normalizer alone needs bytes without any damage, and takes short GB18030 for Big5.
"""

import codecs
import re
import unicodedata
from collections import Counter
from functools import cache

from charset_normalizer import from_bytes
from opencc import OpenCC

# The most frequent Chinese characters, two thirds of any text
_FREQUENT = (
    "的是我一了不有在你个这人以可们为和中用时他大能要上会么来好到如下于过年生出地多得对也作后分自就子行些国发成看都没吗学很什还去里最家开天现那想小使方点道"
    "法面并说件而将之它所其您数文动但同果电理间本加被新知或定经部更样心入种请何前应然者无进哪日事高与常工此问实通当因力物起意着该啊名重机提哈体需长关器感已"
    "只主内吃情解手全合制度化性正店目从影明建等代做设表回己给安量相怎程打北特公外西次比接式变水月保美位系试任单信她话选第喜真三身区网欢题由太组期觉让两别头"
    "计吧及推斯口东标类记放呢每据找快酒型处语像近业员受完少活车片见置示改务路边备站色服至周项码包元帮持结游认息确非把图品尔女格十战乐始爱存气利算容京求直几"
)
_PUNCTUATION = "、。，！？：；（）《》「」『』“”‘’…—　·～"
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, which begins in the same way
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Codecs that also read what is outside the named standard, as text of that name often is
_WIDER = {"big5": "big5hkscs", "cp950": "big5hkscs", "gbk": "gb18030", "gb2312": "gb18030"}
# Of the characters beyond ASCII in a text that is damaged. A long one may have parts in another
# encoding; text that is in none but another has 0.8 or more.
_MAX_UNDECODABLE, _MAX_UNDECODABLE_IN_LONG = 0.1, 0.5
_LONG_CHARACTERS = 200
_SCORED_BYTES = 1 << 16
# Text in its own encoding has scores of 0.5 to 0.85; Japanese and Korean in their own have 0.3.
_MIN_SCORE = 0.4
# With fewer characters beyond ASCII, the best of the usual encodings is taken.
_MIN_CHARACTERS = 40
_NON_ASCII = re.compile(r"[^\0-\x7f]")
_FAULT = re.compile(r"[\x01-\x08\x0e-\x19\x1c-\x1f\ufffd]")
_LATIN = "À-ÖØ-öø-ÿŒœŠšŽžŸ"
# One or two letters beyond ASCII next to ASCII letters, and single typographic marks
_WESTERN = re.compile(
    rf"(?<![^\0-\x7f])(?:(?<=[A-Za-z])[{_LATIN}]{{1,2}}|[{_LATIN}]{{1,2}}(?=[A-Za-z ])"
    r"|[‘’“”–—…•«»¿¡°§£€©®ªº·\xa0½¼¾²³]{1,2})(?![^\0-\x7f])"
)


def detect(sample: bytes, declared: str | None = None) -> str:
    """Return the name of the codec in which *sample* was written, which may end anywhere.

    *declared* is the codec that the text itself names, taken if the sample is not UTF-8.
    """
    for mark, name in _MARKS.items():
        if sample.startswith(mark):
            return name
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if max(even, odd) * 10 > len(sample) and min(even, odd) * 10 < max(even, odd):
        return "utf-16-le" if odd > even else "utf-16-be"
    if is_in(sample, "utf-8"):
        return "utf-8"
    if declared and is_codec(declared) and is_in(sample, declared):
        return declared.lower()
    return _best(sample)


def codec_of(name: str) -> str:
    """Return the codec that reads text in the encoding *name*."""
    return _WIDER.get(name.lower(), name)


def is_codec(name: str) -> bool:
    """Return True if *name* is an encoding of text that Python knows."""
    try:
        b"a".decode(name, "replace")
        codecs.getincrementaldecoder(name)
    except (LookupError, ValueError):
        return False
    return True


def is_in(sample: bytes, name: str, limit: float = _MAX_UNDECODABLE_IN_LONG) -> bool:
    """Return True if the characters beyond ASCII can be decoded, all but a share of *limit*.

    In short samples the limit is 10 %. The end may be cut.
    """
    text = _decode(sample, name)
    count = len(_NON_ASCII.findall(text))
    limit = _MAX_UNDECODABLE if count < _LONG_CHARACTERS else limit
    return text.count("\ufffd") <= limit * count


def looks_binary(sample: bytes, name: str) -> bool:
    """Return True if many characters of a sample are control characters, unknown or undecodable.

    Zero bytes do not count: a crash while text was written leaves blocks of them.
    """
    text = re.sub(r"[\s\0]", "", _decode(sample[:_SCORED_BYTES], name))
    categories = Counter(map(unicodedata.category, text))
    faults = sum(categories[name] for name in ("Cc", "Cn", "Co"))
    return faults > 0.05 * len(text) or text.count("\ufffd") > 0.3 * len(text)


def _decode(sample: bytes, name: str) -> str:
    return codecs.getincrementaldecoder(codec_of(name))("replace").decode(sample)


def _best(sample: bytes) -> str:
    """Return the usual encoding whose reading is most like text."""
    first = re.search(rb"[^\0-\x7f]", sample)
    part = sample[max(0, first.start() - 100 if first else 0) & ~1 :][:_SCORED_BYTES]
    names = ["gb18030", "big5", "cp1252"]
    if len(sample) % 2 == 0 or len(sample) > 1000:  # a longer one may be truncated
        names += ["utf-16-le", "utf-16-be"]
    scores = {name: _score(_decode(part, name), name) for name in names}
    best = max(names, key=lambda name: scores[name])
    characters = len(_NON_ASCII.findall(_decode(part, best)))
    match = None
    if scores[best] < _MIN_SCORE and characters >= _MIN_CHARACTERS:
        match = from_bytes(part).best()
    return match.encoding if match else best


def _score(text: str, name: str) -> float:
    """Return the share of the characters beyond ASCII that are usual in an encoding."""
    characters = _NON_ASCII.findall(text)
    if name == "cp1252":
        usual = sum(len(match[0]) for match in _WESTERN.finditer(text))
    else:
        usual = sum(map(_frequent().__contains__, characters))
    # GB18030 has two levels of characters; those of the first are usual, if not frequent.
    known = len(text.encode("gb2312", "ignore")) - len(text) if name == "gb18030" else 0
    faults = len(_FAULT.findall(text))
    return (0.8 * usual + 0.2 * known - 5 * faults) / max(1, len(characters))


@cache
def _frequent() -> frozenset[str]:
    return frozenset(_FREQUENT + OpenCC("s2t").convert(_FREQUENT) + _PUNCTUATION)
