"""Bad and odd input, and the status that it must get.

``tests/end_to_end/test_service_process.py`` sends it to a service, and ``tests/golden`` compares
the
problems with recorded ones.
"""

import json
from dataclasses import dataclass, field
from typing import Any

# Stands in every text of a user; must never come back in an error, nor be logged.
SECRET = "Geheimnis鬼"
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Input:
    """One kind: a name, a request, the status it gets."""

    kind: str
    status: int
    body: bytes = b""
    path: str = "/predict"
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=lambda: dict(_JSON))
    chunked: bool = False


def predict(kind: str, status: int, **values: Any) -> Input:
    """A JSON body for /predict, with *values* added to ``text``."""
    return _with("/predict", kind, status, {"text": SECRET, **values})


def cloze(kind: str, status: int, **values: Any) -> Input:
    """A JSON body for /cloze."""
    return _with("/cloze", kind, status, {"text": f"{SECRET} ____ b", **values})


def raw(kind: str, status: int, body: bytes | str, **options: Any) -> Input:
    """A body as it is."""
    return Input(kind, status, body.encode() if isinstance(body, str) else body, **options)


def _with(path: str, kind: str, status: int, values: dict[str, Any]) -> Input:
    return Input(kind, status, json.dumps(values).encode(), path)


def typed(kind: str, content_type: str) -> Input:
    """A good body with a content type that is refused."""
    return Input(kind, 415, _GOOD, headers={"Content-Type": content_type})


_THREE_MB = json.dumps({"text": SECRET * 250_000}).encode()
_GOOD = json.dumps({"text": SECRET}).encode()
_FIELDS = [f"a{number}" for number in range(50_000)]
_OPTIONAL = ("top_k", "history", "user", "lexicon", "block")
_OF_BLANKS = ("blank", "choices", "fillings")

