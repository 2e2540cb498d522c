"""Teach a checkpoint a text: `python -m training adapt CHECKPOINT TEXT... --output DIR`.

    1  set aside   a tenth of the lines, for the report only; training does not see them
    2  prepare     the rest and the replay, with the checkpoint's tokenizer; some lines are held out
    3  train       one pass at a time, each at half the rate of the one before, until the held-out
                   lines of the text gain too little. Replay is general text that is read along to
                   limit forgetting (Robins 1995)
    4  export      the best pass, if it passes the checks of `export`; word ends, known words and
                   most of the calibration stay
    5  report      the lines set aside, before and after, without and with `history`

The same command resumes an interrupted adaptation. DIR contains the text: protect it like the text.
DIR/checkpoint contains no text.
"""

import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from model.checkpoint import Checkpoint, is_checkpoint, load_checkpoint
from model.config import STRICT
from model.errors import CorpusError, RunError
from model.files import replaced_directory
from model.queries import Limits
from model.text import language_of
from training.cached_json import cached_json, require_same_settings, write_json
from training.config import DataOptions, OptimizerOptions, RunConfig, Size
from training.data.batches import held_out_batches
from training.data.cleaning import clean
from training.data.documents import read_inputs
from training.data.epoch import plan_epoch
from training.data.input_files import find_files
from training.data.prepare import PrepareOptions, prepare
from training.data.shards import Prepared, open_prepared, weigh_sources
from training.data.sources import named_sources
from training.data.splits import BLOCK_LINES
from training.evaluation.evaluate import evaluate
from training.evaluation.report import write_report
from training.evaluation.systems import open_system
from training.evaluation.test_items import choose_items, read_files
from training.export import ExportOptions, export
from training.options import argument, option
from training.run_state import find_state
from training.trainer import Trainer, stop_signals

MAX_CHARACTERS = 500
DROPOUT = 0.1
# Replay for each token of the text, so that it is 30 % of what is read
REPLAY = 0.3 / 0.7
SET_ASIDE_SHARE = 0.1
SET_ASIDE_LINES = 2_000
HELD_OUT_SHARE = 0.05
MIN_LINES = 100
# Occurrences from which a word is known; fewer than in `prepare`, as the text is small
KNOWN_FROM = 2
# Lines of a language with a smaller share are trained as lines of the other one
MIN_LANGUAGE_SHARE = 0.05
# A pass that lowers the bits of held-out text by a smaller share is the last one
MIN_GAIN = 0.001

Entry = dict[str, float]  # held-out bits in the journal, before training or after a pass


@dataclass(frozen=True, slots=True, config=STRICT)
class AdaptOptions:
    """Options of the command."""

    checkpoint: Path = argument("directory of the checkpoint to start from")
    text: tuple[str, ...] = argument("text to learn: files, folders or globs; one item a line")
    output: Path = option("directory for checkpoint, report and state", metavar="DIR")
    replay: tuple[str, ...] = option("general text to train on as well", (), metavar="TEXT")
    field: str | None = option("field of each JSON line that has the text", None, metavar="NAME")
    passes: Size = option("passes over the text, at most", 4, metavar="N")
    learning_rate: float = option("learning rate of the first pass", 1e-3, metavar="RATE")
    minutes: float = option("limit of CPU minutes per thread; 0 for none", 0.0)
    threads: int = option("threads of torch", 1)
    version: str = option("version to write (default: the old one and -adapted)", "")
    lines: int = option("lines for each language in the report", 500, metavar="N")
    typing_lines: int = option("lines for each language to type in the report", 150, metavar="N")
    seed: int = option("seed of every random choice", 1)


def run(options: AdaptOptions) -> int:
    """Run the command; 0 on success, 130 if interrupted."""
    report = adapt(options)
    if report is None:
        sys.stderr.write("interrupted; the same command resumes it\n")
        return 130
    sys.stdout.write(report)
    return 0


