"""Who is measured: how each is started, what it can answer, and how its answers are checked."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.process import Server, ServerError
from model.checkpoint import load_checkpoint
from model.runtime import initial_states, open_runtime
from model.text import normalise
from model.tokenizer import START

ROOT = Path(__file__).resolve().parent.parent
# The peers' own environment, made by `make bench`; thrown away at will.
PEERS_PYTHON = ROOT / "benchmarks" / ".venv" / "bin" / "python"
START_SECONDS = 120.0
# An int8 network orders near ties otherwise than the product's int8 network does.
_AGREEMENT = {"fp32": 0.9, "int8": 0.7}


@dataclass(frozen=True, slots=True)
class EvaluatedSystem:
    """One program to measure.

    Attributes:
        name: in tables.
        routes: what it answers.
        arguments: of its Python; ``{port}`` and ``{checkpoint}`` are filled in.
        python: its interpreter.
        threads: torch threads, by OMP_NUM_THREADS; None leaves that variable out.
        tokens: the precision in which it predicts tokens of the same checkpoint, or None where it does not.
        metrics: whether it has Lacuna's ``/metrics``.
    """

    name: str
    routes: tuple[str, ...]
    arguments: tuple[str, ...]
    python: Path = field(default=Path(sys.executable))
    threads: int | None = None
    tokens: str | None = None
    metrics: bool = False

    def start(self, port: int, cores: str, checkpoint: Path, log: Path) -> Server:
        """Start it on *port*, pinned to *cores*."""
        command = [str(self.python)]
        command += [part.format(port=port, checkpoint=checkpoint) for part in self.arguments]
        # What Lacuna is told by the caller's environment no other contestant would heed.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("LACUNA_")
        }
        environment |= {
            "PYTHONPATH": str(ROOT),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        if self.threads is not None:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        return Server(command, port, cores, environment, ROOT, log)

    def missing(self) -> str | None:
        """Why it cannot be started here, if it cannot."""
        return None if self.python.exists() else "its environment is missing; make bench makes it"


_PORT_AND_CHECKPOINT = ("--port", "{port}", "--checkpoint", "{checkpoint}")


def _naive(name: str, threads: int, precision: str) -> EvaluatedSystem:
    chosen = ("--threads", str(threads), "--precision", precision)
    arguments = ("-m", "benchmarks.servers.naive", *_PORT_AND_CHECKPOINT, *chosen)
    return EvaluatedSystem(name, ("/predict",), arguments, PEERS_PYTHON, threads, precision)


LACUNA = EvaluatedSystem(
    "lacuna",
    ("/predict", "/cloze"),
    ("-m", "service", *_PORT_AND_CHECKPOINT, "--threads", "1"),
    metrics=True,
)
REFERENCE = EvaluatedSystem(
    "reference",
    ("/predict", "/cloze"),
    ("-m", "benchmarks.servers.reference", *_PORT_AND_CHECKPOINT),
)
CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        LACUNA,
        REFERENCE,
        _naive("naive", 1, "fp32"),
        _naive("naive-2-threads", 2, "fp32"),
        _naive("naive-int8", 1, "int8"),
        EvaluatedSystem(
            "litserve",
            ("/predict",),
            ("-m", "benchmarks.servers.lit", *_PORT_AND_CHECKPOINT),
            PEERS_PYTHON,
            1,
            "fp32",
        ),
        EvaluatedSystem(
            "fill-mask",
            ("/cloze",),
            ("-m", "benchmarks.servers.fill_mask", *_PORT_AND_CHECKPOINT),
            PEERS_PYTHON,
            1,
        ),
    )
}

FIRST_QUESTION: Mapping[str, Mapping[str, Any]] = {
    "/predict": {"text": "How are you "},
    "/cloze": {"text": "我的手机坏了,我打算[MASK]一部新手机。"},
}


def has_five_candidates(answer: Any) -> bool:
    """Whether an answer to one of `FIRST_QUESTION` has the shape that the contract says."""
    (result,) = answer["results"]
    candidates = result["blanks"][0]["candidates"] if "blanks" in result else result["candidates"]
    return len(candidates) == 5 and all(
        0 <= candidate["probability"] <= 1 for candidate in candidates
    )


def top_tokens(checkpoint: Path, texts: Sequence[str]) -> list[str]:
    """What the product's own runtime holds for the most probable token after each text, among tokens with a surface."""
    loaded = load_checkpoint(checkpoint)
    runtime = open_runtime(loaded)
    tokenizer = loaded.tokenizer
    hidden = np.array([not surface.strip() for surface in tokenizer.surfaces])
    found = []
    for text in texts:
        tokens = np.array([[START, *tokenizer.encode(normalise(text))]], dtype=np.int64)
        states = initial_states(runtime.config, "forward", 1)
        _, outputs = runtime.advance(
            "forward", states, tokens, np.array([tokens.shape[1]], dtype=np.int64)
        )
        scores = runtime.next_log_probabilities(outputs[:, -1])[0]
        scores[hidden] = -np.inf
        found.append(tokenizer.surfaces[int(scores.argmax())].rstrip())
    return found


def check_tokens(
    contestant: EvaluatedSystem, server: Server, texts: Sequence[str], expected: Sequence[str]
) -> float:
    """Whether a peer computes the same network: its first candidates against :func:`top_tokens`.

    Returns:
        Share of texts with the same most probable token.

    Raises:
        ServerError: the share is too low for the same weights.
    """
    answers = [server.ask("/predict", {"text": text}) for text in texts]
    found = [answer["results"][0]["candidates"][0]["append"] for answer in answers]
    share: float = sum(mine == theirs for mine, theirs in zip(expected, found, strict=True)) / len(
        texts
    )
    if share < _AGREEMENT[contestant.tokens or "fp32"]:
        raise ServerError(
            f"{contestant.name} agrees with the product on {share:.0%} of most probable tokens only"
        )
    return share
