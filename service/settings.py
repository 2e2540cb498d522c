"""What an operator can set, where it may come from, and which source wins. Read once, by ``__main__``; never at import.

Strongest first: command line, ``LACUNA_*`` environment, TOML file, default. A key that no setting has is an error in
each of them: a misspelt limit must not leave the limit off.
"""

import argparse
import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from model.queries import Limits
from service.auth import KeysError, parse_plain_keys, read_keys_file

PREFIX = "LACUNA_"
CONFIG_VARIABLE = "LACUNA_CONFIG"
DEFAULT_CHECKPOINT = Path(__file__).resolve().parent.parent / "model" / "pretrained" / "default"
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^\sA-Z/,]+")
# A name, or an IPv6 address, which has two colons at least.
_HOST = re.compile(
    r"\*|[\w-]+(?:\.[\w-]+)*|[0-9a-f]*:[0-9a-f.]*:[0-9a-f:.]*", re.ASCII | re.IGNORECASE
)
# Not on the command line, where every user of the machine can read them.
_SECRET = frozenset({"keys"})


class SettingsError(Exception):
    """A setting that is unknown, of the wrong type, out of range or unsafe; says which, from where, and the remedy."""


class Settings(BaseSettings):
    """Every setting of the service. The descriptions are the command line's help."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    checkpoint: Path = Field(DEFAULT_CHECKPOINT, description="checkpoint directory to serve")
    host: str = Field("127.0.0.1", description="address to bind; off loopback, keys are demanded")
    port: int = Field(8000, ge=0, le=65535, description="TCP port; 0 takes a free one and logs it")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the network runs")
    threads: int = Field(
        0, ge=0, le=256, description="threads of one network step; 0 chooses by the CPUs allotted"
    )
    keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="API keys, comma separated in LACUNA_KEYS"
    )
    keys_file: Path | None = Field(
        None, description="TOML file of named keys, made by lacuna keys new"
    )
    allow_anonymous: bool = Field(False, description="serve off loopback without keys")
    texts_per_minute: int = Field(
        0, ge=0, description="texts that a key without its own limit may send; 0: no limit"
    )
    characters_per_minute: int = Field(0, ge=0, description="the same, in code points")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="names that requests may come to, comma separated; * for any; on loopback, its own are always good",
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="origins whose pages may ask (CORS), comma separated, such as https://example.org; * for any",
    )
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="serve /metrics on a port of its own, without keys, and not on the main one",
    )
    deadline_seconds: float = Field(
        10.0, gt=0, le=3600, description="a request unanswered by then gets 504, or 429 at once"
    )
    queue_items: int = Field(
        512, ge=1, description="texts that may wait for the engine, if their work allows"
    )
    batch_items: int = Field(64, ge=1, description="texts that the engine decodes at the same time")
    prefix_cache_mib: int = Field(
        64, ge=0, description="memory for texts that were read, in MiB; 0 keeps none"
    )
    drain_seconds: float = Field(
        0.0, ge=0, le=600, description="after SIGTERM, listen (and answer 503) this long"
    )
    grace_seconds: int = Field(
        15, ge=1, le=3600, description="after that, requests may take this long to finish"
    )
    keep_alive_seconds: int = Field(
        65, ge=1, le=3600, description="close a connection that is idle this long"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info",
        description="least severe lines about requests; above info, there are none; others are always logged",
    )
    stall_seconds: float = Field(
        30.0, gt=0, description="a step longer than this makes /livez answer 503"
    )
    max_body_bytes: int = Field(1 << 20, ge=1, description="longest request body")
    max_characters: int = Field(10_000, ge=1, description="longest text, in code points")
    max_texts: int = Field(64, ge=1, description="most texts in one request")
    max_top_k: int = Field(100, ge=1, description="largest top_k")
    max_blanks: int = Field(64, ge=1, description="most blanks in one text")
    max_choices: int = Field(256, ge=1, description="most choices for one blank")
    max_history: int = Field(20_000, ge=0, description="longest history, in code points")

    @field_validator("keys", "allowed_hosts", "allowed_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            [part.strip() for part in value.split(",") if part.strip()]
            if isinstance(value, str)
            else value
        )

    @property
    def limits(self) -> Limits:
        """The limits of one text of a request."""
        return Limits(
            characters=self.max_characters,
            top_k=self.max_top_k,
            blanks=self.max_blanks,
            choices=self.max_choices,
            history=self.max_history,
        )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leave out the sources that nobody asked for: a stray ``.env`` must not change a service."""
        del settings_cls, dotenv_settings, file_secret_settings
        return init_settings, env_settings


