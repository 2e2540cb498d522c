"""The ``lacuna`` command: serve, make keys, train, or answer questions without a server."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import LacunaError

if TYPE_CHECKING:  # each command imports what it needs, so that Ctrl-C works at once
    from model.queries import Query, Result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 1 if a text, file or checkpoint cannot be used.

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
    try:
        results = _answer(options.checkpoint, _queries(options))
    except (LacunaError, OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"lacuna: {error}\n")
        return 1
    show = _to_json if options.json else _to_text
    sys.stdout.writelines(f"{show(result)}\n" for result in results)
    return 0


def _train(words: Sequence[str]) -> int:
    if find_spec("torch") is None:
        sys.stderr.write(
            "lacuna: training needs torch, which is not installed; run `make training`, or"
            " pip install 'lacuna[train]'\n"
        )
        return 2
    from training.__main__ import run_module

    return run_module("lacuna train", "training.recipe", words)


def _queries(options: argparse.Namespace) -> list["Query"]:
    from model.queries import ClozeQuery, PredictQuery, ScoreQuery

    if options.command == "predict":
        return [PredictQuery(options.text, options.top_k)]
    if options.command == "cloze":
        choices = options.choices.split(",") if options.choices else None
        return [ClozeQuery(options.text, options.top_k, choices=choices)]
    text = sys.stdin.read() if options.file == "-" else Path(options.file).read_text("utf-8")
    return [ScoreQuery(line) for each in text.splitlines() if (line := each.strip())]


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


def _to_text(result: "Result") -> str:
    from model.queries import ClozeResult, PredictResult, ScoreResult

    if isinstance(result, PredictResult):
        return "\n".join(f"{each.probability:.3f}  {each.word}" for each in result.candidates)
    if isinstance(result, ClozeResult):
        blanks = (
            ", ".join(f"{each.word} {each.probability:.3f}" for each in blank.candidates)
            for blank in result.blanks
        )
        return "\n".join([result.filled, *blanks])
    if isinstance(result, ScoreResult):
        return f"{result.bits_per_character:.3f} bits per character, {result.characters} characters"
    return "".join([part.text for part in result.parts])


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
    common = argparse.ArgumentParser(add_help=False)
    option = common.add_argument
    option("--json", action="store_true", help="print one JSON object per text")
    option("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT, help="default: the bundled one")
    predict = commands.add_parser("predict", parents=[common], help="print the next words")
    cloze = commands.add_parser("cloze", parents=[common], help="print a text, its blanks filled")
    for command in (predict, cloze):
        command.add_argument("text", metavar="TEXT")
        command.add_argument("--top-k", type=int, default=5, help="candidates (default: 5)")
    cloze.add_argument("--choices", metavar="A,B,…", help="offer only these words")
    score = commands.add_parser("score", parents=[common], help="print bits per character of lines")
    score.add_argument("file", metavar="FILE", help="UTF-8, a text per line; - for standard input")
    return parser


if __name__ == "__main__":
    sys.exit(main())
