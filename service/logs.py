"""Structured logs: one JSON object a line on standard error. They hold no text of a user.

Lines are written by a thread of their own from a bounded backlog: a slow reader of standard error costs lines, never
the event loop. What was lost is counted, and told in a line of its own once there is room again.

An exception is logged by type and place; its message might hold a text.
"""

import json
import logging
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from service.request_context import RequestContext

# Lines that may wait to be written; about 3 MB.
MAX_BACKLOG = 10_000
# Further places that only lines graver than info may take: requests are what there are many of.
RESERVED_PLACES = 100
# Seconds that the end of the process waits for the lines that are left.
MAX_FLUSH = 2.0
# Seconds for which lines are gathered before they are written, and lines that one write holds at most.
GATHER_SECONDS = 0.02
MAX_WRITE = 1_000
# Where lines about requests come from. All else that the service logs is about itself: few lines, and each is wanted.
_ABOUT_REQUESTS = ("service.requests",)
_requests = logging.getLogger("service.requests")
_encode = json.JSONEncoder(ensure_ascii=False).encode


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object; ``extra={"fields": {…}}`` adds to it."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            # The first line only: asyncio's further lines show objects, and those may hold a text.
            "event": record.getMessage().strip().partition("\n")[0],
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = describe(record.exc_info[1])
        return _encode(line)


def describe(error: BaseException) -> dict[str, object]:
    """An exception's type and the places it passed, without its message."""
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "type": type(error).__name__,
        "places": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }


def places(thread: threading.Thread) -> list[str]:
    """The places that a thread is in now, as `describe` gives those of an exception; none if it does not run."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        return []
    stack = [
        f"{each.f_code.co_filename}:{line} {each.f_code.co_name}"
        for each, line in traceback.walk_stack(frame)
    ]
    return stack[::-1]


@contextmanager
def logging_to_stderr(level: str = "info") -> Iterator[None]:
    """Log to standard error while inside; what is still waiting is written at the end.

    Args:
        level: the least that is written about requests, and by libraries: ``debug``, ``info``, ``warning`` or
            ``error``. What the service says of itself is written from info on at any level.
    """
    writer = _Writer()
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, [writer]
    least = logging.getLevelNamesMapping()[level.upper()]
    levels = dict.fromkeys(("root", *_ABOUT_REQUESTS), least) | {
        "service": min(least, logging.INFO)
    }
    before = {name: logging.getLogger(name).level for name in levels}
    _set_levels(levels)
    # Nobody reads which function, thread or process wrote a line; to find out takes longer than the rest of a record.
    unread = {
        "_srcfile": None,
        "logThreads": False,
        "logProcesses": False,
        "logMultiprocessing": False,
    }
    collected = {name: getattr(logging, name) for name in unread}
    vars(logging).update(unread)
    try:
        yield
    finally:
        vars(logging).update(collected)
        root.handlers = handlers
        _set_levels(before)
        writer.end()


def _set_levels(levels: Mapping[str, int]) -> None:
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def flush() -> None:
    """Write what is still waiting, where the process ends without leaving `logging_to_stderr`."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Writer):
            handler.end()


def lines_lost() -> int:
    """Lines that found no place or could not be written, since `logging_to_stderr` began."""
    return sum(
        handler.lost for handler in logging.getLogger().handlers if isinstance(handler, _Writer)
    )


def log_request(context: RequestContext, seconds: float) -> None:
    """One line for one request, at level info; above it nothing is made that would not be written."""
    if not _requests.isEnabledFor(logging.INFO):
        return
    fields = context.identity | {
        "route": context.route,
        "status": context.status,
        "milliseconds": round(1000 * seconds, 3),
        "items": context.items,
    }
    if context.tenant:
        fields["key"] = context.tenant
    if context.queue_seconds is not None and context.inference_seconds is not None:
        fields["queue_milliseconds"] = round(1000 * context.queue_seconds, 3)
        fields["inference_milliseconds"] = round(1000 * context.inference_seconds, 3)
    if context.tokens is not None:
        fields["tokens"], fields["cached_tokens"] = context.tokens, context.cached_tokens
    line = logging.LogRecord(_requests.name, logging.INFO, "", 0, "request", None, None)
    line.fields = fields
    _requests.handle(line)


class _Writer(logging.Handler):
    """Writes records on a thread of its own, all that came within `GATHER_SECONDS` at once.

    To wake a thread costs more than to format a line, so it is woken once for many.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self._waiting: deque[logging.LogRecord] = deque()
        self._news = threading.Event()
        self._ending = threading.Event()
        self.lost = 0
        # Reentrant, as a signal's handler may log while its thread counts.
        self._counting = threading.RLock()
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)
        self._thread.start()

    def handle(self, record: logging.LogRecord) -> bool:
        """Take a record, or drop it where too many wait; never block."""
        if len(self._waiting) < MAX_BACKLOG + (
            RESERVED_PLACES if record.levelno > logging.INFO else 0
        ):
            self._waiting.append(record)
            if not self._news.is_set():
                self._news.set()
        else:
            self._lose(1)
        return True

    def end(self) -> None:
        """Write what waits, if somebody reads."""
        self._ending.set()
        self._news.set()
        self._thread.join(MAX_FLUSH)

    def _lose(self, lines: int) -> None:
        with self._counting:
            self.lost += lines

    def _run(self) -> None:
        told = 0
        while not self._ending.is_set():
            self._news.wait()
            self._ending.wait(GATHER_SECONDS)
            self._news.clear()
            while self._waiting:
                records = [
                    self._waiting.popleft() for _ in range(min(MAX_WRITE, len(self._waiting)))
                ]
                if not self._write(records):
                    self._lose(len(records))
                elif (lost := self.lost) > told and self._write([_lost_lines(lost - told)]):
                    told = lost

    def _write(self, records: list[logging.LogRecord]) -> bool:
        """Whether they were written. Of those that were not, Python may keep the first few kilobytes for later."""
        try:
            sys.stderr.write("".join(f"{self.format(record)}\n" for record in records))
            sys.stderr.flush()
        except (
            OSError
        ):  # a full disk, a reader that is gone: these lines are lost, the next may not be
            return False
        return True


def _lost_lines(lines: int) -> logging.LogRecord:
    record = logging.LogRecord(__name__, logging.ERROR, "", 0, "log lines lost", None, None)
    record.fields = {"lines": lines}
    return record