def adapt(options: AdaptOptions) -> str | None:
    """Write an adapted checkpoint to ``options.output / "checkpoint"``; return the report.

    Return None if a signal ended training, which the same call resumes.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        CorpusError: too little text, or unreadable text.
        RunError: the output belongs to other arguments or text, the checkpoint has no forward
            tower, or no pass made the held-out lines more probable.
        ExportError: the new weights lose too much in int8.
    """
    base = load_checkpoint(options.checkpoint)
    if "predict" not in base.capabilities:
        raise RunError(
            f"{options.checkpoint} only fills blanks; adapt a checkpoint with a forward tower"
        )
    require_same_settings(options.output, _settings(options, base))
    texts = _set_aside(options)
    prepared = _prepare(options, texts)
    own = {path.stem for path in texts}
    checkpoint = options.output / "checkpoint"
    journal = _train(options, _run_config(options, base, prepared, own), prepared, own)
    if journal is None:
        return None
    if _best(journal) == 0:
        before, *passes = (entry["own"] for entry in journal)
        raise RunError(
            f"{options.output}: no pass made the held-out lines more probable: {before:.3f} bits"
            f" per character before, {min(passes):.3f} at best after; give more text or a lower"
            " --learning-rate, and another --output"
        )
    if not is_checkpoint(checkpoint):
        version = options.version or f"{base.version}-adapted"
        export(ExportOptions(options.output / "best", checkpoint, base.name, version, base=base))
    report = options.output / "evaluation.md"
    if not report.is_file():
        _report(options, base)
    return report.read_text(encoding="utf-8")


def _settings(options: AdaptOptions, base: Checkpoint) -> dict[str, Any]:
    """Return everything that the result depends on."""
    free = ("output", "threads", "minutes")
    values = {name: value for name, value in asdict(options).items() if name not in free}
    found, _ = find_files([*options.text, *options.replay])
    stats = [(file.path, file.path.stat()) for file in found]
    files = [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]
    return values | {"checkpoint": base.digest, "files": files}


