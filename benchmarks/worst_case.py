"""``python -m benchmarks.worst_case``: search for the requests that cost the most CPU time.

An evolutionary search over the parameters of generated requests: number, length and kind of texts,
blanks, choices, history, lexicon, context, ``top_k``. It keeps the costliest requests per request
and per byte of the body, and changes them. Each request has a new text, so that no cache helps. CPU
seconds are those of the process until it rests, so other work on the machine hardly changes them.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.machine import provenance
from benchmarks.processes import ROOT, pin_client
from benchmarks.systems import System, lacuna
from benchmarks.target import FellError, Target, attacked
from service.settings import Settings
from training.cached_json import check_writable, write_json
from training.evaluation.report import table

Luck = random.Random
Body = dict[str, Any]

# Kinds of characters, each drawn by itself; most are not to be found in training text.
_EMOJI = ("\U0001f469\u200d\U0001f4bb", "\U0001f1e6", "\u2764\ufe0f", "\U0001f44d\U0001f3fd")
_WORDS = ("the", "of", "and", "to", "in", "is", "that", "for", "it", "was", "on", "are", "with")


def _any_character(luck: Luck) -> str:
    number = luck.randrange(0x20, 0x110000 - 0x800)
    return chr(number if number < 0xD800 else number + 0x800)


KINDS: dict[str, Callable[[Luck], str]] = {
    "words": lambda luck: luck.choice(_WORDS) + " ",
    "letters": lambda luck: luck.choice("etaoinshrdlu"),
    "capitals": lambda luck: luck.choice("QXZJK"),
    "digits": lambda luck: luck.choice("0123456789"),
    "punctuation": lambda luck: luck.choice("'-.,;:!?()\"/"),
    "spaces": lambda luck: luck.choice(" \t\u3000"),
    "lines": lambda luck: luck.choice("a\n"),
    "Chinese": lambda luck: chr(luck.randrange(0x4E00, 0x5000)),
    "rare Chinese": lambda luck: chr(luck.randrange(0x20000, 0x2A000)),
    "emoji": lambda luck: luck.choice(_EMOJI),
    "marks": lambda luck: luck.choice("\u0300\u0316\u0327\u0344\u0345\u0f73\u0f75\u0f81\u3099"),
    "marked letters": lambda luck: luck.choice("aeo") + "\u0301\u0323",
    "Korean parts": lambda luck: luck.choice("\u1100\u1161\u11a8"),
    "ligatures": lambda luck: luck.choice("\ufdfa\ufb03\u2126\u1e9b\u1fb7"),
    "any": _any_character,
}
ROUTES = ("/predict", "/cloze", "/score")
_MOST = {
    "texts": 64,
    "characters": 10_000,
    "blanks": 64,
    "choices": 256,
    "choice_characters": 4_000,
    "top_k": 100,
    "history": 20_000,
    "words": 256,
    "context": 10_000,
    "details": 1,
    "fillings": 16,
}
_OPTIONAL = ("choices", "history", "words", "context", "details")
_MOST_BYTES = 1_000_000
# Requests that are changed: so many of each objective.
_ELITE, _FRESH_SHARE, _PATIENCE_SECONDS = 6, 0.25, 90.0


@dataclass(frozen=True, slots=True)
class Genes:
    """The parameters of a request; lengths are code points of each text, choice and so on."""

    route: str
    kind: str
    history_kind: str
    choice_kind: str
    texts: int
    characters: int
    blanks: int  # of each text; 0 choices mean open ones
    choices: int
    choice_characters: int
    top_k: int
    history: int
    words: int  # of a lexicon, and as many that are blocked
    context: int
    details: int
    fillings: int


@dataclass(frozen=True, slots=True)
class Trial:
    """One request and its cost; `status` 0 is a process that died or did not answer."""

    genes: Genes
    status: int
    size: int  # bytes of the body
    cpu_seconds: float

    @property
    def per_byte(self) -> float:
        """CPU seconds for each byte of the body."""
        return self.cpu_seconds / self.size

    @property
    def is_admitted(self) -> bool:
        """True unless it was refused; after the deadline, the work was done as well."""
        return not 400 <= self.status < 500


def random_genes(luck: Luck) -> Genes:
    """Return parameters, most of them small in some and large in other places."""
    route, *kinds = luck.choice(ROUTES), *luck.choices(list(KINDS), k=3)
    sizes = {name: round(most ** luck.random()) for name, most in _MOST.items()}
    for name in _OPTIONAL:
        sizes[name] *= luck.randrange(2)
    return Genes(route, kinds[0], kinds[1], kinds[2], **sizes)


def mutated(genes: Genes, luck: Luck) -> Genes:
    """Return *genes* with one to three parameters changed, within the limits."""
    for field in luck.sample(fields(Genes), luck.randint(1, 3)):
        value = getattr(genes, field.name)
        if field.name == "route":
            value = luck.choice(ROUTES)
        elif isinstance(value, str):
            value = luck.choice(list(KINDS))
        else:
            changed = round(value * luck.choice((0, 0.25, 0.5, 0.9, 1.1, 2, 4))) + luck.randint(
                0, 2
            )
            least = 0 if field.name in _OPTIONAL else 1
            value = min(max(changed, least), _MOST[field.name])
        genes = replace(genes, **{field.name: value})
    return genes


def body_of(genes: Genes, seed: int) -> Body:
    """Return the body of a request; another *seed* shares no text with it."""
    luck = Luck(seed)
    texts = []
    for number in range(genes.texts):
        text = f"{seed} {number} " + _fill(genes.kind, genes.characters, luck)
        if genes.route == "/cloze":
            size, parts = len(text), genes.blanks + 1
            cuts = [number * size // parts for number in range(parts + 1)]
            text = " __ ".join(text[start:end].strip("_") for start, end in pairwise(cuts))
        texts.append(text[: _MOST["characters"]])
    body: Body = {"text": texts}
    if genes.route == "/score":
        body["context"] = f"{seed} " + _fill(genes.history_kind, genes.context - 12, luck)
        return body | {"details": genes.details > 0}
    body["top_k"] = genes.top_k
    if genes.history:
        body["history"] = f"{seed} " + _fill(genes.history_kind, genes.history - 12, luck)
    if genes.words:
        body["lexicon"] = _words(genes.history_kind, genes.words, 48, luck)
        body["block"] = _words(genes.choice_kind, genes.words, 48, luck)
    if genes.route == "/cloze":
        body["fillings"] = genes.fillings
        if genes.choices:
            size = genes.choice_characters
            body["choices"] = _words(genes.choice_kind, genes.choices, size, luck)
    return body


def _words(kind: str, count: int, size: int, luck: Luck) -> list[str]:
    """Return different words of one line, each of at most a few characters more than *size*."""
    parts = (" ".join(_fill(kind, size, luck).split()) for _ in range(count))
    return [f"{number:x}{part}" for number, part in enumerate(parts)]


def _fill(kind: str, size: int, luck: Luck) -> str:
    """Return *size* characters; only some hundred of them are drawn, then they repeat."""
    drawn = "".join(KINDS[kind](luck) for _ in range(min(max(size, 0), 400)))
    return (drawn * (size // max(len(drawn), 1) + 1))[: max(size, 0)]


def first_genes() -> list[Genes]:
    """Return parameters to begin with: the largest of each route, and short texts of blanks."""
    kinds = ("letters", "letters", "letters")
    largest = [Genes(route, *kinds, **_MOST) for route in ROUTES]  # type: ignore[arg-type]
    few: dict[str, Any] = {"texts": 1, "characters": 1} | dict.fromkeys(_OPTIONAL, 0)
    return [*largest, replace(largest[1], **few), replace(largest[1], choices=0)]


def proposal(tried: Sequence[Trial], luck: Luck) -> Genes:
    """Return new parameters: fresh ones, or those of one of the costliest requests, changed."""
    best = [*_top(tried, lambda each: each.cpu_seconds), *_top(tried, lambda each: each.per_byte)]
    first = first_genes()
    if len(tried) < len(first):
        return first[len(tried)]
    if not best or luck.random() < _FRESH_SHARE:
        return random_genes(luck)
    return mutated(luck.choice(best).genes, luck)


def _top(tried: Sequence[Trial], cost: Callable[[Trial], float]) -> list[Trial]:
    admitted = {each.genes: each for each in tried if each.is_admitted}
    return sorted(admitted.values(), key=cost, reverse=True)[:_ELITE]


def search(system: System, seconds: float, seed: int) -> dict[str, Any]:
    """Search for *seconds*, on a new process whenever one dies; return the costliest requests."""
    luck, tried, killers = Luck(seed), list[Trial](), list[Trial]()
    cores, end = pin_client(), time.monotonic() + seconds
    figures: dict[str, Any] = {"peak_mib": 0, "livez_seconds": 0.0}
    while time.monotonic() < end:
        with (
            tempfile.TemporaryDirectory() as folder,
            suppress(FellError),
            attacked(system, Path(folder), cores) as target,
        ):
            limits = json.loads(target.ask("/model")[1])["limits"]
            while time.monotonic() < end and target.server.first.poll() is None:
                tried.append(_try(target, proposal(tried, luck), len(tried)))
        if target.server.first.poll() == -9:
            killers.append(tried[-1])
        figures = {name: max(value, target.figures[name]) for name, value in figures.items()}
    refused = [each for each in tried if not each.is_admitted]
    refused.sort(key=lambda each: each.cpu_seconds, reverse=True)
    lists = {
        "per_request": _top(tried, lambda each: each.cpu_seconds),
        "per_byte": _top(tried, lambda each: each.per_byte),
        "refused": refused[:_ELITE],
        "killers": killers,
    }
    rows = {name: [asdict(each) for each in trials] for name, trials in lists.items()}
    return {"limits": limits, "tried": len(tried), **figures, **rows}


def _try(target: Target, genes: Genes, number: int) -> Trial:
    while True:
        body = json.dumps(body_of(genes, 100_000 + number), ensure_ascii=False).encode()
        if len(body) <= _MOST_BYTES:
            break
        fewer = {name: getattr(genes, name) * 3 // 4 for name in ("texts", "choices")}
        genes = replace(genes, **fewer | {"texts": max(1, fewer["texts"])})
    status, seconds = target.cpu_of(genes.route, body, timeout=_PATIENCE_SECONDS)
    return Trial(genes, status, len(body), seconds)


def cost_table(found: dict[str, Any]) -> str:
    """Return the costliest requests of each kind."""
    rows = []
    for name in ("per_request", "per_byte", "refused", "killers"):
        for each in found[name]:
            genes = " ".join(f"{key}={value}" for key, value in each["genes"].items())
            seconds, size = each["cpu_seconds"], each["size"]
            per_byte = f"{1e6 * seconds / size:,.0f}"
            rows.append((name, each["status"], size, f"{seconds:.3f}", per_byte, genes))
    return table(rows, ("list", "status", "bytes", "CPU seconds", "µs a byte", "request"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Search, print the costliest requests and write JSON; 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.worst_case", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--old", type=Path, metavar="PATH", help="ask the service of this checkout instead")
    add("--seconds", type=float, default=300, help="default: 300")
    add("--seed", type=int, default=1, help="default: 1")
    add("--output", type=Path, required=True, metavar="FILE", help="JSON file to write")
    options = parser.parse_args(arguments)
    check_writable(options.output)
    directory = options.old or ROOT
    found = search(
        lacuna("old" if options.old else "new", directory), options.seconds, options.seed
    )
    if not options.old:  # what the service takes for the most work that it admits
        found["max_work_seconds"] = Settings.model_fields["max_work_seconds"].default
    write_json(options.output, {**provenance(directory), "seed": options.seed, **found})
    sys.stdout.write(cost_table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
