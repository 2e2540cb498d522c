"""Other client libraries against a real server: `make clients` installs them and runs this."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.service.server_process import REAL, clean_environment, serving

PYTHONS = os.environ.get("CLIENT_PYTHONS", "").split()


@pytest.mark.slow
@pytest.mark.skipif(not PYTHONS, reason="no CLIENT_PYTHONS with client libraries: make clients")
def test_client_libraries_work_as_their_users_write() -> None:
    """Every call succeeds in each of the interpreters, whose libraries have other versions."""
    rows = []
    with serving(REAL, "--device", "cpu") as server:
        address = "http://{}:{}".format(*server.address)
        for python in PYTHONS:
            command = [python, str(Path(__file__).with_name("client_calls.py")), address]
            environment = clean_environment() | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
            printed = subprocess.run(command, env=environment, check=True, capture_output=True)
            lines = printed.stdout.decode().splitlines()
            rows += [json.loads(line) for line in lines if line.startswith('["')]
    print("".join([f"\n| {' | '.join(row)} |" for row in rows]))  # noqa: T201
    assert {row[1] for row in rows} >= {"openai", "huggingface_hub"}
    assert [row for row in rows if row[3]] == []
