"""Teaches a checkpoint a text: `python -m training adapt CHECKPOINT TEXT... --replay TEXT... --output DIR`.

    1  set aside   a tenth of the lines, for the report alone: they decide nothing
    2  prepare     the rest and the replay with the checkpoint's own vocabulary; some of both is held out
    3  train       from the checkpoint's weights, a pass at a time, each at half the rate of the one before; as long as
                   the held-out part of the text becomes more probable. Replay is general text that is read along, so
                   that the network keeps what it knew of other text (Robins 1995)
    4  export      the best pass, behind the gates of `export`; what calibration and word ends it had stay
    5  report      the lines set aside, asked of the checkpoint before and after, each without and with ``history``

Begun again with the same arguments it goes on where it was. DIR holds the text itself, cleaned: whoever may not read
the text must not read DIR. DIR/checkpoint holds no text.
"""

import argparse
import hashlib
import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from model.checkpoint import Checkpoint, is_checkpoint, load_checkpoint
from model.errors import CorpusError, LacunaError, RunError
from model.queries import ClozeQuery, Limits, PredictQuery, Query, Result
from model.text import language_of
from training.config import DataOptions, OptimizerOptions, RunConfig
from training.data.batches import EpochPlan, heldout_batches
from training.data.prepare import BLOCK_LINES, PrepareOptions, named_sources, prepare
from training.data.shards import open_prepared, weigh
from training.data.text_sources import clean, expand_inputs, read_lines
from training.evaluation.evaluate import evaluate
from training.evaluation.report import write_report
from training.evaluation.systems import QueryRunner, open_system
from training.evaluation.test_items import choose_items, read_files
from training.export import ExportOptions, export
from training.ngram import build
from training.run_state import find_state, write_whole
from training.trainer import Trainer, stop_signals

MAX_CHARACTERS = 500
SET_ASIDE_SHARE = 0.1
SET_ASIDE_LINES = 2_000
HELD_OUT_SHARE = 0.05
MIN_LINES = 100
# A language with less than this share of the lines is trained with the other, as if it were that one
MIN_LANGUAGE_SHARE = 0.05
# A pass must make the held-out text more probable by this share of its bits, or it was the last
MIN_GAIN = 0.001
JOURNAL = "adapt.json"


@dataclass(frozen=True, slots=True)
class AdaptOptions:
    """What to adapt, to what and how.

    Attributes:
        checkpoint: directory of a checkpoint that knows a next word.
        text: files, folders or globs of the text to adapt to, read into memory.
        output: directory for everything that is written.
        replay: general text that is read along; without it nothing keeps what the network knew of other text.
        replay_share: of the tokens that are read, how many are of *replay*.
        field: the member of JSON Lines that holds the text.
        passes: over the text, at most.
        learning_rate: of the first pass; each further one has half of it.
        dropout: while training.
        minutes: process CPU minutes per thread after which training ends; 0 means no limit.
        threads: of torch.
        precision: of towers and softmax while training.
        version: of the new checkpoint; empty for the old one's with ``-adapted``.
        ngram: report a Kneser-Ney 5-gram of the same text too.
        lines: lines a language that the report asks about.
        typing_lines: lines a language that the report types.
        seed: of every random choice.
    """

    checkpoint: Path
    text: tuple[str, ...]
    output: Path
    replay: tuple[str, ...] = ()
    replay_share: float = 0.3
    field: str | None = None
    passes: int = 4
    learning_rate: float = 1e-3
    dropout: float = 0.1
    minutes: float = 0.0
    threads: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    version: str = ""
    ngram: bool = False
    lines: int = 500
    typing_lines: int = 150
    seed: int = 1

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise RunError(f"passes is {self.passes}; it must be at least 1")
        if not 0 < self.replay_share < 1:
            raise RunError(
                f"replay_share is {self.replay_share}; it must be between 0 and 1 (no --replay for none)"
            )


