"""``python -m benchmarks.fuzz``: a live service with keys, asked what schemathesis makes of its OpenAPI document.

Half of the cases fit the document and half do not. Whatever is sent, the answer must be one that the document promises
for that route: its status, type, headers and body; wrong data must be refused; and there may be no 5xx.
"""

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.failures import Failure, FailureGroup

from benchmarks.contestants import ROOT
from benchmarks.lacuna import ADMIN_KEY, KEY, Place, pick_cores
from benchmarks.process import HOST, Server

# What no document of ours can promise: that fitting data are taken (it cannot say that a text must have a blank, or
# that a directory holds a checkpoint); and checks of resources that come and go, which there are none of.
_NOT_CHECKED = frozenset(
    {
        "positive_data_acceptance",
        "use_after_free",
        "ensure_resource_availability",
        "object_level_authorization",
        "ignored_auth",  # sends each case again; a share of the cases has no key, or a wrong one
    }
)
# Cases of one round, by kind of route: few where there is little to vary, or where an answer takes seconds.
_ASKING, _ADMIN, _READING = 200, 8, 2
# Shares of cases without a key, and with one that is not known.
_NO_KEY, _WRONG_KEY = 0.03, 0.03
_MOST_FAILURES = 20


def checks() -> list[Any]:
    """All checks that apply."""
    load_all_checks()
    return [check for check in CHECKS.get_all() if check.__name__ not in _NOT_CHECKED]


def run(server: Server, count: int, seed: int) -> dict[str, Any]:
    """Send at least *count* cases to a server with the keys of `Place.keys_file`.

    Returns:
        ``cases``, ``status`` (how often each), ``server_errors`` (5xx), ``not_conforming`` and some ``failures``.
    """
    document = json.loads(server.read("/openapi.json"))
    schema = schemathesis.openapi.from_dict(document)
    statuses: Counter[int] = Counter()
    failures: list[str] = []
    source = random.Random(seed)  # noqa: S311 - whose key is sent is no secret
    applied = checks()
    with requests.Session() as session:

        def send(case: Any) -> None:
            response = case.call(
                base_url=f"http://{HOST}:{server.port}", session=session, headers=_key(case, source)
            )
            statuses[response.status_code] += 1
            try:
                case.validate_response(response, checks=applied)
            except (Failure, FailureGroup) as error:
                found = getattr(error, "exceptions", [error])
                failures.extend(
                    f"{case.method} {case.path}: {response.status_code}: {one}"[:600]
                    for one in found
                )

        number = 0
        while statuses.total() < count:
            for path, methods in document["paths"].items():
                for method in methods:
                    wanted = (
                        _ADMIN
                        if path.startswith("/admin/")
                        else _ASKING
                        if method == "post"
                        else _READING
                    )
                    wanted = min(wanted, max(2, count // 6))
                    for mode in GenerationMode:
                        number += 1
                        _examples(
                            schema[path][method.upper()], mode, wanted, f"{seed}/{number}", send
                        )
    return {
        "cases": statuses.total(),
        "status": {str(status): times for status, times in sorted(statuses.items())},
        "server_errors": sum(times for status, times in statuses.items() if status >= 500),
        "not_conforming": len(failures),
        "failures": failures[:_MOST_FAILURES],
    }


def _examples(
    operation: Any, mode: GenerationMode, count: int, seed: str, send: Callable[[Any], None]
) -> None:
    """Have hypothesis make *count* cases; none is made simpler, as `send` never raises."""

    @seeded(random.Random(seed).getrandbits(64))  # noqa: S311
    @settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        send(case)

    with suppress(Unsatisfiable):  # nothing that could be wrong: a route without parameters
        ask()


def _key(case: Any, source: random.Random) -> dict[str, str]:
    chance = source.random()
    if chance < _NO_KEY:
        return {}
    right = ADMIN_KEY if case.path.startswith("/admin/") else KEY
    return {
        "Authorization": f"Bearer {right if chance > _NO_KEY + _WRONG_KEY else 'not-a-key-that-is-known'}"
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, and say what came of it.

    Returns:
        0; 1 where there was a 5xx or an answer that the document does not promise.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--checkpoint", type=Path, default=ROOT / "model" / "pretrained" / "default", metavar="DIR"
    )
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        place = Place(options.checkpoint.resolve(), pick_cores()[0], Path(folder))
        with place.serving("--keys-file", str(place.keys_file())) as server:
            found = run(server, options.count, options.seed)
    print(json.dumps(found, indent=1, ensure_ascii=False))
    return int(bool(found["server_errors"] or found["not_conforming"]))


if __name__ == "__main__":
    sys.exit(main())