INPUTS = (
    # 400: no JSON, or no UTF-8
    raw("an empty body", 400, b""),
    raw("plain text", 400, SECRET),
    raw("JSON that stops early", 400, f'{{"text": "{SECRET}'),
    raw("more after the JSON", 400, f'{{"text": "{SECRET}"}} {SECRET}'),
    raw("single quotes", 400, f"{{'text': '{SECRET}'}}"),
    raw("a trailing comma", 400, f'{{"text": "{SECRET}",}}'),
    raw("a comment", 400, f'{{"text": "{SECRET}"}} // {SECRET}'),
    raw("a NUL byte in a string", 400, b'{"text": "a\x00b"}'),
    raw("a line break in a string", 400, b'{"text": "a\nb"}'),
    raw("bytes that are not UTF-8", 400, b'{"text": "caf\xe9"}'),
    raw("UTF-16", 400, json.dumps({"text": SECRET}).encode("utf-16")),
    raw("a surrogate as UTF-8 bytes", 400, b'{"text": "a\xed\xa0\x80b"}'),
    raw("a byte order mark", 400, b"\xef\xbb\xbf" + _GOOD),
    raw("100,000 nested lists", 400, b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    # 404, 405
    raw("an unknown path", 404, _GOOD, path=f"/{'a' * 30}"),
    raw("a trailing slash", 404, _GOOD, path="/predict/"),
    raw("capitals in the path", 404, _GOOD, path="/Predict"),
    raw("a path upwards", 404, b"", path="/docs/../../etc/passwd", method="GET", headers={}),
    raw("GET where POST is meant", 405, b"", method="GET", headers={}),
    raw("a method of its own", 405, _GOOD, method="PROPFIND"),
    raw("POST where GET is meant", 405, _GOOD, path="/readyz"),
    # 413, 415, 421
    raw("the name of another host", 421, _GOOD, headers=_JSON | {"Host": "rebound.example"}),
    raw("3 MB", 413, _THREE_MB),
    raw("3 MB in chunks", 413, _THREE_MB, chunked=True),
    raw("no Content-Type", 415, _GOOD, headers={}),
    typed("text/plain", "text/plain"),
    typed("a form, as curl -d sends it", "application/x-www-form-urlencoded"),
    typed("JSON in another charset", "application/json; charset=gb18030"),
    raw("a compressed body", 415, _GOOD, headers=_JSON | {"Content-Encoding": "gzip"}),
    # 422: the body as a whole
    raw("a list as the body", 422, f'["{SECRET}"]'),
    raw("null as the body", 422, "null"),
    raw("a string as the body", 422, f'"{SECRET}"'),
    raw("no text", 422, "{}"),
    raw("a field that is unknown", 422, f'{{"text": "{SECRET}", "topk": 3}}'),
    raw("a field whose name is a text", 422, f'{{"text": "a", "{SECRET}": 1}}'),
    raw("50,000 unknown fields", 422, json.dumps({"text": "a"} | dict.fromkeys(_FIELDS, 1))),
    raw("a lone surrogate in a field's name", 422, '{"text": "a", "\\ud800": 1}'),
    # 422: text
    predict("text is null", 422, text=None),
    predict("text is a number", 422, text=5),
    predict("text is true", 422, text=True),
    predict("text is an object", 422, text={"text": SECRET}),
    predict("text is NaN", 422, text=float("nan")),
    predict("no texts", 422, text=[]),
    predict("a number among the texts", 422, text=[SECRET, "b", "c", 4]),
    predict("null among the texts", 422, text=[SECRET, None]),
    predict("a list among the texts", 422, text=[[SECRET]]),
    predict("300,000 numbers for texts", 422, text=[1] * 300_000),
    predict("65 texts", 422, text=[SECRET] * 65),
    predict("a text of 10,001 characters", 422, text=SECRET[:1] * 10_001),
    predict("a long text among others", 422, text=["a", SECRET[:1] * 10_001]),
    raw("a lone surrogate", 422, '{"text": "a\\ud800b"}'),
    raw("a lone surrogate among the texts", 422, '{"text": ["a", "\\udc00"]}'),
    raw("surrogates in the wrong order", 422, '{"text": "\\ude00\\ud83d"}'),
    # 422: user
    predict("a user who is a number", 422, user=5),
    predict("an empty user", 422, user=""),
    predict("a user of 129 characters", 422, user=SECRET[:1] * 129),
    predict("a user with a lone surrogate", 422, user=f"{SECRET}\ud800"),
    _with("/score", "a list of users", 422, {"text": SECRET, "user": [SECRET]}),
    # 422: top_k
    predict("top_k is a string", 422, top_k="5"),
    predict("top_k is true", 422, top_k=True),
    predict("top_k is 5.0", 422, top_k=5.0),
    predict("top_k is NaN", 422, top_k=float("nan")),
    predict("top_k is Infinity", 422, top_k=float("inf")),
    predict("top_k is 0", 422, top_k=0),
    predict("top_k is negative", 422, top_k=-1),
    predict("top_k is 101", 422, top_k=101),
    predict("top_k of 400 digits", 422, top_k=10**399),
    raw("top_k of 5,000 digits", 422, f'{{"text": "a", "top_k": {"9" * 5000}}}'),
    # 422: blanks and choices
    cloze("no blank", 422, text=SECRET),
    cloze("one _ is no blank", 422, text=f"{SECRET} _ b"),
    cloze("no blank in the second text", 422, text=["a ____", SECRET]),
    cloze("10,000 blanks", 422, text="x" * 10_000, blank="x"),
    cloze("10,000 blanks in 60,000 characters", 422, text="[MASK]" * 10_000),
    cloze("65 blanks", 422, text="__ " * 65),
    cloze("an empty marker", 422, blank=""),
    cloze("a marker of spaces", 422, blank="  "),
    cloze("a marker that the text lacks", 422, blank=SECRET[::-1]),
    cloze("a marker that is a number", 422, blank=4),
    cloze("choices that are a string", 422, choices=SECRET),
    cloze("no choices", 422, choices=[]),
    cloze("no choices for a blank", 422, choices=[[]]),
    cloze("an empty choice", 422, choices=["a", ""]),
    cloze("a choice twice", 422, choices=["a", SECRET, SECRET]),
    cloze("a number among the choices", 422, choices=["a", 5]),
    cloze("strings and lists among the choices", 422, choices=["a", ["b"]]),
    predict("a history of 20,001 code points", 422, history="a" * 20_001),
    predict("a history that is a list", 422, history=[SECRET]),
    predict("a history with a lone surrogate", 422, history="a\ud800"),
    cloze("257 choices", 422, choices=[f"a{number}" for number in range(257)]),
    cloze("choices of 4,097 code points", 422, choices=["a" * 4_000, "b" * 97]),
    cloze("two lists of choices for one blank", 422, choices=[["a"], ["b"]]),
    cloze("a list of choices a blank, for two texts", 422, text=["a __", "b __"], choices=[["a"]]),
    _with("/predict", "choices for /predict", 422, {"text": SECRET, "choices": ["a"]}),
    _with("/score", "top_k for /score", 422, {"text": SECRET, "top_k": 5}),
    _with("/score", "nothing to score", 422, {"text": ""}),
    # 422: words, letters, corrections, after
    predict("after of 10,001 characters", 422, after="b" * 10_001),
    predict("after is a list", 422, after=["b"]),
    predict("3 corrections", 422, corrections=3),
    predict("corrections that are true", 422, corrections=True),
    predict("no words", 422, words=0),
    predict("9 words", 422, words=9),
    predict("words that are true", 422, words=True),
    predict("letters that are 1", 422, letters=1),
    cloze("letters for /cloze", 422, letters=True),
    # 422: lexicon, block, fillings, context, details
    predict("a lexicon that is a string", 422, lexicon=SECRET),
    predict("null in the lexicon", 422, lexicon=[SECRET, None]),
    predict("a list in the lexicon", 422, lexicon=[[SECRET]]),
    predict("an entry without a word", 422, lexicon=[{"weight": 2}]),
    predict("an entry with an unknown field", 422, lexicon=[{"word": SECRET, "wight": 2}]),
    predict("an entry with a text for a field", 422, lexicon=[{"word": "a", SECRET: 2}]),
    predict("an entry whose word is null", 422, lexicon=[SECRET, {"word": None}]),
    predict("a weight that is a string", 422, lexicon=[{"word": SECRET, "weight": "2"}]),
    predict("a weight that is true", 422, lexicon=[{"word": SECRET, "weight": True}]),
    predict("a weight that is NaN", 422, lexicon=[{"word": SECRET, "weight": float("nan")}]),
    predict("a weight of Infinity", 422, lexicon=[{"word": SECRET, "weight": float("inf")}]),
    raw("a weight of 1e999", 422, '{"text": "a", "lexicon": [{"word": "b", "weight": 1e999}]}'),
    predict("a weight of 0", 422, lexicon=[{"word": SECRET, "weight": 0}]),
    predict("a weight of 1,001", 422, lexicon=["b", {"word": SECRET, "weight": 1001}]),
    predict("an empty word", 422, lexicon=["b", ""]),
    predict("a word of spaces", 422, lexicon=["b", " \u3000"]),
    predict("a word of 65 code points", 422, lexicon=[SECRET[:1] * 65]),
    predict("a word of two lines", 422, lexicon=[f"{SECRET}\nb"]),
    predict("a word with a lone surrogate", 422, lexicon=["b", "\ud800"]),
    predict("a word twice", 422, lexicon=[SECRET, {"word": f"{SECRET} "}]),
    predict("257 words in a lexicon", 422, lexicon=[f"a{number}" for number in range(257)]),
    predict("257 blocked words", 422, block=[f"a{number}" for number in range(257)]),
    predict("5,000 blocked words", 422, block=[f"a{number}" for number in range(5_000)]),
    predict("a blocked word with a weight", 422, block=[{"word": SECRET}]),
    cloze("a blocked word of 65 code points", 422, block=[SECRET[:1] * 65]),
    cloze("no fillings", 422, fillings=0),
    cloze("17 fillings", 422, fillings=17),
    cloze("fillings that are true", 422, fillings=True),
    _with("/predict", "fillings for /predict", 422, {"text": SECRET, "fillings": 2}),
    _with("/score", "a context of 10,001 characters", 422, {"text": "a", "context": "b" * 10_001}),
    _with("/score", "a list of contexts", 422, {"text": "a", "context": [SECRET]}),
    raw("a context with a surrogate", 422, '{"text": "a", "context": "\\ud800"}', path="/score"),
    _with("/score", "details that are 1", 422, {"text": SECRET, "details": 1}),
    # Odd, and answered
    predict("null for every optional field", 200, **dict.fromkeys(_OPTIONAL)),
    cloze("null for every field of a blank", 200, **dict.fromkeys((*_OPTIONAL, *_OF_BLANKS))),
    _with("/score", "null for a context", 200, {"text": SECRET, "context": None, "details": None}),
    predict("a weight that is null", 200, lexicon=[{"word": SECRET, "weight": None}]),
    predict("a weight that is a whole number", 200, lexicon=[{"word": SECRET, "weight": 5}]),
    predict("a word in the lexicon that is blocked", 200, lexicon=[SECRET], block=[SECRET]),
    cloze("a user whose name is a text", 200, user=SECRET),
    predict("an empty text", 200, text=""),
    predict("spaces only", 200, text="   "),
    predict("a NUL, escaped", 200, text="a\x00b"),
    predict("emoji", 200, text="👩‍👩‍👧‍👦 🏳️‍🌈 go"),
    predict("right to left", 200, text="שלום \u202e مرحبا"),
    predict("characters that Unicode leaves unassigned", 200, text="\ufdd0\uffff\U0010ffff"),
    predict("forty accents on one letter", 200, text="e" + "\u0301" * 40),
    predict("a text of 10,000 characters", 200, text="好" * 10_000),
    raw("a field twice: the last one counts", 200, f'{{"text": "{SECRET}", "text": "a"}}'),
    cloze("a blank and nothing else", 200, text="____"),
    cloze("top_k of 101 beside choices, which ignore it", 200, choices=["a", "b"], top_k=101),
    cloze("a choice twice, composed differently", 200, choices=["\u00e9", "e\u0301"]),
    cloze("choices with spaces around them", 200, choices=[" a ", "b"]),
    predict(
        "9,999 marks on a letter, out of order", 200, text="a" + "\u0301" * 5000 + "\u0316" * 4999
    ),
)
