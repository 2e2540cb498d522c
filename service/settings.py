"""The settings: what an operator can set, and which source wins.

Strongest first: command line, ``LACUNA_*`` environment, TOML file, default. An unknown key is an
error in each source: a misspelt limit must not leave the limit off.
"""

import argparse
import ipaddress
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
)

from model.checkpoint import DEFAULT_CHECKPOINT
from model.queries import Limits
from service.guarded_file import GuardedFileError, read_guarded_file

PREFIX = "LACUNA_"
# The most that `max_lexicon` may be: longer lists are not even read.
MAX_LEXICON = 4_096


def _split(value: object) -> object:
    """Split at commas; a list comes from a TOML file."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


Port = Annotated[int, Field(ge=0, le=65535)]
# As browsers send it.
Origin = Annotated[str, StringConstraints(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^\sA-Z/,]+)$")]
# A name or an address; an IPv6 address has at least two colons.
Host = Annotated[
    str,
    StringConstraints(
        pattern=r"^(\*|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|[0-9A-Fa-f]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)$"
    ),
]


class SettingsError(Exception):
    """A setting is unknown, malformed or unsafe. The message has its source and the remedy."""


class Settings(BaseModel):
    """Serve a checkpoint. Each option is also a variable (LACUNA_PORT) and a TOML key (port)."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    config: Path | None = Field(None, description="TOML file with settings")
    checkpoint: Path = Field(DEFAULT_CHECKPOINT, description="checkpoint directory to serve")
    host: str = Field("127.0.0.1", description="address to bind; off loopback, keys are required")
    port: Port = Field(8000, description="TCP port; 0 takes a free one and logs it")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto, cpu or cuda")
    threads: int = Field(0, ge=0, le=256, description="threads of a network call; 0: by the CPUs")
    keys_file: Path | None = Field(None, description="TOML file of keys, made by: lacuna keys new")
    allow_anonymous: bool = Field(False, description="serve off loopback without keys")
    texts_per_minute: int = Field(
        0, ge=0, description="texts per minute for a key without its own limit; 0: no limit"
    )
    work_seconds_per_minute: int = Field(
        0, ge=0, description="the same for its work, in estimated seconds of one reference core"
    )
    allowed_hosts: Annotated[tuple[Host, ...], BeforeValidator(_split)] = Field(
        (), description="hosts that requests may name, without ports: example.org, …; * for any"
    )
    allowed_origins: Annotated[tuple[Origin, ...], BeforeValidator(_split)] = Field(
        (), description="origins whose pages may ask (CORS): https://example.org, …; * for any"
    )
    metrics_port: Port | None = Field(None, description="serve /metrics here only, without keys")
    max_connections: int = Field(
        1024, ge=1, description="open connections; fewer if the system allows fewer descriptors"
    )
    deadline_seconds: float = Field(
        10, gt=0, le=3600, description="time for an answer; 504 after it, or 429 at once"
    )
    queue_items: int = Field(512, ge=1, description="texts that may wait for the engine")
    batch_items: int = Field(64, ge=1, description="texts that the engine decodes together")
    prefix_cache_mib: int = Field(64, ge=0, description="memory of the prefix cache, in MiB")
    drain_seconds: float = Field(0, ge=0, le=600, description="answer 503 this long after SIGTERM")
    grace_seconds: int = Field(15, ge=1, le=3600, description="then let requests finish this long")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info",
        description="minimum for request logs: debug, info, warning or error",
    )
    stall_seconds: float = Field(30, gt=0, description="a longer step makes /livez answer 503")
    max_checkpoint_mib: int = Field(256, ge=1, description="largest checkpoint, all files in MiB")
    load_seconds: float = Field(300, gt=0, description="time for a reload; then the old one stays")
    max_body_bytes: int = Field(1 << 20, ge=1, description="largest request body")
    max_characters: int = Field(10_000, ge=1, description="longest text, in code points")
    max_texts: int = Field(64, ge=1, description="most texts in one request")
    max_work_seconds: float = Field(
        4, gt=0, description="most estimated work of one request, in seconds of a reference core"
    )
    max_top_k: int = Field(100, ge=1, description="largest top_k")
    max_blanks: int = Field(64, ge=1, description="most blanks in one text")
    max_choices: int = Field(256, ge=1, description="most choices for one blank")
    max_choice_characters: int = Field(
        4_096, ge=1, description="most code points of all choices for one blank"
    )
    max_history: int = Field(20_000, ge=0, description="longest history, in code points")
    max_lexicon: int = Field(
        256, ge=0, le=MAX_LEXICON, description="most words of a lexicon, or blocked ones"
    )
    max_fillings: int = Field(16, ge=1, description="most fillings of all blanks together")
    max_tokens: int = Field(64, ge=1, description="most tokens of one completion")
    max_words: int = Field(8, ge=1, description="most words of a candidate")

    # Not on the command line, where every user of the machine would see them.
    keys: Annotated[tuple[SecretStr, ...], BeforeValidator(_split)] = Field(
        (), description="API keys, comma separated in LACUNA_KEYS"
    )

    @property
    def limits(self) -> Limits:
        """The limits on one text."""
        return Limits(
            characters=self.max_characters,
            top_k=self.max_top_k,
            blanks=self.max_blanks,
            choices=self.max_choices,
            choice_characters=self.max_choice_characters,
            history=self.max_history,
            lexicon=self.max_lexicon,
            fillings=self.max_fillings,
            tokens=self.max_tokens,
            words=self.max_words,
        )


