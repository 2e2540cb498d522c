"""Run the service's process with the fake model: ``python tests/service/fake_process.py OPTIONS``.

SIGUSR1 releases the texts that are held.
"""

import signal
import sys

from service.__main__ import end_at_once, serve
from service.settings import read_settings
from tests.service.fakes_service import FakeModel

if __name__ == "__main__":
    settings = read_settings(sys.argv[1:])
    # The checkpoint's name says what becomes of reloads.
    model = FakeModel(settings.limits, later=settings.checkpoint.name)
    signal.signal(signal.SIGUSR1, lambda *_: model.release.set())
    end_at_once(serve(settings, model.load))