def read_settings(arguments: Sequence[str]) -> Settings:
    """Merge command line, environment and TOML file, and check the whole.

    Raises:
        SettingsError: unknown key, wrong type, out of range, unreadable file, or no keys off loopback.
        SystemExit: ``--help``, or a command line that argparse refuses (status 2).
    """
    given = {
        key: value
        for key, value in vars(_parser().parse_args(arguments)).items()
        if value is not None
    }
    path = given.pop("config", None) or os.environ.get(CONFIG_VARIABLE)
    _check_environment(os.environ)
    file_values = _read_toml(Path(path)) if path else {}
    # The file is weaker than the environment, so its values give way to the variables that are set.
    weak = {
        key: value for key, value in file_values.items() if PREFIX + key.upper() not in os.environ
    }
    try:
        settings = Settings(**{**weak, **given})
    except ValidationError as error:
        raise SettingsError(_explain(error, given, path)) from None
    _check_together(settings)
    return settings


def is_loopback(host: str) -> bool:
    """Whether *host* can be reached from this machine only. A name other than ``localhost`` is not trusted to be."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="Serve a checkpoint over HTTP. Each option is also a variable (LACUNA_PORT) and a TOML key (port).",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file with settings; also LACUNA_CONFIG"
    )
    for name, field in Settings.model_fields.items():
        if name in _SECRET:
            continue
        option = "--" + name.replace("_", "-")
        shown = f"{field.description} (default: {field.default})"
        if field.annotation is bool:
            parser.add_argument(option, action="store_const", const=True, help=shown)
        else:
            closed = get_origin(field.annotation) is Literal
            metavar = (
                "|".join(get_args(field.annotation)) if closed else name.rsplit("_", 1)[-1].upper()
            )
            parser.add_argument(option, metavar=metavar, help=shown)
    return parser


def _check_environment(environ: Mapping[str, str]) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {CONFIG_VARIABLE}
    for variable in sorted(environ):
        if variable.upper().startswith(PREFIX) and variable not in known:
            raise SettingsError(
                f"environment variable {variable} is no setting{_nearest(variable, known)}"
            )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"settings file {path}: {_reason(error)}") from None
    for key in values:
        if key not in Settings.model_fields:
            raise SettingsError(
                f"settings file {path}: {key} is no setting{_nearest(key, Settings.model_fields)}"
            )
    return values


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return (
        f"; did you mean {close[0]}?" if close else ";"
    ) + " python -m service --help lists them"


def _explain(error: ValidationError, given: Mapping[str, object], path: object) -> str:
    """Say which setting from which source is wrong, without its value, which may be a key."""
    first = error.errors(include_input=False, include_url=False)[0]
    name = str(first["loc"][0])
    if name in given:
        source = "--" + name.replace("_", "-")
    elif PREFIX + name.upper() in os.environ:
        source = PREFIX + name.upper()
    else:
        source = f"settings file {path}: {name}"
    return f"{source}: {first['msg']}"


def _check_together(settings: Settings) -> None:
    try:
        parse_plain_keys(key.get_secret_value() for key in settings.keys)
        if settings.keys_file is not None:
            read_keys_file(settings.keys_file)
    except KeysError as error:
        raise SettingsError(str(error)) from None
    has_keys = settings.keys or settings.keys_file
    if not is_loopback(settings.host) and not has_keys and not settings.allow_anonymous:
        raise SettingsError(
            f"host {settings.host} is reachable from other machines, and no API keys are set: set LACUNA_KEYS or "
            "--keys-file, or waive them with --allow-anonymous"
        )
    for origin in settings.allowed_origins:
        if not _ORIGIN.fullmatch(origin):
            raise SettingsError(
                f"allowed_origins has {origin}, which no browser sends: give scheme and host, a port where it is not "
                "the scheme's own, in small letters and without a path, such as https://example.org"
            )
    for host in settings.allowed_hosts:
        if not _HOST.fullmatch(host):
            raise SettingsError(
                f"allowed_hosts has {host}, which no request comes to: give a name or an address alone, without "
                "scheme, port, pattern or a dot at its end, such as example.org; * for any"
            )
    if settings.queue_items < settings.max_texts:
        raise SettingsError(
            f"queue_items is {settings.queue_items} and max_texts {settings.max_texts}: a full request could never be "
            "accepted; raise queue_items or lower max_texts"
        )


def _reason(error: Exception) -> str:
    """The operating system's words without the path, which the message already has."""
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)
