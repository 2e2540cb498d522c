"""The ``lacuna`` command: serve, make keys, train, or answer questions without a server."""

import argparse
import io
import os
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import LacunaError

if TYPE_CHECKING:  # each command imports what it needs, so that Ctrl-C works at once
    from model.queries import (
        Candidate,
        ClozeQuery,
        ClozeResult,
        Filling,
        PredictQuery,
        Query,
        Result,
        ScoreQuery,
    )

_BAR = 20  # columns of the probability 1
_SHELLS = ("bash", "zsh", "fish")
# zsh runs it as bash does. If no word fits, both complete the names of files.
_BASH = """\
_lacuna() {
  local words="" word="${COMP_WORDS[COMP_CWORD]}"
  case "$COMP_CWORD ${COMP_WORDS[1]} $word" in
CASES
  esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _lacuna lacuna"""
_ZSH = "autoload -U +X compinit && compinit; autoload -U +X bashcompinit && bashcompinit\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 130 after Ctrl-C, or 1 if an input cannot be used or output read.

    ``serve``, ``keys`` and ``train`` have other statuses.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["serve"]:
        from service.__main__ import end_at_once
        from service.__main__ import main as serve

        end_at_once(serve(given[1:]))
    if given[:1] == ["keys"]:
        from service.auth import main as make_keys

        return make_keys(given[1:])
    if given[:1] == ["train"]:
        return _train(given[1:])
    options = _parser().parse_args(given)
    if options.command == "completion":
        sys.stdout.write(f"{_completion(options.shell)}\n")
        return 0
    try:
        queries = _queries(options)
        results = _answer(options.checkpoint, queries)
    except (LacunaError, OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"lacuna: {error}\n")
        return 1
    except KeyboardInterrupt:  # Ctrl-C, perhaps while it reads a terminal
        return 130
    is_json = not sys.stdout.isatty() if options.json is None else options.json
    try:
        for query, result in zip(queries, results, strict=True):
            sys.stdout.write(f"{_to_json(result) if is_json else _to_text(query.text, result)}\n")
        sys.stdout.flush()
    except BrokenPipeError:  # by `| head -1`; nothing is left to be flushed at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _train(words: Sequence[str]) -> int:
    if find_spec("torch") is None:
        sys.stderr.write(
            "lacuna: training needs torch, which is not installed; run `make training`, or"
            " install Lacuna with its extra `train`\n"
        )
        return 2
    from training.__main__ import run_module

    return run_module("lacuna train", "training.recipe", words)


def _queries(options: argparse.Namespace) -> "list[PredictQuery | ClozeQuery | ScoreQuery]":
    from model.queries import ClozeQuery, PredictQuery, ScoreQuery

    if options.command == "score":
        return [ScoreQuery(line.strip()) for line in _lines(options.file)]
    texts = _lines("-") if options.text == "-" else [options.text]
    if options.command == "predict":
        return [PredictQuery(text, options.top_k) for text in texts]
    choices = options.choices.split(",") if options.choices else None
    return [ClozeQuery(text, options.top_k, choices=choices) for text in texts]


def _lines(file: str) -> list[str]:
    """Return the lines of a file, or of standard input if it is ``-``, without empty ones."""
    text = sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
    # splitlines() would also divide a text at U+2028 or a form feed.
    return [line for line in re.split("\r?\n", text) if line.strip()]


def _answer(directory: Path, queries: Sequence["Query"]) -> list["Result"]:
    """Answer *queries* on the CPU.

    Raises:
        LacunaError: the checkpoint cannot be opened, or a query cannot be answered.
    """
    from model.predictor import Predictor, open_model

    results: list[Result] = []
    for number, result in enumerate(Predictor(*open_model(directory)).run(queries), start=1):
        if isinstance(result, LacunaError):
            raise LacunaError(f"text {number} of {len(queries)}: {result}")
        results.append(result)
    return results


def _to_json(result: "Result") -> str:
    from pydantic import TypeAdapter

    return TypeAdapter(type(result)).dump_json(result).decode()


def _to_text(text: str, result: "Result") -> str:
    """Return lines for people: the text with its first candidates, then all candidates."""
    from model.queries import ClozeResult, PredictResult, ScoreResult

    if isinstance(result, PredictResult):
        first = "".join(each.append for each in result.candidates[:1])
        return text + _paint(first, 1) + _rows(result.candidates)
    if isinstance(result, ClozeResult):
        return _filled(text, result) + "\n".join(_rows(each.candidates) for each in result.blanks)
    if isinstance(result, ScoreResult):
        return f"{result.bits_per_character:.3f} bits per character, {result.characters} characters"
    return "".join([part.text for part in result.parts])


