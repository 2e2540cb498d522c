"""The process that trains a tokenizer. It imports nothing of Lacuna, so that it starts at once.

Run it with a pipe as standard input and a JSON file of the trainer's settings as argument. It ends
if the pipe is closed, so that it never outlives its parent.
"""

import fcntl
import json
import os
import select
import sys
from pathlib import Path

import sentencepiece


def main(settings: Path) -> int:
    """Train; return 1 after an error, which is the last line of standard error."""
    pipe = sys.stdin.fileno()
    # The library leaves Python no time to look at the pipe; the signal SIGIO ends the process.
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([pipe], [], [], 0)[0]:
        return 1
    try:
        sentencepiece.SentencePieceTrainer.train(**json.loads(settings.read_bytes()))
    except RuntimeError as error:
        # Its message, such as "set it to a value <= 412", follows its place in the library's
        # source.
        sys.stderr.write(f"{str(error).splitlines()[0].rpartition('] ')[2]}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