def read_settings(arguments: Sequence[str]) -> Settings:
    """Merge command line, environment and TOML file, and check the whole.

    Raises:
        SettingsError: unknown, malformed or unsafe settings, or a file that cannot be read.
        SystemExit: ``--help``, or a command line that argparse refuses (status 2).
    """
    options = vars(_parser().parse_args(arguments))
    variables = {
        name.upper().removeprefix(PREFIX).lower(): value
        for name, value in os.environ.items()
        if name.upper().startswith(PREFIX)
    }
    file = options.get("config") or variables.get("config")
    try:
        keys = tomllib.loads(read_guarded_file(Path(file))) if file else {}
    except (GuardedFileError, ValueError, RecursionError) as error:
        raise SettingsError(f"settings file {file}: {error}") from None
    sources = {
        **{name: f"settings file {file}: {name}" for name in keys},
        **{name: f"environment variable {PREFIX}{name.upper()}" for name in variables},
        **{name: "--" + name.replace("_", "-") for name in options},
    }
    try:
        settings = Settings(**{**keys, **variables, **options})
    except ValidationError as error:
        # Without the value, which may be a key.
        first = error.errors(include_input=False, include_url=False)[0]
        name = str(first["loc"][0])
        unknown = "is not a setting; lacuna serve --help lists them"
        reason = unknown if first["type"] == "extra_forbidden" else first["msg"]
        raise SettingsError(f"{sources[name]}: {reason}") from None
    if settings.queue_items < settings.max_texts:
        raise SettingsError(
            f"queue_items is {settings.queue_items} and max_texts is {settings.max_texts}: a full "
            "request could never be accepted; raise queue_items or lower max_texts"
        )
    guarded = settings.keys or settings.keys_file or settings.allow_anonymous
    if not guarded and not is_loopback(settings.host):
        raise SettingsError(
            f"host {settings.host} is reachable from other machines, and no API keys are set: "
            "set LACUNA_KEYS or --keys-file, or waive them with --allow-anonymous"
        )
    return settings


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches *host*. No name but ``localhost`` is trusted."""
    return ipaddress.ip_address(host).is_loopback if is_address(host) else host == "localhost"


def is_address(host: str) -> bool:
    """Return whether *host* is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "lacuna serve",
        description=Settings.__doc__,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for name, field in Settings.model_fields.items():
        if name == "keys":
            continue
        default = "none" if field.default in (None, ()) else field.default
        parser.add_argument(
            "--" + name.replace("_", "-"),
            action=argparse.BooleanOptionalAction if field.annotation is bool else "store",
            help=f"{field.description} (default: {default})",
        )
    return parser
