"""Decoders, the steps that they request, and the scheduler that batches these steps.

A decoder answers one query. It never calls the network itself, because one call for many queries is
far cheaper than many calls. It is a generator that yields steps and receives their results:

    def probability_of(token, context):
        (state,) = yield [RunTower("forward", context.initial["forward"], (START,))]
        (probs,) = yield [Score("next", state[context.output["forward"]])]
        return probs[token]

1. ``Scheduler.step`` starts new decoders. Each runs up to its first ``yield``.
2. It stacks the steps of all live decoders, and makes one call of the runtime for each kind.
3. It resumes a decoder whose steps all have results, with one array for each step.
4. The decoder yields further steps, or returns its answer, which ``step`` hands to the caller.
   One that yields no steps waits for another decoder: it is resumed in the next ``step``.

So a decoder reads like code for a single text and needs no locks, and batching is written once.
A batch is what waits when ``step`` is called, without timers. Decoders come and go between any two
rounds. A decoder that raises an error, or requests an impossible step, fails alone.
"""

from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate, islice
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.config import Tower
from model.runtime import Float32Array, Head, Int64Array, Runtime

AnswerT = TypeVar("AnswerT")

# Tokens of one row in one call. A long text takes several rounds, so others need not wait for it.
CHUNK_TOKENS = 64
# Tokens of one call of a tower, padding included: each takes some 30 kB while it runs.
TOWER_TOKENS = 512


@dataclass(slots=True, eq=False)
class RunTower:
    """Run a tower over *tokens* from *state* (S,); the result is the state after them, (S,).

    With *keep_outputs* the result is a pair: the output after each token, (T, H), and that state.
    """

    tower: Tower
    state: Float32Array
    tokens: tuple[int, ...]
    keep_outputs: bool = False


@dataclass(slots=True, eq=False)
class Score:
    """Score all tokens with one head: probabilities of ``next``, else log-probabilities, (V,).

    ``next`` scores the token after a forward output, ``previous`` the token before a backward
    output, and ``gap`` the next token of a gap, after the forward output before it.

    With *reduce* the result is what that function makes of the row at once, and not None: many rows
    that wait are large. It may overwrite the row.
    """

    head: Literal["next", "previous", "gap"]
    output: Float32Array  # (H,)
    reduce: Callable[[Float32Array], Any] | None = None
    # For a gap:
    right: Float32Array | None = None  # backward output of what follows, (H,); None if unknown
    position: int = 0  # tokens of the gap that precede
    kind: int = 0  # WORD, TOKEN or SPAN of model.config


class Expansion(Protocol):
    """Rows that a decoder takes part of a batch with: states, each with a token."""

    rows: int

    def write(self, start: int, states: Float32Array, tokens: Int64Array) -> None:
        """Write the states (N, S), and the tokens to run after them, (N, 1), from a row on."""

    def keep(self, start: int, states: Float32Array, probs: Float32Array) -> None:
        """Keep a copy of states after the tokens, (N, S), and of P(next token), (N, V)."""


@dataclass(slots=True, eq=False)
class Expand:
    """Run the forward tower over one token from each of some states, and score ``next``.

    The results go to the *expansion*.
    """

    expansion: Expansion


@dataclass(slots=True, eq=False)
class Fill:
    """Score the token at index *place* of a whole line, which has ``<blank>`` there, (V,).

    Only a stacked bidirectional network supports this step, and it supports no other. *reduce* is
    as for :class:`Score`.
    """

    tokens: tuple[int, ...]
    place: int
    reduce: Callable[[Float32Array], Any] | None = None


Step = RunTower | Score | Expand | Fill
_Results = Sequence[Any]  # of the rows of a call; None if a row has tokens left
_Kind = Literal["forward", "backward", "fill", "expand", "next", "previous", "gap"]
Decoder = Generator[Sequence[Step], Sequence[Any], AnswerT]


def gather(decoders: Sequence[Decoder[AnswerT]]) -> Decoder[list[AnswerT]]:
    """Run several decoders of one query at the same time and return their answers, in order."""
    answers: dict[int, AnswerT] = {}
    results: dict[int, Any] = dict.fromkeys(range(len(decoders)))  # None starts a decoder
    while results:
        requested: dict[int, Sequence[Step]] = {}
        for index in list(results):
            try:  # arrays that were received are free while the next steps run
                requested[index] = decoders[index].send(results.pop(index))
            except StopIteration as stop:
                answers[index] = stop.value
        if not requested:
            break
        received = yield [step for steps in requested.values() for step in steps]
        flat = iter(received)
        results = {index: list(islice(flat, len(steps))) for index, steps in requested.items()}
        del received, flat
    return [answers[index] for index in range(len(decoders))]


@dataclass(slots=True, eq=False)
class _Live:
    """A decoder that has not finished."""

    ticket: Hashable
    decoder: Decoder[Any]
    results: Any = None  # a list, by index of the step; None: not started
    waiting: dict[int, "_Row"] = field(default_factory=dict)  # by index of the step