def _filled(text: str, result: "ClozeResult") -> str:
    """Return the filled text; its words are what differs from *text*, which has blanks there."""
    starts = [*(each.start for each in result.blanks), len(text)]
    ends = [0, *(each.end for each in result.blanks)]
    between = [text[end:start] for end, start in zip(ends, starts, strict=True)]
    words = re.fullmatch("(.*?)".join(map(re.escape, between)), result.filled, re.DOTALL)
    if words is None:
        return result.filled
    painted = [_paint(word, 1) for word in words.groups()]
    return "".join(map("".join, zip(between, [*painted, ""], strict=True)))


def _rows(candidates: "Sequence[Candidate | Filling]") -> str:
    """Return a line per candidate: the probability as a number and as a bar, and the word."""
    return "".join(
        "\n" + _paint(f"{each.probability:7.1%} ", 2)
        + _paint(f"{'█' * round(_BAR * each.probability):{_BAR}} ", 36) + each.word
        for each in candidates
    )  # fmt: skip


def _paint(text: str, code: int) -> str:
    """Return *text* in a colour or weight of ANSI terminals; as it is for others, or NO_COLOR."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if is_plain or not sys.stdout.isatty() else f"\033[{code}m{text}\033[0m"


def _completion(shell: str) -> str:
    """Return a script that completes commands and their options."""
    commands = re.findall(r"^ {4}([a-z]+)", _parser().format_help(), re.MULTILINE)
    words = {"keys": ["new"], "completion": [*_SHELLS]}  # that are no options
    options = {name: _options_of(name, *words.get(name, ())[:1]) for name in commands}
    if shell == "fish":
        lines = [f"-f -n __fish_use_subcommand -a '{' '.join(commands)}'"]
        for name in commands:
            is_given = f"__fish_seen_subcommand_from {name}"
            lines.append(f"-n '{is_given}' -a '{' '.join(options[name])}'")
            if name in words:
                is_next = f"{is_given}; and __fish_is_nth_token 2"
                lines.append(f"-f -n '{is_next}' -a '{' '.join(words[name])}'")
        return "\n".join(f"complete -c lacuna {line}" for line in lines)
    patterns = {'"1 "*': commands} | {f'*" {name} -"*': options[name] for name in commands}
    patterns |= {f'"2 {name} "*': words[name] for name in words}
    cases = [f'    {each}) words="{" ".join(found)}" ;;' for each, found in patterns.items()]
    return (_ZSH if shell == "zsh" else "") + _BASH.replace("CASES", "\n".join(cases))


def _options_of(*command: str) -> list[str]:
    """Return the options that the help of a command lists: some have parsers of their own."""
    # On standard error, `train` says that torch is missing; then its options are not completed.
    with redirect_stderr(shown := io.StringIO()), redirect_stdout(shown), suppress(SystemExit):
        main([*command, "--help"])
    return sorted(set(re.findall(r"(?<=[ \[])--[a-z][a-z-]+", shown.getvalue())))


def _parser() -> argparse.ArgumentParser:
    from model.checkpoint import DEFAULT_CHECKPOINT

    parser = argparse.ArgumentParser(
        prog="lacuna", description="Predict the next word and fill blanks, in Chinese and English."
    )
    parser.add_argument("--version", action="version", version=f"lacuna {version('lacuna')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("serve", help="serve a checkpoint over HTTP; serve --help lists settings")
    commands.add_parser("keys", help="make API keys; keys --help")
    commands.add_parser("train", help="teach a checkpoint your text; train --help lists options")
    completion = commands.add_parser("completion", help="print a script that completes commands")
    completion.add_argument("shell", choices=_SHELLS)
    common = argparse.ArgumentParser(add_help=False)
    option = common.add_argument
    option(
        "--json",
        action=argparse.BooleanOptionalAction,
        help="print one JSON object per text, as also without a terminal",
    )
    option("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT, help="default: the bundled one")
    predict = commands.add_parser("predict", parents=[common], help="print the next words")
    cloze = commands.add_parser("cloze", parents=[common], help="print a text, its blanks filled")
    for command in (predict, cloze):
        command.add_argument("text", metavar="TEXT", help="- for standard input, a text per line")
        command.add_argument("--top-k", type=int, default=5, help="candidates (default: 5)")
    cloze.add_argument("--choices", metavar="A,B,…", help="offer only these words")
    score = commands.add_parser("score", parents=[common], help="print bits per character of lines")
    score.add_argument("file", metavar="FILE", help="UTF-8, a text per line; - for standard input")
    return parser


if __name__ == "__main__":
    sys.exit(main())
