"""Tests of service/settings.py."""

import os
from pathlib import Path

import pytest

from model.queries import Limits
from service.settings import Settings, SettingsError, is_loopback, read_settings

KEY = "0123456789abcdef"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests."""
    for variable in os.environ:
        if variable.startswith("LACUNA_"):
            monkeypatch.delenv(variable)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A path for a settings file."""
    return tmp_path / "service.toml"


def test_defaults_are_the_design_limits() -> None:
    """Without settings: loopback, 1 MiB, 64 texts of 10,000 code points, and the model's limits."""
    settings = read_settings([])
    assert settings.host == "127.0.0.1"
    assert (settings.max_body_bytes, settings.max_texts) == (1 << 20, 64)
    assert settings.limits == Limits()


def test_command_line_beats_environment_beats_file_beats_default(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each source wins over the weaker ones, setting by setting; a variable can name the file."""
    file.write_text("port = 1\nthreads = 1\nmax_texts = 1\n")
    monkeypatch.setenv("LACUNA_PORT", "2")
    monkeypatch.setenv("LACUNA_THREADS", "2")
    options = ["--port", "3", "--allow-anonymous"]
    settings = read_settings([*options, "--config", str(file)])
    assert [settings.port, settings.threads, settings.max_texts] == [3, 2, 1]
    assert settings.allow_anonymous
    assert settings.max_top_k == 100
    monkeypatch.setenv("LACUNA_CONFIG", str(file))
    assert read_settings(options).max_texts == 1


def test_every_setting_but_the_keys_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    """--help lists each setting; keys are left out, as a command line shows them to everybody."""
    with pytest.raises(SystemExit):
        read_settings(["--help"])
    shown = capsys.readouterr().out
    options = {"--" + name.replace("_", "-") for name in Settings.model_fields}
    assert {option for option in options if f"{option} " not in shown} == {"--keys"}


@pytest.mark.parametrize("option", ["--prot", "--po", "--keys"])
def test_unknown_and_shortened_options_end_with_status_2(option: str) -> None:
    """The command line is refused by argparse."""
    with pytest.raises(SystemExit, match="2"):
        read_settings([option, "1"])


@pytest.mark.parametrize(
    ("variable", "message"),
    [("LACUNA_PROT", "LACUNA_PROT: is not a setting"),
     ("lacuna_port", "LACUNA_PORT: Input should be"),
     ("LACUNA_THREADS", "LACUNA_THREADS: Input should be")],
)  # fmt: skip
def test_wrong_variables_are_errors(
    monkeypatch: pytest.MonkeyPatch, variable: str, message: str
) -> None:
    """An unknown variable, and known ones of the wrong type, in any case."""
    monkeypatch.setenv(variable, "many")
    with pytest.raises(SettingsError) as refused:
        read_settings([])
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"max_text = 3", "max_text: is not a setting"),
        (b"port = ", "Invalid value"),
        (b"[port]\na = 1", "port: Input should be"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b"a = " + b"[" * 100_000, "maximum recursion depth"),
        (b"#" * (1 << 20) + b"\n", "has more than 1048576 bytes"),
        (None, "No such file"),
    ],
)
def test_wrong_files_are_errors(file: Path, content: bytes | None, message: str) -> None:
    """A file that is missing, not TOML, not UTF-8, or has unknown keys or wrong types."""
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError) as refused:
        read_settings(["--config", str(file)])
    assert f"service.toml: {message}" in str(refused.value)


@pytest.mark.parametrize("kind", ["writable", "pipe"])
def test_a_file_that_may_be_anyones_is_refused(file: Path, kind: str) -> None:
    """Others may not write to it, since it may hold keys; a pipe is not waited for."""
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.write_text("port = 1\n")
        file.chmod(0o664)
    message = {"pipe": "not a regular file", "writable": f"chmod go-w {file}"}[kind]
    with pytest.raises(SettingsError, match=message):
        read_settings(["--config", str(file)])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "127.9"])
def test_keys_are_required_off_loopback(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that others can reach needs keys, unless they are waived by name."""
    with pytest.raises(SettingsError, match="--allow-anonymous"):
        read_settings(["--host", host])
    assert read_settings(["--host", host, "--allow-anonymous"]).host == host
    monkeypatch.setenv("LACUNA_KEYS", KEY)
    assert read_settings(["--host", host]).host == host
    assert not is_loopback(host)
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))


def test_keys_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings show no key, wherever they are printed."""
    monkeypatch.setenv("LACUNA_KEYS", f"{KEY}-1, {KEY}-2,")
    settings = read_settings([])
    assert len(settings.keys) == 2
    assert KEY not in repr(settings)


@pytest.mark.parametrize(
    ("name", "good", "wrong"),
    [
        (
            "allowed_origins",
            ("https://a.example", "http://localhost:3000", "*"),
            ("a.example", "https://a.example/", "https://A.example", "https://a.example/page"),
        ),
        (
            "allowed_hosts",
            ("b.Example", "10.0.0.1", "2001:db8::1", "my_service", "*"),
            ("a.example:8443", "https://a.example", "*.a.example", "a.example.", "[::1]"),
        ),
    ],
)
def test_lists_hold_what_browsers_send(
    file: Path, name: str, good: tuple[str, ...], wrong: tuple[str, ...]
) -> None:
    """Lists have commas on the command line; a value that no request can have is an error."""
    file.write_text(f"{name} = {list(good)}\n")
    option = "--" + name.replace("_", "-")
    for arguments in (["--config", str(file)], [option, ", ".join(good)]):
        assert getattr(read_settings(arguments), name) == good
    for value in wrong:
        with pytest.raises(SettingsError, match=f"{option}: String should match"):
            read_settings([option, f"{good[0]},{value}"])


def test_limits_that_exclude_each_other_are_an_error() -> None:
    """A queue smaller than the largest request could never accept it."""
    with pytest.raises(SettingsError, match="queue_items is 3 and max_texts is 64"):
        read_settings(["--queue-items", "3"])
