"""Structured logs: one JSON object per line on standard error, without any text of a user.

A thread writes the lines from a bounded queue, so that a slow reader of standard error costs lines
and never blocks the event loop. Lost lines are counted. An exception is logged by type and places,
because its message might hold a text. What libraries would write to standard error is logged too.
"""

import json
import logging
import os
import queue
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import Any, TextIO

from pydantic_core import to_json

# Lines that may wait to be written; about 3 MB.
MAX_WAITING = 10_000
# Seconds that the end of the process waits for the lines that are left.
FLUSH_SECONDS = 2.0
# Seconds for which lines are gathered before they are written.
GATHER_SECONDS = 0.1
# Lines that are written at once.
MAX_LOT = 1_000
# Lines about requests come from this logger. All other lines of the service are about itself.
REQUESTS = logging.getLogger("service.requests")
# Of a line that a library writes, so many characters are logged.
MAX_FOREIGN = 1000
# Of their records.
_REQUEST = vars(logging.LogRecord(REQUESTS.name, logging.INFO, "", 0, "request", None, None))
log = logging.getLogger(__name__)
_SURROGATE = re.compile("[\ud800-\udfff]")  # from a path that is not UTF-8
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object; ``extra={"fields": {...}}`` adds to it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
            # The first line only: asyncio's further lines show objects, which may hold a text.
            "event": record.getMessage().strip().partition("\n")[0],
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = format_exception(record.exc_info[1])
        try:
            return to_json(line).decode()  # takes a quarter of the time
        except ValueError:
            return _SURROGATE.sub(
                _escape, json.dumps(line, ensure_ascii=False, default=datetime.isoformat)
            )


def _escape(surrogate: re.Match[str]) -> str:
    return f"\\\\u{ord(surrogate[0]):04x}"


def log_request(fields: dict[str, object]) -> None:
    """Log the line of a request at level info, without the costly parts of `REQUESTS.info`."""
    record = logging.LogRecord.__new__(logging.LogRecord)
    record.__dict__.update(_REQUEST, created=time.time(), fields=fields)
    REQUESTS.handle(record)


def format_exception(error: BaseException) -> dict[str, object]:
    """Return an exception's type and the places it passed, without its message."""
    places = _places(traceback.walk_tb(error.__traceback__))
    return {"type": type(error).__name__, "places": places}


def format_stack(thread: threading.Thread) -> list[str]:
    """Return the places a thread is in now, the outermost first; none if it does not run."""
    frame = sys._current_frames().get(thread.ident or 0)
    return _places(traceback.walk_stack(frame))[::-1] if frame else []


def _places(frames: Iterator[tuple[FrameType, int]]) -> list[str]:
    return [f"{each.f_code.co_filename}:{line} {each.f_code.co_name}" for each, line in frames]


@contextmanager
def logging_to_stderr(level: str = "info") -> Iterator[None]:
    """Log to standard error while inside; lines that still wait are written at the end.

    *level* is the minimum for lines about requests and of libraries: ``debug``, ``info``,
    ``warning`` or ``error``. The service's own events are always logged from info on.
    """
    # The format uses none of these, and a record costs half without them.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    writer = _Writer()
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, [writer]
    minimum = logging.getLevelNamesMapping()[level.upper()]
    service = logging.getLogger("service")
    levels = {root: minimum, REQUESTS: minimum, service: min(minimum, logging.INFO)}
    before = {logger: logger.level for logger in levels}
    hooks = threading.excepthook, sys.unraisablehook
    threading.excepthook = sys.unraisablehook = _log_uncaught
    logging.captureWarnings(True)
    for logger, wanted in levels.items():
        logger.setLevel(wanted)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        threading.excepthook, sys.unraisablehook = hooks
        root.handlers = handlers
        for logger, wanted in before.items():
            logger.setLevel(wanted)
        writer.end()


@contextmanager
def foreign_lines_logged() -> Iterator[None]:
    """Log each line that native libraries write to standard error while inside.

    They write to file descriptor 2, past Python. Outside `logging_to_stderr`, nothing changes.
    """
    writers = _writers()
    if not writers or sys.stderr is None:  # its descriptor may be another file by now
        yield
        return
    reading, writing = os.pipe()
    stderr = os.dup(2)
    reader = threading.Thread(target=_log_lines, args=(reading,), name="foreign", daemon=True)
    with os.fdopen(stderr, "w", encoding="utf-8", errors="backslashreplace") as stream:
        streams = [writer.write_to(stream) for writer in writers]
        os.dup2(writing, 2)
        os.close(writing)
        reader.start()
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            reader.join(FLUSH_SECONDS)
            for writer, before in zip(writers, streams, strict=True):
                writer.write_to(before)


def flush() -> None:
    """Write the lines that wait, before the process ends without leaving `logging_to_stderr`."""
    for writer in _writers():
        writer.end()


def lines_lost() -> int:
    """Return how many lines were lost since `logging_to_stderr` began."""
    return sum(writer.lost for writer in _writers())


def _log_lines(descriptor: int) -> None:
    with os.fdopen(descriptor, encoding="utf-8", errors="backslashreplace") as lines:
        for line in lines:
            if text := _COLOUR.sub("", line).strip():
                log.warning("library", extra={"fields": {"line": text[:MAX_FOREIGN]}})


def _log_uncaught(failure: Any) -> None:
    """Log an exception that a thread or a destructor did not catch, without its message."""
    error = failure.exc_value
    fields = {"exception": format_exception(error)} if error else {}
    log.error("uncaught", extra={"fields": fields})


def _writers() -> "list[_Writer]":
    return [each for each in logging.getLogger().handlers if isinstance(each, _Writer)]


class _Writer(logging.StreamHandler[TextIO]):
    """Queues records for a thread that writes one JSON object per line; counts lost ones."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self._waiting: queue.SimpleQueue[logging.LogRecord | None] = queue.SimpleQueue()
        self._in_lot = self._dropped = self._failed = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Number of lines that were dropped or could not be written."""
        return self._dropped + self._failed

    def handle(self, record: logging.LogRecord) -> bool:
        """Queue a record for the thread, or drop it if too many wait. Never blocks."""
        is_kept = self._waiting.qsize() + self._in_lot < MAX_WAITING
        if is_kept:
            self._waiting.put(record)
        else:
            self._dropped += 1
        return is_kept

    def write_to(self, stream: TextIO) -> TextIO:
        """Write to *stream* from now on, and return the stream before."""
        return self.setStream(stream) or stream

    def end(self) -> None:
        """Write the lines that wait; give up if standard error is not read."""
        self._ending.set()
        self._waiting.put(None)
        self._thread.join(FLUSH_SECONDS)

    def _write(self) -> None:
        """Write lines in lots: to wake a thread, or to write, costs more than to format a line."""
        lot: list[logging.LogRecord | None] = []
        while None not in lot:
            lot = [self._waiting.get()]
            self._ending.wait(GATHER_SECONDS)
            self._in_lot = min(self._waiting.qsize(), MAX_LOT)
            lot += [self._waiting.get() for _ in range(self._in_lot)]
            lines = [line for record in lot if record and (line := self._line(record))]
            self.acquire()  # `write_to` waits
            try:
                self.stream.write("".join(lines))
                self.stream.flush()
            except Exception:  # the disk is full, or the reader is gone
                self._failed += len(lines)
            finally:
                self.release()

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return f"{self.format(record)}\n"
        except Exception:  # a bug of its sender
            self._failed += 1
            return ""
