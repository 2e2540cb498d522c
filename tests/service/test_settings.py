"""Tests of service/settings.py."""

from pathlib import Path

import pytest

from model.queries import Limits
from service.auth import hash_key
from service.settings import Settings, SettingsError, is_loopback, read_settings

KEY = "0123456789abcdef"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests."""
    import os

    for variable in os.environ:
        if variable.startswith("LACUNA_"):
            monkeypatch.delenv(variable)


def test_defaults_bind_loopback_with_the_design_limits() -> None:
    """Nothing set: loopback, 1 MiB, 10,000 code points, 64 texts, top_k to 100, 64 blanks, 256 choices."""
    settings = read_settings([])
    assert settings.host == "127.0.0.1"
    assert (settings.max_body_bytes, settings.max_texts) == (1 << 20, 64)
    assert settings.limits == Limits()


def test_command_line_beats_environment_beats_file_beats_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each source wins over the weaker ones, setting by setting."""
    file = tmp_path / "service.toml"
    file.write_text("port = 1\nthreads = 1\nmax_texts = 1\n")
    monkeypatch.setenv("LACUNA_PORT", "2")
    monkeypatch.setenv("LACUNA_THREADS", "2")
    settings = read_settings(["--config", str(file), "--port", "3"])
    assert (settings.port, settings.threads, settings.max_texts, settings.max_top_k) == (
        3,
        2,
        1,
        100,
    )


def test_file_can_be_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LACUNA_CONFIG names the file; --config is stronger."""
    weak, strong = tmp_path / "weak.toml", tmp_path / "strong.toml"
    weak.write_text("port = 1\n")
    strong.write_text("port = 2\n")
    monkeypatch.setenv("LACUNA_CONFIG", str(weak))
    assert read_settings([]).port == 1
    assert read_settings(["--config", str(strong)]).port == 2


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if name != "keys"])
def test_every_setting_is_an_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each setting stands in --help, except the keys, which a command line would show to everybody."""
    with pytest.raises(SystemExit):
        read_settings(["--help"])
    shown = capsys.readouterr().out
    assert "--" + name.replace("_", "-") in shown
    assert "--keys " not in shown


@pytest.mark.parametrize(
    ("variable", "told"),
    [("LACUNA_PROT", "did you mean LACUNA_PORT?"), ("lacuna_port", "lacuna_port is no setting")],
)
def test_unknown_variable_is_an_error(
    monkeypatch: pytest.MonkeyPatch, variable: str, told: str
) -> None:
    """A misspelt variable is an error and not a setting that stays at its default."""
    monkeypatch.setenv(variable, "1")
    with pytest.raises(SettingsError, match=told.replace("?", r"\?")):
        read_settings([])


def test_unknown_key_of_the_file_is_an_error(tmp_path: Path) -> None:
    """A misspelt key names the file and the key that was probably meant."""
    file = tmp_path / "service.toml"
    file.write_text("max_text = 3\n")
    with pytest.raises(
        SettingsError, match=r"service\.toml: max_text is no setting; did you mean max_texts\?"
    ):
        read_settings(["--config", str(file)])


def test_unknown_option_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt option ends with status 2."""
    with pytest.raises(SystemExit) as ended:
        read_settings(["--prot", "1"])
    assert ended.value.code == 2
    assert "--prot" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"port = ", "Invalid value"),
        (b"port = 'x'", "settings file .*: port: "),
        (b"\xff", "utf-8"),
        (b"[port]\na = 1", "port: "),
    ],
)
def test_wrong_file_is_an_error(tmp_path: Path, content: bytes, told: str) -> None:
    """A file that is not TOML, not UTF-8 or of wrong types is an error that names it."""
    file = tmp_path / "service.toml"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=told):
        read_settings(["--config", str(file)])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_keys_are_demanded_off_loopback(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bound where others can reach it, it refuses to start without keys, unless they are waived by name."""
    with pytest.raises(SettingsError, match="--allow-anonymous"):
        read_settings(["--host", host])
    assert read_settings(["--host", host, "--allow-anonymous"]).host == host
    monkeypatch.setenv("LACUNA_KEYS", KEY)
    assert read_settings(["--host", host]).host == host


@pytest.mark.parametrize(
    ("host", "answer"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.9", False)]
)
def test_loopback(host: str, answer: bool) -> None:
    """Only addresses that no other machine can reach count as loopback."""
    assert is_loopback(host) is answer


def test_keys_are_checked_when_settings_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong key or keys file is a wrong setting; neither the message nor the settings show a key."""
    file = tmp_path / "keys.toml"
    monkeypatch.setenv("LACUNA_KEYS", f"{KEY}-1, {KEY}-2,")
    file.write_text(f"[[key]]\nname = 'a'\nsha256 = '{hash_key(KEY.encode()).hex()}'\n")
    assert KEY not in repr(read_settings(["--keys-file", str(file)]))
    file.write_text(f"{KEY}\n")
    with pytest.raises(
        SettingsError, match=r"keys\.toml: not TOML at line 1, .* lacuna keys new"
    ) as refused:
        read_settings(["--keys-file", str(file)])
    assert KEY not in str(refused.value)
    with pytest.raises(SettingsError, match="no-keys: No such file"):
        read_settings(["--keys-file", str(tmp_path / "no-keys")])
    monkeypatch.setenv("LACUNA_KEYS", "hunter2")
    with pytest.raises(SettingsError, match="API key 1 has 7 characters") as refused:
        read_settings([])
    assert "hunter2" not in str(refused.value)


def test_lists_are_parted_by_commas_or_are_lists(tmp_path: Path) -> None:
    """Hosts and origins: commas on the command line and in variables, lists in a file."""
    file = tmp_path / "service.toml"
    file.write_text("allowed_hosts = ['a', 'b']\n")
    settings = read_settings(
        ["--config", str(file), "--allowed-origins", "https://a.example, http://localhost:3000"]
    )
    assert settings.allowed_hosts == ("a", "b")
    assert settings.allowed_origins == ("https://a.example", "http://localhost:3000")


@pytest.mark.parametrize(
    "origin", ["a.example", "https://a.example/", "https://A.example", "https://a.example/page"]
)
def test_an_origin_that_no_browser_sends_is_an_error(origin: str) -> None:
    """An origin with a path, without a scheme or with capitals would never fit, so it is refused."""
    with pytest.raises(SettingsError, match="allowed_origins has"):
        read_settings(["--allowed-origins", origin])


@pytest.mark.parametrize(
    "host", ["a.example:8443", "https://a.example", "*.a.example", "a.example.", "[::1]"]
)
def test_a_host_that_no_request_names_is_an_error(host: str) -> None:
    """Ports, schemes, patterns and a dot at the end would never fit, and 421 would advise what has been done."""
    with pytest.raises(SettingsError, match="allowed_hosts has"):
        read_settings(["--allowed-hosts", f"b.example, 10.0.0.1, 2001:db8::1, my_service, {host}"])
    assert (
        read_settings(
            ["--allowed-hosts", "b.example, 10.0.0.1, 2001:db8::1, my_service, *"]
        ).allowed_hosts[-1]
        == "*"
    )


def test_limits_that_exclude_each_other_are_an_error() -> None:
    """A queue that is smaller than the largest request could never take it."""
    with pytest.raises(SettingsError, match="queue_items is 3 and max_texts 64"):
        read_settings(["--queue-items", "3"])
