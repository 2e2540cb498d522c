"""Sizes and calibrations that cannot be are refused; tests/model/test_checkpoint.py has files."""

import json
from typing import Any

import pytest

from model.config import Calibration, NetworkConfig, parse
from model.errors import CheckpointError


@pytest.mark.parametrize(
    ("kind", "field", "values"),
    [
        (NetworkConfig, "hidden_size", (0, "24")),
        (NetworkConfig, "backward_layers", (0,)),
        (NetworkConfig, "gap_hidden_size", (0,)),
        (NetworkConfig, "cell", ("elman",)),
        (NetworkConfig, "architecture", ("tree",)),
        (NetworkConfig, "width", (3,)),
        (Calibration, "chain_weight", [{"zh": x, "en": 1} for x in (True, "0.5", 1e300, None)]),
        (Calibration, "cloze_temperature", [{"zh": x, "en": 1} for x in (0, 101, True, "1", None)]),
        (Calibration, "cloze_temperature", (1, {"zh": 1}, {"zh": 1, "fr": 1})),
        (Calibration, "cloze_coverage_exponent", ({"zh": 1e-300, "en": 1},)),
        (Calibration, "choice_uniform_mix", [{"zh": x, "en": 0} for x in (-0.1, 1.0)]),
    ],
)
def test_impossible_values_are_refused(kind: Any, field: str, values: Any) -> None:
    """A size that no network has, or a number that cannot have been fitted, is named."""
    required = {"vocabulary_size": 300} if kind is NetworkConfig else {}
    parse(kind, json.dumps(required))
    for value in values:
        with pytest.raises(CheckpointError, match=field):
            parse(kind, json.dumps({**required, field: value}))
