"""The drill of attacks runs on a real process, and its search makes valid, repeatable requests."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.attack import ATTACKS, attack, attack_table
from benchmarks.systems import lacuna
from benchmarks.target import LIMIT_BYTES, FellError, attacked, limited
from benchmarks.worst_case import KINDS, Genes, Luck, body_of, mutated, random_genes, search
from model.checks import RequestCheck
from model.queries import Limits
from service.requests import parse
from service.schemas import ClozeRequest, PredictRequest, ScoreRequest

_BODIES = {"/predict": PredictRequest, "/cloze": ClozeRequest, "/score": ScoreRequest}


def test_attacks_on_a_real_process(tiny_checkpoint: Path) -> None:
    """Each meets a fresh process, and is reported with the peak of its memory."""
    system = replace(lacuna("tiny"), checkpoint=tiny_checkpoint)
    names = ["reload without right", "strange name"]
    found = attack(system, [each for each in ATTACKS if each.name in names], [0])
    assert [each["attack"] for each in found] == names
    assert found[0]["result"] == "held"
    assert all(0 < each["peak_mib"] < LIMIT_BYTES >> 20 for each in found)
    assert attack_table(found).count("\n") == 4


def test_a_process_that_dies_has_fallen(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The end of the process is a finding, with its status."""
    system = replace(lacuna("tiny"), checkpoint=tiny_checkpoint)
    with (
        pytest.raises(FellError, match="ended with status -9"),
        attacked(system, tmp_path, [0], keys=True) as target,
    ):
        target.server.first.kill()
        target.server.first.wait()


def test_a_control_group_ends_a_process_above_the_limit() -> None:
    """Memory above the limit, and no other, is fatal; open files have a limit as well."""
    with limited(descriptors=20) as (kind, prefix):
        if kind != "control group":
            pytest.skip("no control group can be made here")
        large = f"b'a' * {LIMIT_BYTES}"
        for code, status in (("b'a' * 10", 0), ("[open('/dev/null') for _ in range(30)]", 1)):
            finished = subprocess.run([*prefix, sys.executable, "-c", code], capture_output=True)
            assert finished.returncode == status
        assert subprocess.run([*prefix, sys.executable, "-c", large]).returncode == -9


def test_the_search_asks_what_the_limits_allow() -> None:
    """Generated requests of all kinds and routes are valid, and equal for equal seeds."""
    luck, seen = Luck(1), set()
    limits = Limits(choice_characters=10**6)  # the search is to find out what a limit is worth
    for number in range(300):
        genes = mutated(random_genes(luck), luck)
        genes = replace(genes, texts=min(genes.texts, 3), choices=min(genes.choices, 9))
        body = body_of(genes, number)
        assert body == body_of(genes, number)
        assert body["text"] != body_of(genes, number + 1)["text"]
        request = parse(json.dumps(body).encode(), _BODIES[genes.route])
        for query in request.queries():
            RequestCheck(limits).check(query)
        seen |= {genes.route, genes.kind}
    assert seen == {*_BODIES, *KINDS}


def test_a_short_search_of_a_real_process(tiny_checkpoint: Path) -> None:
    """It reports the costliest requests by their parameters."""
    found = search(replace(lacuna("tiny"), checkpoint=tiny_checkpoint), 10.0, seed=1)
    assert found["tried"] >= len(found["per_request"]) > 0
    costs = [each["cpu_seconds"] for each in found["per_request"]]
    assert costs == sorted(costs, reverse=True)
    assert Genes(**found["per_request"][0]["genes"]).route in _BODIES
