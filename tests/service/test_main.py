"""Tests of service/__main__.py: what ends it before it serves."""

import signal
from collections.abc import Iterator

import pytest

from service.__main__ import main


@pytest.fixture(autouse=True)
def _hangup() -> Iterator[None]:
    """Restore the handler that `main` sets."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("option", "keys", "message"),
    [
        (["--port", "70000"], "", "--port: Input should be less than or equal to 65535"),
        (["--host", "0.0.0.0"], "", "--allow-anonymous"),
        (["--keys-file", "no-such-keys"], "", "keys file no-such-keys: No such file"),
        ([], "hunter2", "API key 1 has 7 characters"),
    ],
)
def test_wrong_settings_and_keys_end_with_status_2(
    option: list[str],
    keys: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line on standard error says which setting, and holds no key."""
    monkeypatch.setenv("LACUNA_KEYS", keys)
    assert main([*option, *(() if "--port" in option else ("--port", "0"))]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("lacuna: ")
    assert message in errors
    assert "hunter2" not in errors
    assert errors.count("\n") == 1