class WithHistory:
    """A predictor whose every question comes with the same earlier text."""

    def __init__(self, predictor: QueryRunner, history: str) -> None:
        self._predictor, self._history = predictor, history

    def run(self, queries: Sequence[Query]) -> Sequence[Result | LacunaError]:
        """Answer queries in order; a score knows no history."""
        return self._predictor.run(
            [
                replace(query, history=self._history)
                if isinstance(query, PredictQuery | ClozeQuery)
                else query
                for query in queries
            ]
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="directory of the checkpoint to begin with",
    )
    parser.add_argument(
        "text", nargs="+", metavar="TEXT", help="files, folders or globs; a line an item"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="for checkpoint, report and state"
    )
    parser.add_argument(
        "--replay", nargs="+", default=[], metavar="TEXT", help="general text that is read along"
    )
    parser.add_argument(
        "--replay-share", type=float, default=0.3, metavar="SHARE", help="of what is read (0.3)"
    )
    parser.add_argument("--field", metavar="NAME", help="member of JSON Lines that holds the text")
    parser.add_argument(
        "--passes", type=int, default=4, metavar="N", help="over the text, at most (4)"
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=1e-3,
        metavar="RATE",
        help="of the first pass (0.001)",
    )
    parser.add_argument(
        "--dropout", type=float, default=0.1, metavar="SHARE", help="while training (0.1)"
    )
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="of CPU per thread, at most (0: no limit)"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch (1)")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="while training (fp32)"
    )
    parser.add_argument(
        "--version", default="", help="of the new checkpoint (the old one's with -adapted)"
    )
    parser.add_argument(
        "--ngram", action="store_true", help="report a Kneser-Ney 5-gram of the same text too"
    )
    parser.add_argument(
        "--lines", type=int, default=500, metavar="N", help="lines that the report asks about (500)"
    )
    parser.add_argument(
        "--typing-lines", type=int, default=150, metavar="N", help="lines that it types (150)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of every random choice (1)")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 0 on success, 130 where interrupted."""
    values = {name: getattr(arguments, name) for name in AdaptOptions.__dataclass_fields__}
    try:
        report = adapt(
            AdaptOptions(**values | {name: tuple(values[name]) for name in ("text", "replay")})
        )
    except KeyboardInterrupt:  # while it prepared or reported
        report = None
    if report is None:
        sys.stderr.write("interrupted; the same command goes on\n")
        return 130
    sys.stdout.write(report)
    return 0


def adapt(options: AdaptOptions) -> str | None:
    """Adapt a checkpoint; it is at ``options.output / "checkpoint"`` then.

    Returns:
        The report, Markdown; None where a signal ended training, which begins again where it was.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        CorpusError: too little text, or unreadable text.
        RunError: the output was begun with other arguments or text, the checkpoint knows no next word, or no pass
            made the held-out text more probable.
        ExportError: the new weights lose too much in int8.
    """
    base = load_checkpoint(options.checkpoint)
    if "predict" not in base.capabilities:
        raise RunError(
            f"{options.checkpoint} fills blanks only and knows no next word; adapt one with a forward tower"
        )
    journal = _open_journal(options, base)
    texts = _set_aside(options)
    data = _prepare(options, texts)
    checkpoint = options.output / "checkpoint"
    if not is_checkpoint(checkpoint):
        if not _train(options, journal, data, [path.stem for path in texts]):
            return None
        best = ExportOptions(
            options.output / "best", checkpoint, base.name, _version(options, base), prepared=data
        )
        export(replace(best, base=base))
    report = options.output / "evaluation.md"
    if not report.is_file():
        _report(options, data)
    return f"{_story(options)}\n{report.read_text(encoding='utf-8')}"


def _version(options: AdaptOptions, base: Checkpoint) -> str:
    return options.version or f"{base.version}-adapted"


def _open_journal(options: AdaptOptions, base: Checkpoint) -> dict[str, Any]:
    """What was done so far in this output directory: figures before, and after each pass."""
    files = [
        [str(path), path.stat().st_size, path.stat().st_mtime_ns]
        for path in expand_inputs([*options.text, *options.replay])
    ]
    settings = {
        **asdict(options),
        "checkpoint": base.digest,
        "output": "",
        "threads": 0,
        "minutes": 0,
    }
    begun_with = hashlib.sha256(json.dumps([settings, files]).encode()).hexdigest()
    path = options.output / JOURNAL
    if not path.is_file():
        options.output.mkdir(parents=True, exist_ok=True)
        journal: dict[str, Any] = {"begun_with": begun_with, "base": base.digest, "passes": []}
        _save_journal(options, journal)
        return journal
    try:
        journal = json.loads(path.read_text(encoding="utf-8"))
        if journal["begun_with"] == begun_with:
            return journal
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path}: cannot be read: {error!r}; remove {options.output} or name another"
        ) from error
    raise RunError(
        f"{options.output} was begun with another checkpoint, text or arguments; remove it, or name another --output"
    )


def _save_journal(options: AdaptOptions, journal: dict[str, Any]) -> None:
    write_whole(options.output / JOURNAL, (json.dumps(journal, indent=1) + "\n").encode())


# ── 1. the text ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _set_aside(options: AdaptOptions) -> list[Path]:
    """Write the text in two parts, for training and for the report, by language; duplicates stay out.

    Returns:
        The files for training; those for the report are ``aside/text_LANGUAGE.txt``.
    """
    directory = options.output / "text"
    if not directory.is_dir():
        lines = _read(options)
        blocks = [lines[start : start + BLOCK_LINES] for start in range(0, len(lines), BLOCK_LINES)]
        if len(lines) < 20 * BLOCK_LINES:  # few lines: smaller blocks, so that there are several
            size = max(1, len(lines) // 20)
            blocks = [lines[start : start + size] for start in range(0, len(lines), size)]
        wanted = min(SET_ASIDE_SHARE * len(lines), SET_ASIDE_LINES)
        order = random.Random(options.seed).sample(range(len(blocks)), len(blocks))
        aside: set[int] = set()
        for number in order:
            if sum(len(blocks[chosen]) for chosen in aside) >= wanted:
                break
            aside.add(number)
        shutil.rmtree(directory.with_name("text.new"), ignore_errors=True)
        for part, chosen in (("aside", True), ("training", False)):
            own = [
                line
                for number, block in enumerate(blocks)
                if (number in aside) == chosen
                for line in block
            ]
            _write_lines(directory.with_name("text.new") / part, own)
        directory.with_name("text.new").rename(directory)
    return sorted((directory / "training").glob("*.txt"))


def _read(options: AdaptOptions) -> list[str]:
    counts: Counter[str] = Counter()
    lines = dict.fromkeys(
        line
        for path in expand_inputs(list(options.text))
        for _, text, _ in read_lines(path, options.field)
        for line in clean(text, MAX_CHARACTERS, counts)
    )
    if len(lines) < MIN_LINES:
        raise CorpusError(
            f"{len(lines)} different lines with letters; adapting takes at least {MIN_LINES}. For less text, send it"
            " with each question as `history`"
        )
    return list(lines)


def _write_lines(directory: Path, lines: Sequence[str]) -> None:
    languages = [language_of(line) for line in lines]
    shares = {language: count / len(lines) for language, count in Counter(languages).items()}
    common = max(shares, key=lambda language: shares[language])
    directory.mkdir(parents=True)
    for language in shares:
        own = [
            line
            for line, detected in zip(lines, languages, strict=True)
            if (detected if shares[detected] >= MIN_LANGUAGE_SHARE else common) == language
        ]
        if own:
            (directory / f"text_{language}.txt").write_text("\n".join(own) + "\n", encoding="utf-8")


def _prepare(options: AdaptOptions, texts: Sequence[Path]) -> Path:
    """Own text and replay as shards; of the replay as much as all passes together read."""
    own = [
        replace(source, name=path.stem, language=path.stem.removeprefix("text_"))
        for path, source in zip(
            texts, named_sources([str(path) for path in texts], None, "auto", False), strict=True
        )
    ]
    size = sum(path.stat().st_size for path in texts)
    replay = named_sources(options.replay, options.field, "auto", consecutive=False)
    limit = int(
        options.passes
        * size
        * options.replay_share
        / (1 - options.replay_share)
        / max(1, len(replay))
    )
    others = [
        replace(source, name=f"replay-{source.name}", limit_bytes=max(limit, 1000))
        for source in replay
    ]
    return prepare(
        PrepareOptions(
            options.output / "prepared",
            (*own, *others),
            tokenizer=options.checkpoint / "tokenizer.model",
            held_out_share=HELD_OUT_SHARE,
            seed=options.seed,
            max_characters=MAX_CHARACTERS,
        )
    )


# ── 2. training ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _train(options: AdaptOptions, journal: dict[str, Any], data: Path, own: Sequence[str]) -> bool:
    """Pass by pass until one gains too little; ``output/best`` holds the best state then. False: a signal came."""
    directory = options.output / "run"
    config = _run_config(options, data, own)
    prepared = open_prepared(data)
    tokens = EpochPlan(
        weigh(prepared.sources, (), config.data.weights), config.data, options.seed, 0
    )
    steps = len(tokens)
    with stop_signals() as stopping:
        while not journal.get("finished"):
            number = len(journal["passes"])
            rate = options.learning_rate / 2**number
            config = replace(
                config,
                steps=(number + 1) * steps,
                optimizer=replace(
                    config.optimizer, learning_rate=rate, warmup_steps=min(20, steps)
                ),
            )
            trainer = Trainer(config, directory, resume=find_state(directory) is not None)
            if "before" not in journal:
                journal["before"] = _held_out_bits(trainer, prepared.held_out, own)
                _save_journal(options, journal)
            trainer.heldout = {}  # scored below, the two kinds of text apart
            trainer.run(stopping)
            if stopping:
                return False
            figures = _held_out_bits(trainer, prepared.held_out, own)
            entry = {"learning_rate": rate, "tokens": trainer.progress.tokens, **figures}
            _judge(options, journal, entry, out_of_time=trainer.progress.step < config.steps)
    if journal["best"] is None:
        bits = [journal["before"]["own"], min(entry["own"] for entry in journal["passes"])]
        raise RunError(
            f"{options.output}: no pass made the held-out lines more probable: {bits[0]:.3f} bits per character before,"
            f" {bits[1]:.3f} at best after; give more text, or a lower --learning-rate, and another --output"
        )
    return True


def _judge(
    options: AdaptOptions, journal: dict[str, Any], entry: dict[str, float], *, out_of_time: bool
) -> None:
    """Keep the pass if it is the best so far, and say whether it was the last."""
    best = min([journal["before"]["own"], *(each["own"] for each in journal["passes"])])
    gained = entry["own"] < best
    if gained:
        state, fresh = options.output / "best", options.output / "best.new"
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(options.output / "run" / "state", fresh)
        shutil.rmtree(state, ignore_errors=True)
        fresh.rename(state)
    journal["passes"].append(entry)
    journal["best"] = len(journal["passes"]) if gained else journal.get("best")
    last = len(journal["passes"]) >= options.passes or out_of_time
    journal["finished"] = last or entry["own"] > best * (1 - MIN_GAIN)
    _save_journal(options, journal)


def _run_config(options: AdaptOptions, data: Path, own: Sequence[str]) -> RunConfig:
    """The run; its replay weighs so much that it is the wanted share of the tokens of a pass."""
    base = load_checkpoint(options.checkpoint)
    sources = open_prepared(data).sources
    sizes = {source.name: len(source.ids) for source in sources}
    wanted = sum(sizes[name] for name in own) * options.replay_share / (1 - options.replay_share)
    others = {name: size for name, size in sizes.items() if name not in own}
    weight = min(1.0, max(1e-3, wanted / max(1, sum(others.values()))))
    return RunConfig(
        name=f"{base.name}-adapted",
        data=DataOptions(
            str(data), rows=32, weights=dict.fromkeys(own, 1.0) | dict.fromkeys(others, weight)
        ),
        network=base.network_config,
        optimizer=OptimizerOptions(schedule="constant", warmup_steps=0),
        seed=options.seed,
        steps=1,
        minutes=options.minutes,
        threads=options.threads,
        precision=options.precision,
        dropout=options.dropout,
        evaluate_every_steps=0,
        start_from=str(options.checkpoint),
    )


def _held_out_bits(
    trainer: Trainer, held_out: Sequence[Any], own: Sequence[str]
) -> dict[str, float]:
    """Bits per character of held-out lines: ``own`` of the text, ``replay`` of the replay where there is any."""
    figures: dict[str, float] = {}
    for kind, chosen in (
        ("own", [shard for shard in held_out if shard.name in own]),
        ("replay", [shard for shard in held_out if shard.name not in own]),
    ):
        if not chosen:
            continue
        trainer.heldout = heldout_batches(chosen, trainer.flags, trainer.config.data)
        characters = np.array([count for _, count in trainer.heldout.values()])
        measured = trainer.evaluate()
        bits = np.array(
            [measured[f"heldout_bits_per_character_{language}"] for language in trainer.heldout]
        )
        figures[kind] = float(bits @ characters / characters.sum())
    return figures


# ── 3. the report ────────────────────────────────────────────────────────────────────────────────────────────────────


def _report(options: AdaptOptions, data: Path) -> None:
    """Ask before and after about the lines set aside, which neither training nor calibration saw."""
    aside = sorted((options.output / "text" / "aside").glob("*.txt"))
    training = sorted((options.output / "text" / "training").glob("*.txt"))
    earlier = "\n".join(path.read_text(encoding="utf-8") for path in training)
    history = earlier[-Limits().history :]
    opened = {
        "before": open_system(options.checkpoint, threads=options.threads),
        "adapted": open_system(options.output / "checkpoint", threads=options.threads),
    }
    contestants = [replace(opened[name], name=name) for name in ("adapted", "before")]
    for name in ("before", "adapted"):
        predictor = WithHistory(opened[name].predictor, history)
        contestants.append(replace(opened[name], name=f"{name}, with history", predictor=predictor))
    if options.ngram:
        directory = options.output / "5-gram"
        if not directory.exists():
            build(data, directory, 5)
        contestants.append(
            replace(open_system(directory), name="5-gram of the text and the replay")
        )
    files = read_files([str(path) for path in aside], None, None, options.seed)
    tokenizer = load_checkpoint(options.checkpoint).tokenizer
    questions = choose_items(files, tokenizer, options.lines, options.typing_lines, options.seed)
    write_report(evaluate(contestants, questions, options.seed), options.output)


def _story(options: AdaptOptions) -> str:
    """What training did, pass by pass."""
    journal = json.loads((options.output / JOURNAL).read_text(encoding="utf-8"))
    replayed = "replay" in journal["before"]
    rows = [
        "| pass | learning rate | tokens read | the text | replay |",
        "| --- | --- | --- | --- | --- |",
    ]
    for number, entry in enumerate([journal["before"], *journal["passes"]]):
        rate, tokens = (
            (f"{entry['learning_rate']:g}", f"{entry['tokens']:,}") if number else ("–", "–")
        )
        kept = " (kept)" if number and number == journal["best"] else ""
        general = f"{entry['replay']:.3f}" if replayed else "–"
        rows.append(
            f"| {number or 'before'}{kept} | {rate} | {tokens} | {entry['own']:.3f} | {general} |"
        )
    lost = (
        ""
        if replayed
        else "\nWithout --replay, what the network lost on other text was not measured.\n"
    )
    return (
        "# Adaptation\n\nBits per character of held-out lines:\n\n" + "\n".join(rows) + "\n" + lost
    )
