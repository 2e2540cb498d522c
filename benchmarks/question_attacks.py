"""Attacks by questions: marks, large requests, guesses of what others typed, two tenants.

Each function attacks one fresh service, and raises `FellError` if it succeeds. What the watch sees
counts as well (`benchmarks.target`).
"""

import itertools
import json
import math
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from benchmarks.open_loop import percentile
from benchmarks.target import FellError, Target

# Memory that questions may leave behind: a full cache, and what the allocator keeps.
LEFT_MIB = 160
# Marks may cost so many times the CPU of plain characters of the same size, which are as rare.
MARKS_FACTOR, MARKS_SECONDS = 3, 0.2
# Digits guessed, and the fewest right guesses that are no luck: 24 blind ones reach 12 once in a
# million times, and dozens of figures are tried.
TRIALS, LUCKY = 24, 12
RACE_SECONDS, HOSTILE_CONNECTIONS = 60, 8

Body = dict[str, Any]
Question = tuple[str, Body]
_numbers = itertools.count(10_000)


# 2 and 3: the cost of questions

# Marks that decompose into marks, some of them of class 0, and unmarked characters as rare.
MARKS = {
    "U+0F73": ("\u0f73", "\u0f40"),
    "U+0344": ("\u0344", "\u0531"),
    "mixed": ("\u0f75\u0301\u0316\u0344\u0f81\u0327", "\u0f40\u0531\u0532\u0533\u0f41\u0534"),
    "in turn": ("\u0f73" + "\u0301" * 29 + "a", "\u0f40" + "\u0531" * 29 + "a"),
}


def _shapes(fill: Callable[[int], str]) -> Iterator[tuple[str, str, Body]]:
    """Yield name, path and body of questions made of *fill* in each place."""
    many = [f"{next(_numbers)} ____" for _ in range(64)]
    yield "history", "/predict", {"text": many, "history": fill(20_000)}
    yield "history of blanks", "/cloze", {"text": many, "history": fill(20_000)}
    yield "text", "/predict", {"text": fill(10_000)}
    yield "texts", "/score", {"text": [fill(500) for _ in range(64)]}
    yield "context", "/score", {"text": ["a", "b"] * 32, "context": fill(10_000), "details": True}
    yield "lexicon", "/predict", {"text": many, "lexicon": [fill(64) for _ in range(256)]}
    yield "blocked words", "/cloze", {"text": many[:9], "block": [fill(64) for _ in range(256)]}
    yield "choices", "/cloze", {"text": "a ____ b", "choices": [fill(200) for _ in range(64)]}
    marker = fill(3000)
    yield "marker", "/cloze", {"text": f"a{marker} b{marker}", "blank": marker}


