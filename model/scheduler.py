"""Runs many decoders at once: collects their steps, stacks rows, makes one runtime call per kind, resumes them.

No timers, no threads, no locks: a batch is what is waiting when :meth:`Scheduler.step` is called. Decoders come and go
between any two rounds. A decoder that fails, or asks for what cannot be, fails alone.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from model.runtime import Float32Array, Integers, Runtime, Tower, output_of
from model.steps import Advance, Decoder, Fill, Gap, Next, Previous, Read, Step, Trace

# Tokens that one row reads in one round: a long cold text takes more rounds, and the others do not wait for it.
CHUNK = 64
# Tokens of one recurrent call, padding included: each takes some 30 kB while it runs.
TOWER_TOKENS = 512


@dataclass(slots=True)
class _Reading:
    """An Advance, a Trace or the first half of a Read on its way."""

    step: Advance | Trace | Read
    tower: Tower
    state: Float32Array
    tokens: tuple[int, ...]
    done: int = 0
    outputs: list[Float32Array] = field(default_factory=list)

    @property
    def chunk(self) -> tuple[int, ...]:
        return (
            self.tokens[self.done : self.done + CHUNK] if len(self.tokens) > CHUNK else self.tokens
        )


@dataclass(slots=True, eq=False)
class _Scoring:
    """The second half of a Read: a state whose next token is scored."""

    state: Float32Array
    output: Float32Array
    temperature: float


_Head = Next | Previous | Gap | _Scoring


@dataclass(slots=True, eq=False)
class _Live:
    """A decoder, what it waits for, and what has come."""

    ticket: Hashable
    decoder: Decoder[Any]
    waiting: dict[int, "_Reading | _Head | Fill"] = field(
        default_factory=dict
    )  # by index of the step
    results: list[Any] | None = None  # None: not started
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class _Row:
    """One row of a call: whose it is, and which of its steps."""

    live: _Live
    index: int


class Scheduler:
    """A set of live decoders on one runtime. Not thread-safe: one thread owns it.

    Args:
        runtime: runs the network.
        on_call: told the kind and the number of rows of every runtime call, for histograms.

    Attributes:
        rows: network rows by kind: tokens read by ``forward``, ``backward`` and ``fill``, rows scored by ``next``,
            ``previous`` and ``gap``.
    """

    def __init__(self, runtime: Runtime, on_call: Callable[[str, int], None] | None = None) -> None:
        self.runtime = runtime
        self.rows: Counter[str] = Counter()
        self._on_call = on_call
        self._live: dict[Hashable, _Live] = {}

    @property
    def pending(self) -> int:
        """Decoders that have not finished."""
        return len(self._live)

    def add(self, ticket: Hashable, decoder: Decoder[Any]) -> None:
        """Take a decoder in; it starts in the next :meth:`step`.

        Args:
            ticket: names it in results and in :meth:`cancel`.
            decoder: fresh, not yet started.

        Raises:
            ValueError: a live decoder has this ticket.
        """
        if ticket in self._live:
            raise ValueError("this ticket belongs to a live decoder")
        self._live[ticket] = _Live(ticket, decoder)

    def cancel(self, ticket: Hashable) -> bool:
        """Drop a decoder; its rows take part in no further call. False where it is not live (any more)."""
        live = self._live.pop(ticket, None)
        if live is None:
            return False
        _close(live)
        return True

    def step(self) -> list[tuple[Hashable, Any]]:
        """Run one round: every waiting step takes part in one call (a long reading in one chunk of it).

        Towers come before heads, so that what was just read is scored in the same round.

        Returns:
            (ticket, answer or exception) of each decoder that finished in this round.
        """
        finished: list[tuple[Hashable, Any]] = []
        for live in list(self._live.values()):
            if live.results is None:
                self._resume(live, finished)
        for heads in (False, True):
            for (kind, length), rows in self._waiting(heads).items():
                limit = self.runtime.head_rows if heads else TOWER_TOKENS >> length
                if kind == "fill":  # a tower's work and a head's answer
                    limit = max(1, min(limit, self.runtime.head_rows))
                for start in range(0, len(rows), limit):
                    part = rows[start : start + limit]
                    self._run(kind, part)
                    # Answer at once whoever has all it asked for, so that its rows can be freed before the next call.
                    for live in dict.fromkeys(row.live for row in part):
                        if live.error is not None or not live.waiting:
                            self._resume(live, finished)
        return finished

    def _waiting(self, heads: bool) -> dict[tuple[str, int], list[_Row]]:
        """Rows that wait for a head or for a tower. Those of one group share a call.

        That is the same kind and, for readings, a length of the same power of two, which is given as its exponent.
        """
        groups: dict[tuple[str, int], list[_Row]] = {}
        for live in self._live.values():
            for index, item in live.waiting.items():
                if isinstance(item, _Reading | Fill):
                    if not heads:
                        kind, tokens = (
                            ("fill", item.tokens)
                            if isinstance(item, Fill)
                            else (item.tower, item.chunk)
                        )
                        groups.setdefault((kind, (len(tokens) - 1).bit_length()), []).append(
                            _Row(live, index)
                        )
                elif heads:
                    groups.setdefault((_HEADS[type(item)], 0), []).append(_Row(live, index))
        return groups

    def _resume(self, live: _Live, finished: list[tuple[Hashable, Any]]) -> None:
        """Hand a decoder its results and take its next steps; note it as finished where it has none."""
        if live.ticket not in self._live:  # it failed earlier in this round
            return
        try:
            if live.error is not None:
                raise live.error
            while (
                not live.waiting
            ):  # steps that need no network, such as reading nothing, are answered here and now
                steps = (
                    next(live.decoder) if live.results is None else live.decoder.send(live.results)
                )
                live.results = [_NOTHING] * len(steps)
                for index, step in enumerate(steps):
                    self._accept(live, index, step)
        except StopIteration as stop:
            del self._live[live.ticket]
            finished.append((live.ticket, stop.value))
        except Exception as error:  # whatever a decoder does wrong is its own affair
            del self._live[live.ticket]
            _close(live)
            finished.append((live.ticket, error))

    def _accept(self, live: _Live, index: int, step: Step) -> None:
        """Check a step on its own, before it shares a call with others.

        Raises:
            ValueError: an array of the wrong shape, a token that the vocabulary lacks, a temperature not above 0.
        """
        config = self.runtime.config
        if isinstance(step, Read):
            _check_shape(step.state, config.state_size("forward"))
            if not step.temperature > 0:
                raise ValueError(f"a step has temperature {step.temperature}; it must be above 0")
            if step.token is None:
                live.waiting[index] = self._scoring(step, step.state)
            else:
                _check_tokens((step.token,), config.vocabulary_size)
                live.waiting[index] = _Reading(step, "forward", step.state, (step.token,))
            return
        if isinstance(step, Advance | Trace):
            _check_shape(step.state, config.state_size(step.tower))
            _check_tokens(step.tokens, config.vocabulary_size)
            if step.tokens:
                live.waiting[index] = _Reading(step, step.tower, step.state, step.tokens)
            elif live.results is not None:
                live.results[index] = (
                    step.state if isinstance(step, Advance) else _no_outputs(config.hidden_size)
                )
            return
        if isinstance(step, Fill):
            _check_tokens(step.tokens, config.vocabulary_size)
            if not 0 <= step.place < len(step.tokens):
                raise ValueError(f"a step asks for place {step.place} of {len(step.tokens)} tokens")
            live.waiting[index] = step
            return
        for output in (step.forward, step.backward) if isinstance(step, Gap) else (step.output,):
            if output is not None:
                _check_shape(output, config.hidden_size)
        _check_tokens(step.only or (), config.vocabulary_size)
        live.waiting[index] = step

    def _scoring(self, step: Read, state: Float32Array) -> _Scoring:
        return _Scoring(state, output_of(self.runtime.config, "forward", state), step.temperature)

    def _run(self, kind: str, rows: list[_Row]) -> None:
        """Make one call. Where it fails, find out whose fault it was: every row is tried alone."""
        rows = [row for row in rows if row.live.error is None and row.live.ticket in self._live]
        if not rows:
            return
        try:
            self._call(kind, rows)
        except Exception as error:
            if len(rows) == 1:
                rows[0].live.error = error
                return
            for row in rows:
                if row.live.error is None:
                    self._run(kind, [row])

    def _call(self, kind: str, rows: list[_Row]) -> None:
        items = [row.live.waiting[row.index] for row in rows]
        if kind in ("forward", "backward"):
            readings = [item for item in items if isinstance(item, _Reading)]
            self._read(kind, rows, readings)
            return
        if kind == "fill":
            self._fill(rows, [item for item in items if isinstance(item, Fill)])
            return
        heads = [item for item in items if not isinstance(item, _Reading | Fill)]
        log_probabilities = self._score(heads)
        self._count(kind, len(rows), len(rows))
        for row, head, values in zip(rows, heads, log_probabilities, strict=True):
            if isinstance(head, _Scoring):
                self._deliver(row, (head.state, _probabilities(values, head.temperature)))
            else:
                self._deliver(row, values if head.only is None else values[list(head.only)])

    def _fill(self, rows: list[_Row], fills: list[Fill]) -> None:
        tokens, lengths = _padded([fill.tokens for fill in fills])
        places = np.array([fill.place for fill in fills], dtype=np.int64)
        answers = self.runtime.fill_log_probabilities(tokens, lengths, places)
        self._count("fill", int(lengths.sum()), len(rows))
        for row, values in zip(rows, answers, strict=True):
            self._deliver(row, values)

    def _read(self, tower: str, rows: list[_Row], readings: list[_Reading]) -> None:
        tokens, lengths = _padded([reading.chunk for reading in readings])
        counts: list[int] = lengths.tolist()
        states = np.stack([reading.state for reading in readings])
        new_states, outputs = self.runtime.advance(readings[0].tower, states, tokens, lengths)
        self._count(tower, sum(counts), len(rows))
        for row, reading, state, output, length in zip(
            rows, readings, new_states, outputs, counts, strict=True
        ):
            reading.state = state.copy()  # not a view: it outlives the batch
            reading.done += length
            trace = isinstance(reading.step, Trace)
            if trace:
                reading.outputs.append(output[:length].copy())
            if reading.done < len(reading.tokens):
                continue
            if isinstance(reading.step, Read):
                row.live.waiting[row.index] = self._scoring(reading.step, reading.state)
            else:
                self._deliver(row, np.concatenate(reading.outputs) if trace else reading.state)

    def _score(self, heads: Sequence[_Head]) -> Float32Array:
        """Log-probabilities (N, V) of N steps of one kind."""
        gaps = [head for head in heads if isinstance(head, Gap)]
        if gaps:
            known = np.array([gap.backward is not None for gap in gaps], dtype=np.bool_)
            nothing = np.zeros(self.runtime.config.hidden_size, dtype=np.float32)
            return self.runtime.gap_log_probabilities(
                np.stack([gap.forward for gap in gaps]),
                np.stack([nothing if gap.backward is None else gap.backward for gap in gaps]),
                known,
                np.array([gap.position for gap in gaps], dtype=np.int64),
                np.array([gap.kind for gap in gaps], dtype=np.int64),
            )
        outputs = np.stack([head.output for head in heads if not isinstance(head, Gap)])
        if isinstance(heads[0], Next | _Scoring):
            return self.runtime.next_log_probabilities(outputs)
        return self.runtime.previous_log_probabilities(outputs)

    def _deliver(self, row: _Row, value: Any) -> None:
        if row.live.results is not None:
            row.live.results[row.index] = value
        del row.live.waiting[row.index]

    def _count(self, kind: str, network_rows: int, batch_rows: int) -> None:
        self.rows[kind] += network_rows
        if self._on_call is not None:
            self._on_call(kind, batch_rows)


_NOTHING: Float32Array = np.zeros(0, dtype=np.float32)


# The kind of call by the class of what waits for it.
_HEADS: dict[type[Any], str] = {Next: "next", _Scoring: "next", Previous: "previous", Gap: "gap"}


def _probabilities(log_probabilities: Float32Array, temperature: float) -> Float32Array:
    """Probabilities (V,) from a head's log-probabilities (V,), its logits divided by *temperature*.

    Masked tokens stay at 0. Softmax is blind to a shift, so log-probabilities serve as logits.
    """
    if temperature == 1.0:
        return np.exp(log_probabilities)
    # Log-probabilities are at most 0, and one is at least -log V: nothing overflows, and not everything vanishes.
    row = log_probabilities * np.float32(1.0 / temperature)
    np.exp(row, out=row)
    row *= np.float32(1.0) / np.add.reduce(row)
    return row


def _padded(readings: Sequence[tuple[int, ...]]) -> tuple[Integers, Integers]:
    """Right-padded tokens (N, T), and how many count in each row, (N,)."""
    counts = list(map(len, readings))
    longest = max(counts)
    tokens = [
        reading + (0,) * (longest - count) for reading, count in zip(readings, counts, strict=True)
    ]
    return np.array(tokens, dtype=np.int64), np.array(counts, dtype=np.int64)


def _check_shape(array: Float32Array, size: int) -> None:
    if array.shape != (size,) or array.dtype != np.float32:
        raise ValueError(
            f"a step has an array {array.dtype}{array.shape}; it must be float32({size},)"
        )


def _check_tokens(tokens: Sequence[int], size: int) -> None:
    if any(not 0 <= token < size for token in tokens):
        raise ValueError(f"a token outside the vocabulary of {size}")


def _no_outputs(hidden_size: int) -> Float32Array:
    return np.zeros((0, hidden_size), dtype=np.float32)


def _close(live: _Live) -> None:
    """Let a decoder run its own clean-up; what that raises is of no interest any more."""
    with suppress(Exception):
        live.decoder.close()
