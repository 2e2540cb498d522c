"""Run the service's process with the fake model: ``python tests/service/fake_process.py OPTIONS``.

SIGUSR1 releases the texts that are held. SIGUSR2 sets the wall clock a day ahead, the next one two
days back.
"""

import itertools
import signal
import sys
import time
from types import FrameType

from service.__main__ import end_at_once, serve
from service.settings import read_settings
from tests.service.fakes_service import FakeModel

if __name__ == "__main__":
    settings = read_settings(sys.argv[1:])
    # The checkpoint's name says what becomes of reloads.
    model = FakeModel(settings.limits, later=settings.checkpoint.name)
    signal.signal(signal.SIGUSR1, lambda *_: model.release.set())
    jumps = itertools.cycle((86_400, -86_400))
    true_time = time.time

    def jump(_number: int, _frame: FrameType | None) -> None:
        """Set the clock."""
        offset = next(jumps)
        time.time = lambda: true_time() + offset

    signal.signal(signal.SIGUSR2, jump)
    end_at_once(serve(settings, model.load))
