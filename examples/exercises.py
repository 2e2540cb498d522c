"""Make an exercise for learners from a Chinese or English text, with a Lacuna service.

Each sentence loses a word and offers it among three others. They have its form, fit elsewhere, and
are improbable here.

    python exercises.py < text.txt
"""

import argparse
import json
import math
import re
import sys
import urllib.error
import urllib.request
from typing import Any

SENTENCE = re.compile(r"[^.!?。！？\n]+[.!?。！？]+[\"”’]?")
ENGLISH, CHINESE = re.compile(r"\b[a-z]{4,}\b"), re.compile("[一-鿿]{2}")
ENDING = re.compile("(ing|ed|ly|s)?$")
BLANK = "____"
# An option is wrong if the right word is so many times as probable.
RATIO = 30


def main() -> None:
    """Print numbered sentences with their options, then the key."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of the service")
    url = parser.parse_args().url
    sys.stdin.reconfigure(encoding="utf-8-sig")
    sentences = [each.strip() for each in SENTENCE.findall(sys.stdin.read().replace(BLANK, ""))]
    blanks = [each for sentence in sentences if (each := hide(url, sentence))]
    fitting = {text: set(fill(url, text, top_k=20)) for text, _ in blanks}
    pool = {word for _, word in blanks}.union(*fitting.values())
    key = list[str]()
    for text, word in blanks:
        alike = [each for each in pool - fitting[text] if form(each) == form(word)]
        probs = fill(url, text, choices=[word, *sorted({*alike} - {word})[:255]])
        wrong = [each for each in probs if probs[each] * RATIO < probs[word]]
        if len(wrong) >= 3:
            options = sorted([word, *wrong[:3]])
            key.append(f"{len(key) + 1} {'ABCD'[options.index(word)]}")
            print(f"{len(key)}. {text}")
            print("  ", "   ".join(map(". ".join, zip("ABCD", options, strict=True))))
    print("Key:", ", ".join(key))


def hide(url: str, sentence: str) -> tuple[str, str] | None:
    """Replace the least predictable word, so no function word. The first word has no context."""
    details = ask(url, "score", text=sentence, details=True)["details"]
    words = [each.span() for each in ENGLISH.finditer(sentence)]
    words += [(each["start"], each["end"]) for each in details if CHINESE.fullmatch(each["text"])]

    def log_prob(word: tuple[int, int]) -> float:
        inside = [each for each in details if word[0] <= each["start"] < word[1]]
        return math.fsum(each["log_probability"] for each in inside)

    start, end = min([word for word in words if word[0]], key=log_prob, default=(0, 0))
    return (sentence[:start] + BLANK + sentence[end:], sentence[start:end]) if end else None


def form(word: str) -> object:
    """Return what exchangeable words have in common: in English their ending."""
    if CHINESE.fullmatch(word):
        return CHINESE
    return ENDING.findall(word)[0] if ENGLISH.fullmatch(word) else None


def fill(url: str, text: str, **options: Any) -> dict[str, float]:
    """Return words for the only blank with their probabilities, the most probable first."""
    (blank,) = ask(url, "cloze", text=text, blank=BLANK, **options)["blanks"]
    return {each["word"]: each["probability"] for each in blank["candidates"]}


def ask(url: str, path: str, **body: Any) -> Any:
    """Ask a service about one text."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/{path}", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["results"][0]
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{error}: {error.read().decode()}") from error


if __name__ == "__main__":
    main()
