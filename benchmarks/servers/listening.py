"""How every peer listens: uvicorn with uvloop and httptools, no access log, connections kept open."""

import argparse
from pathlib import Path

import uvicorn
from fastapi import FastAPI

KEEP_ALIVE_SECONDS = 65


def serve(app: FastAPI, port: int) -> None:
    """Serve *app* on *port* of loopback until a signal."""
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with ``--port``, ``--checkpoint`` and ``--threads``; each peer takes what it needs."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--port", type=int, required=True)
    made.add_argument(
        "--checkpoint", type=Path, required=True, help="a Lacuna checkpoint directory"
    )
    made.add_argument("--threads", type=int, default=1, help="torch threads within one operation")
    return made