def _set_aside(options: AdaptOptions) -> list[Path]:
    """Write the text to ``text/aside`` and ``text/training``; return the files for training."""
    directory = options.output / "text"
    if not directory.is_dir():
        lines = _read(options)
        size = min(BLOCK_LINES, max(1, len(lines) // 20))  # neighbours stay together
        every = max(round(1 / SET_ASIDE_SHARE), len(lines) // SET_ASIDE_LINES)
        texts: dict[str, list[str]] = {}  # by path
        for number, (line, language) in enumerate(zip(lines, _languages(lines), strict=True)):
            part = "training" if number // size % every else "aside"
            texts.setdefault(f"{part}/text_{language}.txt", []).append(line)
        with replaced_directory(directory) as fresh:
            for path, chosen in texts.items():
                (fresh / path).parent.mkdir(exist_ok=True)
                (fresh / path).write_text("\n".join(chosen) + "\n", encoding="utf-8")
    return sorted((directory / "training").glob("*.txt"))


def _read(options: AdaptOptions) -> list[str]:
    lines = dict.fromkeys(
        line
        for text in read_inputs(options.text, options.field)
        for line in clean(text, MAX_CHARACTERS)
    )
    if len(lines) < MIN_LINES:
        raise CorpusError(
            f"{len(lines)} different lines with letters; adapting needs at least {MIN_LINES}. Send"
            " less text as `history` with each request instead"
        )
    return list(lines)


def _languages(lines: Sequence[str]) -> list[str]:
    """Return the language of each line; a rare one counts as the common one."""
    languages = [language_of(line) for line in lines]
    (common, count), *_ = Counter(languages).most_common(1)
    mixed = len(lines) - count >= MIN_LANGUAGE_SHARE * len(lines)
    return list(languages) if mixed else [common] * len(lines)


def _prepare(options: AdaptOptions, texts: Sequence[Path]) -> Prepared:
    """Prepare the text, and as much replay as all passes read."""
    own = named_sources([str(path) for path in texts])
    replay = named_sources(options.replay, options.field)
    size = options.passes * sum(path.stat().st_size for path in texts)
    limit = int(REPLAY * size / max(1, len(replay)))
    others = [
        replace(source, name=f"replay-{source.name}", limit_bytes=max(limit, 1000))
        for source in replay
    ]
    output = options.output / "prepared"
    settings = PrepareOptions(
        output=output,
        tokenizer=options.checkpoint / "tokenizer.model",
        held_out_share=HELD_OUT_SHARE,
        seed=options.seed,
        max_characters=MAX_CHARACTERS,
        known_from=KNOWN_FROM,
    )
    if not output.is_dir():  # it is complete, as it is renamed into place
        prepare((*own, *others), settings)
    return open_prepared(output)


def _best(journal: Sequence[Entry]) -> int:
    """Return the number of the entry with the fewest bits; 0 if no pass gained."""
    return min(range(len(journal)), key=lambda number: journal[number]["own"])


def _is_finished(journal: Sequence[Entry], passes: int) -> bool:
    """Return True if all passes were made, time is up, or the last pass gained too little."""
    if len(journal) < 2:
        return False
    *before, last = journal
    gained = last["own"] <= min(entry["own"] for entry in before) * (1 - MIN_GAIN)
    return len(before) >= passes or bool(last["out_of_time"]) or not gained


def _train(
    options: AdaptOptions, config: RunConfig, prepared: Prepared, own: set[str]
) -> list[Entry] | None:
    """Make passes and keep the best state; return the journal, or None if a signal came."""
    path, directory = options.output / "adapt.json", options.output / "run"
    journal: list[Entry] = cached_json(path, lambda: {"entries": []})["entries"]
    sources = weigh_sources(prepared.sources, config.data.source_weights)
    steps = len(plan_epoch(sources, config.data, options.seed, 0))
    with stop_signals() as stopping:
        while not _is_finished(journal, options.passes):
            number = max(1, len(journal))
            rate = options.learning_rate / 2 ** (number - 1)
            optimizer = replace(config.optimizer, learning_rate=rate, warmup_steps=min(20, steps))
            config = replace(config, steps=number * steps, optimizer=optimizer)
            trainer = Trainer(config, directory, resume=find_state(directory) is not None)
            out_of_time = False
            if journal:
                trainer.held_out = {}  # measured below, text and replay apart
                trainer.run(stopping)
                if stopping:
                    return None
                out_of_time = trainer.progress.step < config.steps
            bits = _held_out_bits(trainer, prepared, own)
            sys.stderr.write(f"held-out bits per character after {len(journal)} passes: {bits}\n")
            journal.append({**bits, "out_of_time": out_of_time})
            if _best(journal) == len(journal) - 1 > 0:
                with replaced_directory(options.output / "best") as fresh:
                    shutil.copytree(directory / "state", fresh, dirs_exist_ok=True)
            write_json(path, {"entries": journal})
    return journal


def _run_config(
    options: AdaptOptions, base: Checkpoint, prepared: Prepared, own: set[str]
) -> RunConfig:
    """Return the run; the weight of the replay gives it its share of the tokens of a pass."""
    sizes = {source.name: len(source.ids) for source in prepared.sources}
    others = {name: size for name, size in sizes.items() if name not in own}
    wanted = REPLAY * sum(sizes[name] for name in own)
    weight = min(1.0, max(1e-3, wanted / max(1, sum(others.values()))))
    weights = dict.fromkeys(sorted(own), 1.0) | dict.fromkeys(others, weight)
    return RunConfig(
        name=f"{base.name}-adapted",
        data=DataOptions(str(prepared.directory), rows=32, source_weights=weights),
        network=base.config.network,
        optimizer=OptimizerOptions(schedule="constant", warmup_steps=0),
        seed=options.seed,
        steps=1,
        minutes=options.minutes,
        threads=options.threads,
        dropout=DROPOUT,
        evaluate_every_steps=0,
        start_from=str(options.checkpoint),
    )


def _held_out_bits(trainer: Trainer, prepared: Prepared, own: set[str]) -> dict[str, float]:
    """Return bits per character of held-out lines: ``own`` and, if there is any, ``replay``."""
    bits: dict[str, float] = {}
    for kind in ("own", "replay"):
        shards = [each for each in prepared.held_out if (each.name in own) == (kind == "own")]
        trainer.held_out = held_out_batches(shards, trainer.flags, trainer.config.data)
        figures = trainer.evaluate()
        counts = {language: count for language, (_, count) in trainer.held_out.items()}
        if counts:
            weighted = (
                count * figures[f"heldout_bits_per_character_{language}"]
                for language, count in counts.items()
            )
            bits[kind] = sum(weighted) / sum(counts.values())
    return bits


def _report(options: AdaptOptions, base: Checkpoint) -> None:
    """Evaluate on the lines set aside, before and after, without and with history."""
    text = options.output / "text"
    training = [path.read_text(encoding="utf-8") for path in sorted((text / "training").iterdir())]
    history = "\n".join(training)[-Limits().history :]
    directories = {"adapted": options.output / "checkpoint", "before": options.checkpoint}
    systems = [
        replace(open_system(directory, threads=options.threads), name=name)
        for name, directory in directories.items()
    ]
    systems += [
        replace(each, name=f"{each.name}, with history", history=history) for each in systems
    ]
    files = read_files([str(text / "aside")])
    items = choose_items(files, base.tokenizer, options.lines, options.typing_lines, options.seed)
    write_report(evaluate(systems, items, options.seed), options.output)
