"""Options of a command: a frozen dataclass whose fields also declare the command line.

    @dataclass(frozen=True, slots=True)
    class GreetOptions:
        name: str = argument("who is greeted")           NAME
        output: Path = option("file to write")           --output OUTPUT, required
        times: int = option("greetings to write", 1)     --times TIMES, help ends in (default: 1)
        loud: bool = option("write capitals", False)     --loud
        log: Path | None = None                          not on the command line

A command's module has a function ``run(options: GreetOptions) -> int``; `training.__main__` finds
the class by this annotation. Types: str, int, float, Path, bool, Literal, ``X | None`` and
``tuple[X, ...]``, which takes one value or more. A pydantic dataclass also checks the values.
"""

import argparse
import sys
from dataclasses import MISSING, Field, field, fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ValidationError

from model.cpus import usable_cpus

Options = TypeVar("Options")


def argument(help_text: str, metavar: str | None = None, default: Any = MISSING) -> Any:
    """Declare a positional argument; without a default it is required."""
    metadata = {"positional": True, "help": help_text, "metavar": metavar}
    return field(default=default, metadata=metadata)


def option(help_text: str, default: Any = MISSING, metavar: str | None = None) -> Any:
    """Declare ``--name-of-the-field``; without a default it is required."""
    metadata = {"positional": False, "help": help_text, "metavar": metavar}
    return field(default=default, metadata=metadata)


def parse_options(cls: type[Options], parser: argparse.ArgumentParser, words: list[str]) -> Options:
    """Declare the arguments of a class of options, and parse a command line into it."""
    hints = get_type_hints(cls)
    declared = [each for each in fields(cls) if each.metadata]  # type: ignore[arg-type]
    for each in declared:
        names, settings = _argparse_settings(each, hints[each.name])
        parser.add_argument(*names, **settings)
    parsed = vars(parser.parse_args(words))
    try:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in parsed.items()})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]).replace("_", "-")
        parser.error(f"--{name}: {first['msg']}; got {first['input']}")


def _argparse_settings(each: Field[Any], hint: Any) -> tuple[list[str], dict[str, Any]]:
    """Return the positional and keyword arguments of ``add_argument`` for one field."""
    settings: dict[str, Any] = {"help": each.metadata["help"]}
    names = [each.name]
    positional, optional = each.metadata["positional"], each.default is not MISSING
    if not positional:
        names = [f"--{each.name.replace('_', '-')}"]
        settings["required"] = not optional
    if optional:
        settings["default"] = each.default
        if each.default not in (None, False, "", ()):
            settings["help"] += f" (default: {each.default})"
    if hint is bool:
        return names, settings | {"action": "store_true"}
    if each.metadata["metavar"]:
        settings["metavar"] = each.metadata["metavar"]
    elif positional:
        settings["metavar"] = each.name.upper()
    if type(None) in get_args(hint):  # X | None
        hint = get_args(hint)[0]
    if get_origin(hint) is Literal:
        settings |= {"choices": get_args(hint), "type": type(get_args(hint)[0])}
    elif get_origin(hint) is tuple:
        nargs = "*" if positional and optional else "+"
        settings |= {"type": get_args(hint)[0], "nargs": nargs}
    else:
        settings["type"] = hint
    return names, settings


def capped_threads(wanted: int, processes: int = 1) -> int:
    """Return the threads to use: no more than a process has CPUs; warn if more are wanted."""
    cpus = max(1, usable_cpus() // processes)
    if wanted > cpus:
        # Threads that wait for each other's CPU made a run 45 times slower
        sys.stderr.write(f"warning: {wanted} threads, but {cpus} CPUs are usable; using {cpus}\n")
    return min(wanted, cpus)