@dataclass(slots=True, eq=False)
class _Row:
    """A step that waits for its call; a long RunTower shrinks to the part that is left."""

    live: _Live
    index: int
    step: Any
    outputs: list[Float32Array] = field(default_factory=list)


class Scheduler:
    """Runs many decoders on one runtime. Not thread-safe: one thread owns it.

    For every call of the runtime, *on_call* receives its kind, its rows, and its work: the tokens
    run by ``forward``, ``backward`` or ``fill``, or the rows scored by another head.
    """

    def __init__(
        self, runtime: Runtime, on_call: Callable[[str, int, int], None] = lambda *_: None
    ) -> None:
        self.runtime = runtime
        self._on_call = on_call
        self._live: dict[Hashable, _Live] = {}
        self._finished: list[tuple[Hashable, Any]] = []
        self._vocabulary_size = runtime.sizes.vocabulary_size
        self._output_size = runtime.sizes.output_size
        self._state_size = runtime.sizes.state_size("forward")

    @property
    def pending(self) -> int:
        """Number of decoders that have not finished."""
        return len(self._live)

    def add(self, ticket: Hashable, decoder: Decoder[Any]) -> None:
        """Add a decoder, which :meth:`step` and :meth:`cancel` name by its *ticket*.

        It starts in the next :meth:`step`.

        Raises:
            ValueError: a live decoder has this ticket.
        """
        if ticket in self._live:
            raise ValueError("this ticket belongs to a live decoder")
        self._live[ticket] = _Live(ticket, decoder)

    def cancel(self, ticket: Hashable) -> None:
        """Drop a decoder, if it is live; its steps take part in no further call."""
        if ticket in self._live:
            live = self._live.pop(ticket)
            live.waiting.clear()  # its rows know it: a cycle
            with suppress(Exception):  # an error in its clean-up is of no interest any more
                live.decoder.close()

    def step(self) -> list[tuple[Hashable, Any]]:
        """Run one round: every waiting step takes part in one call, a long RunTower with one chunk.

        Towers run before heads, so a state and its scores take a single round. Return (ticket,
        answer or exception) of each decoder that finished.
        """
        self._finished = []
        for live in list(self._live.values()):
            if not live.waiting:
                self._resume(live)
        for is_head in (False, True):
            for (kind, exponent), rows in self._waiting_rows(is_head).items():
                limit = self.runtime.head_rows if is_head else TOWER_TOKENS >> exponent
                if kind == "fill":  # it does the work of a tower and has the result of a head
                    limit = max(1, min(limit, self.runtime.head_rows))
                for part in _parts(rows, limit):
                    self._run(kind, part)
                    # Resume at once, so that the arrays of this call are free before the next one.
                    for row in part:
                        if not row.live.waiting and row.live.ticket in self._live:
                            self._resume(row.live)
        return self._finished

    def _waiting_rows(self, is_head: bool) -> dict[tuple[_Kind, int], list[_Row]]:
        """Group the waiting rows, of heads or of towers, that can share a call.

        The key is the kind of call and, for towers, log2 of the number of tokens, rounded up.
        """
        groups: dict[tuple[_Kind, int], list[_Row]] = {}
        for live in self._live.values():
            for row in live.waiting.values():
                step = row.step
                key: tuple[_Kind, int]
                if isinstance(step, Score):
                    key = step.head, 0
                elif isinstance(step, Expand):
                    key = "expand", 0
                elif isinstance(step, RunTower):
                    key = step.tower, (min(len(step.tokens), CHUNK_TOKENS) - 1).bit_length()
                else:
                    key = "fill", (len(step.tokens) - 1).bit_length()
                if isinstance(step, Score | Expand) == is_head:
                    groups.setdefault(key, []).append(row)
        return groups

    def _resume(self, live: _Live) -> None:
        """Send a decoder its results and accept its next steps, or note that it has finished."""
        try:
            while not live.waiting:  # steps without tokens need no call
                decoder, results = live.decoder, live.results
                steps = next(decoder) if results is None else decoder.send(results)
                live.results = [None] * len(steps)
                if not steps:
                    return
                for index, step in enumerate(steps):
                    tokens = () if isinstance(step, Score | Expand) else step.tokens
                    # A GPU ends the process for an index out of range; other faults fail the call.
                    if tokens and not 0 <= min(tokens) <= max(tokens) < self._vocabulary_size:
                        raise ValueError(f"a token outside of {self._vocabulary_size}")
                    if not isinstance(step, RunTower) or step.tokens:
                        live.waiting[index] = _Row(live, index, step)
                    elif step.keep_outputs:
                        outputs = np.zeros((0, self._output_size(step.tower)), dtype=np.float32)
                        live.results[index] = outputs, step.state
                    else:
                        live.results[index] = step.state
        except StopIteration as stop:
            self._finish(live, stop.value)
        except Exception as error:  # any error of a decoder is its own answer
            self._finish(live, error)

    def _finish(self, live: _Live, answer: Any) -> None:
        self._finished.append((live.ticket, answer))
        self.cancel(live.ticket)

    def _run(self, kind: _Kind, rows: list[_Row]) -> None:
        """Make one call. If it fails, try every row alone, so that only the faulty ones fail."""
        rows = [row for row in rows if self._live.get(row.live.ticket) is row.live]
        if not rows:
            return
        try:
            if kind == "forward" or kind == "backward":
                work, results = self._run_tower(kind, rows)
            elif kind == "expand":
                work, results = self._expand(rows)
            else:
                work, results = self._score(kind, rows)
        except Exception as error:
            if len(rows) == 1:
                self._finish(rows[0].live, error)
                return
            for row in rows:
                self._run(kind, [row])
            return
        for call in ("forward", "next") if kind == "expand" else (kind,):
            self._on_call(call, work if kind == "expand" else len(rows), work)
        for row, result in zip(rows, results, strict=True):
            if result is not None:
                row.live.results[row.index] = result
                del row.live.waiting[row.index]

    def _run_tower(self, tower: Tower, rows: list[_Row]) -> tuple[int, _Results]:
        """Run one chunk of each row; return the number of tokens, and results of rows that end."""
        tokens, lengths = _padded([row.step.tokens[:CHUNK_TOKENS] for row in rows])
        states = np.concatenate([row.step.state for row in rows]).reshape(len(rows), -1)
        new_states, outputs = self.runtime.run_tower(tower, states, tokens, lengths)
        counts: list[int] = lengths.tolist()
        results: list[Any] = []
        for row, state, output, length in zip(rows, new_states, outputs, counts, strict=True):
            step, new_state = row.step, state.copy()  # a view would keep the batch alive
            if step.keep_outputs:
                row.outputs.append(output[:length].copy())
            if length < len(step.tokens):
                row.step = RunTower(tower, new_state, step.tokens[length:], step.keep_outputs)
                results.append(None)
            else:
                kept = step.keep_outputs
                results.append((np.concatenate(row.outputs), new_state) if kept else new_state)
        return sum(counts), results

    def _expand(self, rows: list[_Row]) -> tuple[int, _Results]:
        expansions: list[Expansion] = [row.step.expansion for row in rows]
        starts = [0, *accumulate(each.rows for each in expansions)]
        count = starts.pop()
        states = np.empty((count, self._state_size), dtype=np.float32)
        tokens = np.empty((count, 1), dtype=np.int64)
        for start, each in zip(starts, expansions, strict=True):
            each.write(start, states, tokens)
        lengths = np.ones(count, dtype=np.int64)
        states, outputs = self.runtime.run_tower("forward", states, tokens, lengths)
        probs = self.runtime.score("next", outputs[:, 0])
        for start, each in zip(starts, expansions, strict=True):
            each.keep(start, states, probs)
        return count, [True] * len(rows)

    def _score(self, head: Head, rows: list[_Row]) -> tuple[int, _Results]:
        steps: list[Any] = [row.step for row in rows]
        inputs: list[NDArray[Any]]
        if head == "fill":
            tokens, lengths = _padded([step.tokens for step in steps])
            inputs = [tokens, lengths, np.array([step.place for step in steps], dtype=np.int64)]
            return int(lengths.sum()), _reduced(steps, self.runtime.score(head, *inputs))
        inputs = [np.concatenate([step.output for step in steps]).reshape(len(rows), -1)]
        if head == "gap":
            unknown = np.zeros(self._output_size("backward"), dtype=np.float32)
            inputs += [
                np.stack([unknown if step.right is None else step.right for step in steps]),
                np.array([step.right is not None for step in steps], dtype=np.bool_),
                np.array([step.position for step in steps], dtype=np.int64),
                np.array([step.kind for step in steps], dtype=np.int64),
            ]
        return len(rows), _reduced(steps, self.runtime.score(head, *inputs))


def _parts(rows: Sequence[_Row], limit: int) -> Iterator[list[_Row]]:
    """Divide rows into parts of at most *limit* rows of a call, but at least one step."""
    part: list[_Row] = []
    size = 0
    for row in rows:
        own = row.step.expansion.rows if isinstance(row.step, Expand) else 1
        if part and size + own > limit:
            yield part
            part, size = [], 0
        part.append(row)
        size += own
    yield part


def _reduced(steps: Sequence[Any], rows: Float32Array) -> list[Any]:
    """Return the result of each step from its row of (N, V)."""
    pairs = zip(steps, rows, strict=True)
    return [row if step.reduce is None else step.reduce(row) for step, row in pairs]


def _padded(lines: Sequence[tuple[int, ...]]) -> tuple[Int64Array, Int64Array]:
    """Return right-padded tokens (N, T) and the number of tokens of each line, (N,)."""
    lengths = np.array(list(map(len, lines)), dtype=np.int64)
    tokens = np.zeros((len(lines), lengths.max()), dtype=np.int64)
    for row, line in zip(tokens, lines, strict=True):
        row[: len(line)] = line
    return tokens, lengths
