"""Raw lines to clean lines: normal form, masked contacts, long lines and documents divided.

The normal form is that of a request, but for line ends, which become spaces, and private use and
replacement characters, which go.
"""

import re
from collections.abc import Iterator

from model.text import HAN, LETTER, normalise

# A line of more than this many times the limit is a document; each of its sentences is a line.
DOCUMENT_LINES = 4
MIN_LIMIT = 16
MASKED_MAIL = "name@example.com"

# Private use, replacement characters, halves of pairs, and codes that are no characters.
_NO_TEXT = re.compile("[\ud800-\udfff\ufffc-\uffff\ue000-\uf8ff\U000f0000-\U0010ffff]")
_MAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}")
_PHONE = re.compile(
    r"(?<![\d.,])(?:"
    r"\+\d{1,3}[-. ]?(?:\(?\d{1,4}\)?[-. ]?){1,5}\d{2,}"  # international
    r"|\(?0\d{2,3}\)?[- ]?\d{3,4}[- ]?\d{4}"  # with an area code
    r"|(?:1[-. ])?\(?\d{3}\)?[-. ]\d{3}[-. ]\d{4}"  # 3-3-4
    r"|1\d{2}[- ]\d{4}[- ]\d{4}"  # 3-4-4
    r"|\d{3}-\d{4}"  # 3-4
    r"|\d{7,15}"  # unbroken
    r")(?![\d]|[.,]\d)"
)
# What all telephone numbers without + have, found fast
_LONG_NUMBER = re.compile(r"\d[\d. ()-]{5,}\d")
_DIGIT = re.compile(r"\d")
# The end of a sentence that another follows: not after a title or an initial, nor before a small
# letter.
_SENTENCE_BREAK = re.compile(
    rf"(?:[。！？]+|(?<=[{HAN}])[.!?]+(?![0-9A-Za-z]))[\"'”’」』）)\]]*\s*"
    r"|(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bRev)(?<!\bHon)(?<!\bCapt)(?<!\bCol)"
    r"(?<!\bGen)(?<!\bProf)(?<!\b[A-Z])[.!?]+[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-Z0-9])"
)
# The end of a line that ends a sentence
ENDS_SENTENCE = re.compile(r"[.!?。！？…~～][\"'”’」』）)\]]*\s*$")
# The end of a sentence, with closing quotes and the space after it, at which a long line is split.
_SENTENCE_END = re.compile(r"(?:[。！？…；]|[.!?;](?=[\"'”’)\]]*\s))[\"'”’」』）)\]]*\s*")
_SOFT_BREAK = re.compile(r"[，、：,:]\s*|\s+")


def clean(text: str, max_characters: int, *, split_sentences: bool = False) -> list[str]:
    """Make the training lines of one raw line; none if it contains no letter.

    The line is brought into normal form. Mail addresses and telephone numbers are masked. A line of
    more than *max_characters* code points is split at sentence ends, else at a comma or space, else
    at the limit. With *split_sentences*, and in a document, each sentence is a line. One that
    is too long, perhaps as the text has no marks, is split into parts of a quarter of the limit.
    """
    if not text.isascii():
        text = _NO_TEXT.sub("", text)
    line = " ".join(normalise(text).split())
    if not LETTER.search(line):
        return []
    line = mask_contacts(line)
    lines, limit = [line], max_characters
    if split_sentences or is_document(line, max_characters):
        lines = sentences(line)
        limit = max(MIN_LIMIT, max_characters // DOCUMENT_LINES)
    elif len(line) <= max_characters:
        return lines
    parts = [
        part.strip()
        for each in lines
        for part in ([each] if len(each) <= max_characters else split_line(each, limit))
    ]
    return [part for part in parts if LETTER.search(part)]


def is_document(line: str, max_characters: int) -> bool:
    """Return True for a line that is many times as long as the limit."""
    return len(line) > DOCUMENT_LINES * max_characters


def sentences(line: str) -> list[str]:
    """Return the sentences of a clean line, at least one.

    Text without a letter stays with the sentence before it.

    >>> sentences("Mr. Smith left. Who knows why?")
    ['Mr. Smith left.', 'Who knows why?']
    """
    parts: list[str] = []
    begin = start = 0
    for end in [*_sentence_ends(line), len(line)]:
        if LETTER.search(line, start, end):
            begin = start if parts else 0
            parts.append("")
        if parts:
            parts[-1] = line[begin:end].strip()
        start = end
    return parts or [line]


def _sentence_ends(line: str) -> Iterator[int]:
    """Yield the places at which another sentence starts.

    A straight quote after an end mark closes speech if it is an even one; else it opens the next.
    """
    quotes = counted = 0
    for match in _SENTENCE_BREAK.finditer(line):
        end = match.end()
        if '"' in match[0]:
            place = line.index('"', match.start())
            quotes += line.count('"', counted, place)
            counted = place
            if quotes % 2 == 0 and not line[place + 1 : end]:
                end = place
        yield end


def mask_contacts(text: str) -> str:
    """Replace mail addresses by ``name@example.com`` and the digits of telephone numbers by 0.

    Any unbroken run of 7 to 15 digits counts as a telephone number: too much is masked rather than
    too little.
    """
    if "@" in text:
        text = _MAIL.sub(MASKED_MAIL, text)
    if "+" not in text and _LONG_NUMBER.search(text) is None:
        return text
    return _PHONE.sub(lambda match: _DIGIT.sub("0", match[0]), text)


def split_line(text: str, limit: int) -> Iterator[str]:
    """Yield parts of at most *limit* code points that end at sentence ends if there are any."""
    start = 0
    while len(text) - start > limit:
        end = start + limit
        for pattern in (_SENTENCE_END, _SOFT_BREAK):
            # One character more, so that a space just after the limit still ends a sentence.
            ends = [match.end() for match in pattern.finditer(text, start, end + 1)]
            breaks = [place for place in ends if place <= end]
            # A lone early break ("Mr. ") would make a very short line.
            if breaks and breaks[-1] > start + limit // 4:
                end = breaks[-1]
                break
        yield text[start:end]
        start = end
    yield text[start:]
