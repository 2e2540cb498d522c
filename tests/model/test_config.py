"""Sizes and calibrations that cannot be are refused; tests/model/test_checkpoint.py has files."""

import pytest

from model.config import Calibration, ForwardSizes, NetworkConfig, parse
from model.errors import CheckpointError


@pytest.mark.parametrize(
    ("field", "value"),
    [("hidden_size", 0), ("backward_layers", 0), ("gap_hidden_size", 0), ("cell", "elman")],
)
def test_impossible_sizes_are_refused(field: str, value: object) -> None:
    """A size that no network has is a ValueError that names the field."""
    with pytest.raises(ValueError, match=field):
        NetworkConfig(**{"vocabulary_size": 300, field: value})  # type: ignore[arg-type]


def test_states_hold_the_parts_of_every_layer() -> None:
    """An LSTM keeps h and c of each layer, a GRU only h; an n-gram's state is its output."""
    lstm = NetworkConfig(300, hidden_size=8, forward_layers=3)
    gru = NetworkConfig(300, cell="gru", hidden_size=8, forward_layers=3)
    assert (lstm.state_size("forward"), lstm.state_size("backward")) == (48, 16)
    assert (gru.state_size("forward"), gru.state_size("backward")) == (24, 8)
    ngram = ForwardSizes(300, 4)
    assert (ngram.state_size("forward"), ngram.state_size("backward")) == (4, 0)


def test_parse_names_the_wrong_field() -> None:
    """Text that is not JSON, and fields of another kind, are CheckpointErrors with the field."""
    with pytest.raises(CheckpointError, match="Calibration: Invalid JSON"):
        parse(Calibration, "{")
    with pytest.raises(CheckpointError, match="next_temperature"):
        parse(Calibration, '{"next_temperature": {"zh": true, "en": 1}}')
    assert parse(Calibration, "{}") == Calibration()
