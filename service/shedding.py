"""Load shedding: questions that are refused from their bytes, before anything parses them, while none could be let in.

At ten times the load nine of ten requests are refusals, and what each of them takes is taken from the engine: through
the app it takes as long as a third of an answer, here a twentieth. Only the plainest requests are refused here, and
all others go through the app, which refuses them in its own time: a mistake here could not be seen by any of its tests.
"""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable

from pydantic_core import to_json

from service.admission import Busy
from service.engine import Engine
from service.errors import PROBLEM_TYPE, TITLES
from service.request_context import REQUEST_ID, new_id

log = logging.getLogger(__name__)

# A head as RFC 9112 has it, with the target as clients write it: what a parser would refuse, ours must not answer and
# keep the connection, or a proxy that reads it otherwise gives the next answer to somebody else.
_HEAD = re.compile(
    rb"POST (/predict|/cloze|/score) HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n)+\r\n"
)
# The headers that say where a request ends, what becomes of the connection, or who may read the answer.
_TELLING = re.compile(
    rb"\r\n(content-length|x-request-id|connection|transfer-encoding|expect|upgrade|origin):[ \t]*([^\r\n]*)",
    re.I,
)
_LENGTH = re.compile(rb"[0-9]{1,9}")
# The answer's numbers are looked at anew after so long; refusals are counted and logged together after so long.
FRESH_SECONDS = 0.1
TOGETHER_SECONDS = 1.0


class Shedder:
    """Refuses what the engine has no room for.

    Args:
        engine: whose admission says so.
        deadline_seconds: of a request that comes now.
        count: called now and then with a route, a reason and how many were refused.
    """

    def __init__(
        self, engine: Engine, deadline_seconds: float, count: Callable[[str, str, int], None]
    ) -> None:
        self._engine = engine
        self._deadline_seconds = deadline_seconds
        self._count = count
        self._refused: Counter[tuple[bytes, str]] = Counter()
        self._busy: Busy | None = None
        self._looked = float("-inf")
        self._passed = 0
        self._head = self._middle = b""

    @property
    def shedding(self) -> bool:
        """Whether a question that came now could not be let in."""
        return (
            self._engine.admission.is_full(self._deadline_seconds, self._passed + 1)
            and self._engine.accepting
        )

    def let_through(self, loop: asyncio.AbstractEventLoop) -> None:
        """A request goes to the app, which admits it once the loop has read from all connections that have sent
        something. Until then it counts here: otherwise one free place would be open to a thousand requests.
        """
        if not self._passed:
            loop.call_soon(self._forget)
        self._passed += 1

    def _forget(self) -> None:
        self._passed = 0

    def refuse(
        self, data: bytes, loop: asyncio.AbstractEventLoop, headers: Iterable[tuple[bytes, bytes]]
    ) -> bytes | None:
        """The answer to a request that is complete in *data*; None where the app must see to it.

        Args:
            data: what a connection sent at the start of a request.
            loop: the one that runs.
            headers: of every answer.
        """
        head = _HEAD.match(data)
        if head is None:
            return None
        length, request_id = -1, b""
        for name, value in _TELLING.findall(data, 0, head.end()):
            match name.lower():
                case b"content-length" if length < 0 and _LENGTH.fullmatch(value):
                    length = int(value)
                case b"x-request-id":
                    request_id = request_id or (value if REQUEST_ID.fullmatch(value) else b"")
                case b"connection" if value.lower() == b"keep-alive":
                    pass
                case _:
                    return None
        if length != len(data) - head.end():
            return None
        if loop.time() - self._looked > FRESH_SECONDS or self._busy is None:
            self._looked = loop.time()
            self._busy = self._look(headers)
        if self._busy is None:
            return None
        if not self._refused:
            loop.call_later(TOGETHER_SECONDS, self.tell)
        self._refused[head[1], self._busy.reason] += 1
        request_id = request_id or new_id().encode()
        content = self._middle + request_id + b'"}'
        return b"%s%d\r\nx-request-id: %s\r\n\r\n%s" % (
            self._head,
            len(content),
            request_id,
            content,
        )

    def tell(self) -> None:
        """Count and log what was refused since the last time."""
        for (target, reason), number in self._refused.items():
            route = str(target, "ascii")
            self._count(route, reason, number)
            fields = {"route": route, "reason": reason, "status": 429, "requests": number}
            log.info("refused unread", extra={"fields": fields})
        self._refused.clear()

    def _look(self, headers: Iterable[tuple[bytes, bytes]]) -> Busy | None:
        """Make the answer, all but its id, where there is still no room."""
        try:
            self._engine.admission.check(self._deadline_seconds, self._passed + 1)
        except Busy as busy:
            lines = [
                *headers,
                (b"content-type", PROBLEM_TYPE.encode()),
                (b"retry-after", b"%d" % busy.retry_after),
            ]
            head = b"".join(b"%s: %s\r\n" % line for line in lines)
            self._head = b"HTTP/1.1 429 %s\r\n%scontent-length: " % (TITLES[429].encode(), head)
            problem = {
                "type": "about:blank",
                "title": TITLES[429],
                "status": 429,
                "detail": busy.detail,
            }
            self._middle = to_json(problem)[:-1] + b',"request_id":"'
            return busy
        return None
