"""Tests of service/__main__.py: what ends it before it serves."""

import signal

import pytest

from service.__main__ import main


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--port", "70000"], "--port: Input should be less than or equal to 65535"),
        (["--port", "0", "--keys-file", "no-such-keys"], "keys file no-such-keys: No such file"),
    ],
)
def test_wrong_settings_and_keys_end_with_status_2(
    option: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line on standard error says which setting."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert main(option) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"lacuna: {message}")
    assert errors.count("\n") == 1
