"""Sizes and calibrations that cannot be are refused; tests/model/test_checkpoint.py has files."""

import json
from typing import Any

import pytest

from model.config import Calibration, NetworkConfig, parse
from model.errors import CheckpointError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", 0),
        ("hidden_size", "24"),
        ("backward_layers", 0),
        ("gap_hidden_size", 0),
        ("cell", "elman"),
        ("architecture", "tree"),
        ("width", 3),
    ],
)
def test_impossible_sizes_are_refused(field: str, value: object) -> None:
    """A size that no network has is an error that names the field."""
    sizes = {"vocabulary_size": 300, field: value}
    with pytest.raises(CheckpointError, match=field):
        parse(NetworkConfig, json.dumps(sizes))
    with pytest.raises((ValueError, TypeError), match=field):
        NetworkConfig(**sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("forward_weight", value) for value in (True, "0.5", 10**400, -1e300, None)),
        *(("next_temperature", {"zh": value, "en": 1}) for value in (0, 101, True, "1")),
        *(("cloze_temperature", value) for value in (1, {"zh": 1}, {"zh": 1, "fr": 1})),
        ("choice_temperature", {"zh": None, "en": 1}),
        ("cloze_coverage_exponent", {"zh": 1e-300, "en": 1}),
        *(("choice_uniform_mix", {"zh": value, "en": 0}) for value in (-0.1, 1.0)),
    ],
)
def test_calibration_out_of_range_is_refused(field: str, value: Any) -> None:
    """A weight, temperature, exponent or share that cannot have been fitted is refused."""
    with pytest.raises(CheckpointError, match=field):
        parse(Calibration, json.dumps({field: value}))
