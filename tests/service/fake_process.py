"""``python tests/service/fake_process.py OPTIONS``: the service's process with the fake model behind it.

SIGUSR1 lets go of the texts that are held.
"""

import signal
import sys

from model.queries import Limits
from service.__main__ import serve
from service.settings import read_settings
from tests.service.fakes_service import FakeModel

if __name__ == "__main__":
    settings = read_settings(sys.argv[1:])
    limits = Limits(
        settings.max_characters,
        settings.max_top_k,
        settings.max_blanks,
        settings.max_choices,
        settings.max_history,
    )
    model = FakeModel(limits)
    signal.signal(signal.SIGUSR1, lambda *_: model.release.set())
    sys.exit(serve(settings, model.load))