def marks(target: Target) -> None:
    """Ask with marks in every place; the CPU time is to be near that of plain characters."""
    findings, worst = [], 0.0

    def fill(unit: str, size: int) -> str:
        return (str(next(_numbers)) + unit * (size // len(unit)))[:size]

    for name, (mark, plain) in MARKS.items():
        pairs = zip(
            _shapes(lambda size, unit=plain: fill(unit, size)),  # type: ignore[misc]
            _shapes(lambda size, unit=mark: fill(unit, size)),  # type: ignore[misc]
            strict=True,
        )
        for (shape, path, usual), (_, _, hostile) in pairs:
            _, expected = target.cpu_of(path, usual)
            _, found = target.cpu_of(path, hostile, timeout=90)
            worst = max(worst, found)
            if found > MARKS_FACTOR * expected + MARKS_SECONDS:
                findings.append(f"{name} in {shape}: {found:.1f} s of CPU, plain {expected:.2f}")
        if findings:
            break
    target.figures["worst_cpu_seconds"] = round(worst, 2)
    if findings:
        raise FellError("; ".join(findings))


def _letters(size: int) -> str:
    luck = random.Random(next(_numbers))  # noqa: S311 - a text is no secret
    return "".join(luck.choices("etaoinshrdlu", k=size))


# Large requests within the limits of single fields; *share* makes them smaller.


def long_choices(share: float = 1) -> Question:
    """Return 256 choices of 3,900 letters."""
    size = round(3900 * share)
    return "/cloze", {"text": "It is ____.", "choices": [_letters(size) for _ in range(256)]}


def long_scores(share: float = 1) -> Question:
    """Return 64 texts of 10,000 letters to score."""
    return "/score", {"text": [_letters(round(10_000 * share)) for _ in range(64)]}


def many_choices(share: float = 1) -> Question:
    """Return 64 texts of 64 blanks with 256 short choices; below a 64th, one text of fewer."""
    texts, choices = math.ceil(64 * share), math.ceil(256 * min(1, 64 * share))
    text = [" ".join([_letters(3), *["__"] * 64]) for _ in range(texts)]
    return "/cloze", {"text": text, "choices": [f"{number:x}" for number in range(choices)]}


def long_texts(share: float = 1) -> Question:
    """Return 64 texts of 10,000 letters to continue, with a history."""
    text = [_letters(round(10_000 * share)) for _ in range(64)]
    return "/predict", {"text": text, "top_k": 100, "history": _letters(20_000)}


def open_blanks(share: float = 1) -> Question:
    """Return 64 open blanks with 100 candidates each."""
    text = " ".join([_letters(3), *["__"] * round(64 * share)])
    return "/cloze", {"text": text, "top_k": 100}


def large_choices(target: Target) -> None:
    """Ask the largest `long_choices` that is admitted, alone and 16 at once."""
    _ask_large(target, long_choices)


def large_scores(target: Target) -> None:
    """Ask the largest `long_scores` that is admitted, alone and 16 at once."""
    _ask_large(target, long_scores)


def large_blanks(target: Target) -> None:
    """Ask the largest `many_choices` that is admitted, alone and 16 at once."""
    _ask_large(target, many_choices)


def large_texts(target: Target) -> None:
    """Ask the largest `long_texts` that is admitted, alone and 16 at once."""
    _ask_large(target, long_texts)


def queued_choices(target: Target) -> None:
    """Ask the whole `long_choices` 300 times at once, with a character of four bytes in each."""
    start = target.resident_mib()

    def ask(_: int) -> int:
        path, body = long_choices()
        body["choices"] = [f"\U0001f600{choice}" for choice in body["choices"]]
        return target.ask(path, body, timeout=15)[0]

    with ThreadPoolExecutor(300) as pool:
        counts = Counter(pool.map(ask, range(300)))
    target.figures["status"] = {str(each): count for each, count in sorted(counts.items())}
    target.must_settle(start, LEFT_MIB)


def _ask_large(target: Target, make: Callable[[float], Question]) -> None:
    start = target.resident_mib()
    share, status, seconds = _largest(target, make)
    target.figures |= {"share": share, "cpu_seconds": round(seconds, 2)}
    with ThreadPoolExecutor(16) as pool:
        statuses = pool.map(lambda _: target.ask(*make(share))[0], range(16))
        counts = Counter([status, *statuses])
    target.figures["status"] = {str(each): count for each, count in sorted(counts.items())}
    target.rest(30)
    target.must_settle(start, LEFT_MIB)


def _largest(
    target: Target, make: Callable[[float], Question], key: str = ""
) -> tuple[float, int, float]:
    """Return the largest share, a power of a half, that is not refused; its status and cost."""
    for exponent in range(12):
        status, seconds = target.cpu_of(*make(0.5**exponent), key)
        if status not in (422, 429):
            break
    return 0.5**exponent, status, seconds


# 4: what others typed


def guess_without_keys(target: Target) -> None:
    """Guess digits that another client typed, with keys waived."""
    _guess(target, ("", None), ("", None))


def guess_with_one_key(target: Target) -> None:
    """Guess digits that another user of the same key typed."""
    status, _, _ = target.ask("/predict", {"text": "a", "user": "victim"}, "honest")
    users = ("victim", "attacker") if status == 200 else (None, None)
    _guess(target, ("honest", users[0]), ("honest", users[1]))


Person = tuple[str, str | None]  # key and user


def _guess(target: Target, victim: Person, attacker: Person) -> None:
    """Let the victim type a digit, and the attacker try all ten: each figure picks one of them."""
    hits: Counter[str] = Counter()
    luck = random.Random(4)  # noqa: S311 - repeatable
    ways: dict[str, Callable[[str, int], Question]] = {
        "text": lambda stem, digit: ("/predict", {"text": f"{stem}{digit}"}),
        "blank": lambda stem, digit: ("/cloze", {"text": f"{stem}{digit} [MASK]"}),
        "history": lambda stem, digit: ("/predict", {"text": "a b", "history": f"{stem}{digit}"}),
        "context": lambda stem, digit: ("/score", {"text": "a", "context": f"{stem}{digit}"}),
    }
    for (way, make), _ in itertools.product(ways.items(), range(TRIALS)):
        secret, stem = luck.randrange(10), f"{_letters(12)} my code is "
        for digit in ("", secret):
            for _ in range(2):
                _ask_as(target, victim, *make(stem, digit))  # type: ignore[arg-type]
        _ask_as(target, attacker, *make(stem, ""))  # type: ignore[arg-type]
        seen = {}
        for digit in luck.sample(range(10), 10):
            seen[digit] = _ask_as(target, attacker, *make(stem, digit))
        for name in seen[secret]:
            for pick in (max, min):
                best = pick(each[name] for each in seen.values())
                tied = [digit for digit, each in seen.items() if each[name] == best]
                hits[f"{pick.__name__} {name}, {way}"] += luck.choice(tied) == secret
    wall = {name: hits.pop(name) for name in list(hits) if "seconds on the wire" in name}
    target.figures["right_of_24_by_the_clock"] = max(wall.values())
    target.figures["right_of_24"] = max(hits.values())
    leaks = [f"{name}: {right}" for name, right in hits.most_common() if right >= LUCKY]
    if leaks:
        raise FellError(
            f"{len(leaks)} figures show what another one typed; of {TRIALS} digits, blind guesses"
            f" find 2.4, {'; '.join(leaks[:3])}"
        )


def _ask_as(target: Target, person: Person, path: str, body: Body) -> dict[str, float]:
    key, user = person
    began = time.perf_counter()
    status, answer, headers = target.ask(path, body | ({"user": user} if user else {}), key)
    seen = {"seconds on the wire": time.perf_counter() - began}
    if status != 200:
        raise FellError(f"a short question of {path} got {status}")
    for name, value in json.loads(answer)["usage"].items():
        seen[name] = float(value or 0)
    for name, value in re.findall(r"(\w+);dur=([\d.]+)", headers.get("server-timing", "")):
        seen[f"Server-Timing {name}"] = float(value)
    return seen


# 5: two tenants


def starve(target: Target) -> None:
    """Ask costly questions without end, while another key presses a key a second."""
    # Whole ones of the other kinds end a service without bounds, as attacks of their own show.
    first = {open_blanks: 1.0, long_texts: 1.0, long_scores: 0.125}
    kinds: list[Callable[[], Question]] = []
    worst = 0.0
    for make, whole in first.items():
        share, _, seconds = _largest(target, lambda part: make(part * whole), "hostile")  # noqa: B023
        kinds.append(partial(make, share * whole))
        worst = max(worst, seconds)
    target.figures["worst_cpu_seconds_admitted"] = round(worst, 2)
    ended = threading.Event()
    hostile: Counter[int] = Counter()

    def flood(first: int) -> None:
        for number in itertools.count(first):
            if ended.is_set():
                return
            hostile[target.ask(*kinds[number % len(kinds)](), key="hostile", timeout=15)[0]] += 1
            time.sleep(0.01)

    threads = [threading.Thread(target=flood, args=(each,)) for each in range(HOSTILE_CONNECTIONS)]
    for thread in threads:
        thread.start()
    honest, latencies, text = Counter[int](), [], ""
    try:
        for press in range(RACE_SECONDS):
            began = time.monotonic()
            text = (text if press % 20 else "") + _letters(1 + press % 20 // 19)
            honest[target.ask("/predict", {"text": f"{text}"}, "honest", 15)[0]] += 1
            latencies.append(time.monotonic() - began)
            time.sleep(max(0.0, 1 - latencies[-1]))
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    for name, counts in (("honest", honest), ("hostile", hostile)):
        target.figures[name] = {str(each): count for each, count in sorted(counts.items())}
    target.figures["honest_p99_seconds"] = round(percentile(latencies, 0.99), 3)
    if refused := honest.total() - honest[200]:
        raise FellError(f"{refused} of {honest.total()} key presses of the other key: {honest}")
