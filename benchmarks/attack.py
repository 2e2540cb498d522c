"""``python -m benchmarks.attack``: attacks on a service under a limit of 1 GiB of memory.

Each attack meets a fresh process with the bundled checkpoint, on the first CPU. It *held* if the
process lived, ``/livez`` was 200 within a second throughout, and the attack found nothing.
Rows: 1 connections, 2 marks, 3 large questions, 4 what others typed, 5 two tenants, 6 reloads,
7 unlisted files, 8 idle connections. One system takes less than ten minutes; its results replace
those of the same system in the file.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import connection_attacks as by_connection
from benchmarks import hostile_checkpoints as by_file
from benchmarks import question_attacks as by_question
from benchmarks.machine import provenance
from benchmarks.processes import ROOT, ServerError, pin_client
from benchmarks.systems import System, lacuna
from benchmarks.target import FellError, Target, attacked, raise_descriptor_limit
from training.cached_json import check_writable, write_json
from training.evaluation.report import table


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: its row, how to run it, and the service it needs."""

    row: int
    run: Callable[[Target], None]
    keys: bool = False
    descriptors: int = 0
    metrics_port: bool = False

    @property
    def name(self) -> str:
        """The name in tables."""
        return self.run.__name__.replace("_", " ")


def _attacks(row: int, *runs: Callable[[Target], None], **needs: Any) -> list[Attack]:
    return [Attack(row, run, **needs) for run in runs]


_FEW = by_connection.DESCRIPTORS
ATTACKS = (
    *_attacks(1, by_connection.unread_answers, by_connection.unread_questions),
    *_attacks(1, by_connection.endless_heads, by_connection.small_chunks),
    *_attacks(1, by_connection.slow_bodies, by_connection.bodies_at_once),
    *_attacks(2, by_question.marks),
    *_attacks(3, by_question.large_choices, by_question.large_scores),
    *_attacks(3, by_question.large_blanks, by_question.large_texts, by_question.queued_choices),
    *_attacks(4, by_question.guess_without_keys),
    *_attacks(4, by_question.guess_with_one_key, keys=True),
    *_attacks(5, by_question.starve, keys=True),
    *_attacks(6, by_file.reload_anonymously),
    *_attacks(6, by_file.reload_without_right, by_file.hostile_directories, keys=True),
    *_attacks(6, by_file.strange_name, keys=True),
    *_attacks(7, by_file.repointed_weights, by_file.repointed_constant, keys=True),
    *_attacks(8, by_connection.idle_connections, by_connection.half_requests, descriptors=_FEW),
    *_attacks(8, by_connection.idle_metrics, descriptors=_FEW, metrics_port=True),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Attack, print a table and write JSON.

    Returns:
        0; 1 if an attack succeeded.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attack", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--old", type=Path, metavar="PATH", help="attack the service of this checkout instead")
    add("--proxy", action="store_true", help="then attack it through HAProxy")
    add("--rows", default="1,2,3,4,5,6,7,8", metavar="N,N,…", help="default: all, 1 to 8")
    add("--only", default="", metavar="WORD", help="attacks with this word in their names")
    add("--output", type=Path, required=True, metavar="FILE", help="JSON file to write or extend")
    options = parser.parse_args(arguments)
    check_writable(options.output)
    system = lacuna("old" if options.old else "new", options.old or ROOT)
    systems = [system]
    if options.proxy:
        if shutil.which("haproxy") is None:
            parser.error("haproxy is not installed")
        systems.append(replace(system, name=f"{system.name} behind HAProxy", proxy="client"))
    rows = set(map(int, options.rows.split(",")))
    chosen = [each for each in ATTACKS if each.row in rows and options.only in each.name]
    raise_descriptor_limit()
    cores = pin_client()
    results = json.loads(options.output.read_text()) if options.output.exists() else {}
    for system in systems:
        found = attack(system, chosen, cores)
        results[system.name] = {**provenance(options.old or ROOT), "attacks": found}
        write_json(options.output, results)
        sys.stdout.write(f"\n{system.name}\n\n{attack_table(found)}")
    mine = [each for system in systems for each in results[system.name]["attacks"]]
    return int(any(each["result"] != "held" for each in mine))


def attack(system: System, chosen: Sequence[Attack], cores: Sequence[int]) -> list[dict[str, Any]]:
    """Return the result of each attack on a fresh service, on *cores*, and print it."""
    found = []
    for each in chosen:
        began = time.monotonic()
        outcome = {"row": each.row, "attack": each.name, **_one(system, each, cores)}
        outcome["seconds"] = round(time.monotonic() - began)
        print(json.dumps(outcome, ensure_ascii=False), flush=True)
        found.append(outcome)
    return found


def _one(system: System, each: Attack, cores: Sequence[int]) -> dict[str, Any]:
    needs = (each.keys, each.descriptors, each.metrics_port)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            with attacked(system, Path(folder), cores, *needs) as target:
                figures = target.figures
                each.run(target)
        except (FellError, ServerError, OSError) as error:
            name = "" if isinstance(error, FellError) else f"{type(error).__name__}: "
            return {"result": "fell", "reason": f"{name}{error}", **figures}
    return {"result": "held", "reason": "", **figures}


def attack_table(found: Sequence[dict[str, Any]]) -> str:
    """Return a row for each attack."""
    rows = [
        (each["row"], each["attack"], each["result"], each.get("peak_mib", ""), each["reason"])
        for each in found
    ]
    return table(rows, ("row", "attack", "result", "peak MiB", "reason"))


if __name__ == "__main__":
    sys.exit(main())
