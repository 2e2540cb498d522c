"""Random damage to a checkpoint or n-gram whose sums are written again, as by an attacker.

Each case runs in a separate process with limits. Damage that the sums show:
tests/model/test_checkpoint.py. Damage on purpose: tests/end_to_end/test_hostile_checkpoints.py.
"""

import hashlib
import json
import math
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.errors import CheckpointError
from model.listed_files import SUMS
from model.predictor import Predictor, open_model
from model.queries import ClozeQuery, PredictQuery, ScoreQuery
from tests.end_to_end.test_any_text import is_sane
from tests.service.server_process import ROOT

pytestmark = pytest.mark.slow
SEEDS, SECONDS, ADDRESS_BYTES = 25, 240, 8 << 30
QUERIES = (
    PredictQuery("I like to go to the th", 20),
    ClozeQuery("我的手机坏了,我打算____一部新____。", top_k=3),
    ScoreQuery("She said that he would like the other theme."),
)
Damage = Callable[[bytes, random.Random], bytes]


def _flip(content: bytes, luck: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(luck.choice((1, 1, 8, 64))):
        changed[luck.randrange(len(changed))] ^= 1 << luck.randrange(8)
    return bytes(changed)


def _overwrite(content: bytes, luck: random.Random) -> bytes:
    start, length = luck.randrange(len(content)), luck.choice((16, 4096))
    filling = luck.choice((b"\0", b"\xff", np.float32(math.nan).tobytes()))
    return (content[:start] + filling * length + content[start + length * len(filling) :])[
        : len(content)
    ]


DAMAGES: dict[str, Damage] = {"flip": _flip, "overwrite": _overwrite}


@pytest.mark.parametrize("original", ["tiny_checkpoint", "tiny_ngram"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_refused_or_harmless(
    request: pytest.FixtureRequest, tmp_path: Path, original: str, kind: str
) -> None:
    """No crash, no hang, no insane answer, and no other answer under the old digest."""
    command = [sys.executable, "-m", "tests.end_to_end.test_altered_checkpoints"]
    command += [str(request.getfixturevalue(original)), str(tmp_path / "copy"), kind]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = json.loads(done.stdout)
    assert len(outcomes) == SEEDS
    assert "refused" in outcomes


def main(original: Path, copy: Path, kind: str) -> None:
    """Damage and try copies, one after the other; print the outcomes as JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    expected = _ask(original)
    outcomes = []
    for seed in range(SEEDS):
        luck = random.Random(f"{kind} {seed}")
        shutil.copytree(original, copy)
        names = [line[66:] for line in (copy / SUMS).read_text("utf-8").splitlines()]
        damaged = copy / luck.choice(names)
        damaged.write_bytes(DAMAGES[kind](damaged.read_bytes(), luck))
        sums = [hashlib.sha256((copy / name).read_bytes()).hexdigest() for name in names]
        lines = [f"{total}  {name}\n" for total, name in zip(sums, names, strict=True)]
        (copy / SUMS).write_text("".join(lines), encoding="utf-8")
        try:
            digest, answers = _ask(copy)
        except CheckpointError:
            outcomes.append("refused")
        else:
            assert all(map(is_sane, answers)), damaged.name
            same = answers == expected[1]
            assert same or digest != expected[0], damaged.name
            outcomes.append("same" if same else "another digest")
        shutil.rmtree(copy)
    sys.stdout.write(json.dumps(outcomes))


def _ask(directory: Path) -> tuple[str, list[dict[str, Any]]]:
    """Return digest and answers.

    Raises:
        CheckpointError: the checkpoint is refused.
    """
    checkpoint, runtime = open_model(directory)
    answers = Predictor(checkpoint, runtime).run(QUERIES)
    return checkpoint.digest, [asdict(answer) for answer in answers]  # type: ignore[call-overload]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
