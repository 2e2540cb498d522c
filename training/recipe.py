"""Teach a checkpoint your text, or train one from nothing: `lacuna train TEXT... --output DIR`.

    1  read      find files, read their text, report the findings              DIR/report.json
    2  prepare   text to tokens; some lines are held out for the choice of the
                 best state, others for the report                             DIR/data
    3  train     one run, whose sizes training/plan.py chooses; `--minutes 0`
                 leaves the network as it is                                   DIR/run
    4  count     n-grams of the text; the held-out lines decide their shares
                 in the mixture, and are then counted, too                     DIR/checkpoint
    5  compare   lines that training has not seen, before and after            DIR/evaluation.json

A result is complete or absent. After an interruption, the same command continues, and ends in the
same checkpoint, bit for bit. Replay is general text that is read along to limit forgetting (Robins
1995). The text can be put together again from DIR and from the counts of five tokens in a row in
DIR/checkpoint: keep both as private as the text. So only their owner may read them.

The counts of a text replace those of an earlier one; the general counts stay. A checkpoint without
any gets those of the text as its general counts.

Exit codes: 0 done; 2 an error; 3 a new network gained nothing, so no checkpoint; 130 interrupted.
"""

import hashlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from model.checkpoint import (
    CARD,
    DEFAULT_CHECKPOINT,
    WORDS,
    Checkpoint,
    check_target,
    is_checkpoint,
    load_checkpoint,
    revise_checkpoint,
)
from model.config import EVIDENCE, STRICT
from model.counts import Counts, CountsFiles
from model.errors import CorpusError, RunError
from model.files import write_atomically
from model.runtime import open_cpu_network
from model.text import LANGUAGES
from model.words import read_words, words_file
from training.cached_json import cached_json, require_same_settings
from training.config import RunConfig, Size
from training.data.input_files import find_files
from training.data.prepare import PrepareOptions, VocabularySize, prepare
from training.data.shards import Prepared, Shard, open_prepared
from training.data.sources import named_sources
from training.data.text_report import TextReport
from training.evaluation.calibrate import fit_counts_weights
from training.evaluation.model_card import ADDED_TEXT, model_card, notes_of
from training.evaluation.quantisation import held_out_lines
from training.evaluation.report import LANGUAGE_NAMES, cell, table
from training.ngram import count
from training.options import argument, capped_threads, option
from training.plan import (
    ADAPTING_PASSES,
    REPLAY,
    REPLAY_PREFIX,
    PlanOptions,
    guess_seconds,
    minutes,
    plan_run,
)
from training.progress import write_line

MIN_LINES = 100
# Occurrences from which a word is known; fewer than in `prepare`, as the text is small
KNOWN_FROM = 2
# Tokens of the longest n-gram, and the largest size of the counts, which few texts reach
ORDER, MAX_COUNTS_BYTES = 5, 20_000_000
COMPARED = {
    "bits_per_character": "bits per character",
    "next_top3": "next among 3",
    "cloze_top5": "blank among 5",
    "saved": "characters saved",
}


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class RecipeOptions(PlanOptions):
    """Options of the command."""

    checkpoint: Path = option("checkpoint to adapt", DEFAULT_CHECKPOINT, "DIR")
    text: tuple[str, ...] = argument("files, folders or globs")
    output: Path = option("directory for the checkpoint, the report and the state", metavar="DIR")
    from_scratch: bool = option("train a new network and vocabulary; adapt nothing", False)
    dry_run: bool = option("report the text and the chosen sizes; write nothing", False)
    replay: tuple[str, ...] = option("general text to train on as well", (), "TEXT")
    encoding: str | None = option("encoding of the text (default: detected)", None, "NAME")
    field: str | None = option("column or JSON member with the text (default: found)", None, "NAME")
    vocabulary_size: VocabularySize | None = option(
        "tokens, with --from-scratch (default: chosen)", None, "N"
    )
    # Held-out lines decide the shares of the counts, which would have none without them.
    held_out_share: Annotated[float, Field(gt=0, le=0.5)] | None = option(
        "lines held out (default: chosen)", None, "SHARE"
    )
    version: str = option("version to write (default: the old one and -adapted)", "")
    lines: Size = option("lines of each language in the comparison", 200, "N")
    typing_lines: Size = option("lines of each language to type in it", 40, "N")


def run(options: RecipeOptions) -> int:
    """Run the command; the module's docstring lists the exit codes."""
    try:
        return _run(options)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; the same command continues\n")
        return 130


def _run(options: RecipeOptions) -> int:
    """Take every step that has not been taken."""
    # In a folder where the output is made, too, a second `lacuna train *` names it.
    output = options.output.resolve()
    text = tuple(each for each in options.text if Path(each).resolve() != output)
    options = replace(options, text=text, threads=capped_threads(options.threads))
    base = _base(options)
    checkpoint = options.output / "checkpoint"
    _check_output(options, base)
    files, _ = find_files((*options.text, *options.replay))
    size = sum(file.path.stat().st_size for file in files)
    seconds = guess_seconds(size, options)
    write_line(f"files: {len(files)}, {size / 1e6:.1f} MB; about {minutes(seconds)} in all")
    if options.dry_run:
        with tempfile.TemporaryDirectory() as directory:
            _plan(replace(options, output=Path(directory)), base)
        return 0
    if not (options.output / "data").exists():  # nothing was made from an earlier text
        (options.output / "settings.json").unlink(missing_ok=True)
    options.output.mkdir(mode=0o700, parents=True, exist_ok=True)  # it will contain the text
    require_same_settings(options.output, _settings(options, base, [file.path for file in files]))
    config = _plan(options, base)
    if not is_checkpoint(checkpoint) and not _make(options, base, config):
        return 3
    write_line("comparison on lines that training has not seen: about a minute")
    sys.stdout.write(_comparison(options))
    program = "python -m lacuna" if sys.argv[0].endswith(".py") else sys.argv[0]
    sys.stdout.write(
        f"\nServe it:  {program} serve --checkpoint {checkpoint}\n"
        f"Undo it:   remove {options.output}, which contains your text; {options.checkpoint} is"
        " unchanged\n"
    )
    return 0


def _base(options: RecipeOptions) -> Checkpoint | None:
    """Return the checkpoint to adapt; None to train from nothing."""
    if options.from_scratch:
        if not options.trains:
            raise RunError("--from-scratch trains a network; give it --minutes above 0")
        return None
    if options.vocabulary_size is not None:
        raise RunError(
            f"--vocabulary-size {options.vocabulary_size}: an adapted checkpoint keeps its"
            " vocabulary; leave it out, or add --from-scratch"
        )
    base = load_checkpoint(options.checkpoint)
    if options.trains:
        base.required_network()
    if "predict" not in base.capabilities:
        raise RunError(
            f"{base.directory} only fills blanks; adapt a checkpoint with a forward tower"
        )
    return base


def _check_output(options: RecipeOptions, base: Checkpoint | None) -> None:
    """Raise a named error for an output that would only fail after training."""
    output = options.output.resolve()
    folders = [each for each in options.text if Path(each).resolve() in output.parents]
    if folders:
        raise RunError(
            f"{output} is in {folders[0]}, and would be read as text; name another --output"
        )
    if not is_checkpoint(output / "checkpoint"):
        check_target(output / "checkpoint", *_labels(options, base), overwrite=False)


def _labels(options: RecipeOptions, base: Checkpoint | None) -> tuple[str, str]:
    """Return name and version of the checkpoint that is written."""
    if base is None:
        return "own", options.version or "1"
    return base.name, options.version or f"{base.version[:55]}-adapted"


def _settings(
    options: RecipeOptions, base: Checkpoint | None, files: Sequence[Path]
) -> dict[str, Any]:
    """Return everything that the result depends on; files count by their content."""
    free = ("output", "dry_run", "text", "replay", "checkpoint")
    values = {name: value for name, value in asdict(options).items() if name not in free}
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append([path.name, hashlib.file_digest(file, "sha256").hexdigest()])
    return values | {"checkpoint": base.digest if base else "", "files": digests}


def _plan(options: RecipeOptions, base: Checkpoint | None) -> RunConfig | None:
    """Prepare the text, unless that is done; choose the run that trains the network, if any."""
    prepared = _prepare(options, base)
    if not options.trains:
        return None
    plan = plan_run(prepared, base, options)
    sys.stdout.write(plan.to_text())
    sys.stdout.flush()
    return plan.config


def _prepare(options: RecipeOptions, base: Checkpoint | None) -> Prepared:
    directory = options.output / "data"
    if not directory.is_dir():  # it is complete, as it is renamed into place
        own = named_sources(options.text, options.field)
        replay = named_sources(options.replay)
        size = sum(file.path.stat().st_size for file in find_files(options.text)[0])
        limit = max(1000, int(REPLAY * ADAPTING_PASSES * size / max(1, len(replay))))
        others = [
            replace(each, name=REPLAY_PREFIX + each.name, limit_bytes=limit, held_out=False)
            for each in replay
        ]
        settings = PrepareOptions(
            output=directory,
            tokenizer=base.directory / "tokenizer.model" if base else None,
            vocabulary_size=options.vocabulary_size,
            held_out_share=options.held_out_share,
            test_share=None,
            encoding=options.encoding,
            seed=options.seed,
            known_from=KNOWN_FROM,
        )
        prepare((*own, *others), settings, lambda report: _show(report, options.output))
    return open_prepared(directory)


def _show(report: TextReport, output: Path) -> None:
    """Print and write the report of the text; refuse too little text."""
    sys.stdout.write(report.to_text())
    sys.stdout.flush()
    write_atomically(output / "report.json", report.to_json().encode())
    own = {k: n for k, n in report.source_lines.items() if not k.startswith(REPLAY_PREFIX)}
    if (lines := sum(own.values())) < MIN_LINES:
        raise CorpusError(
            f"{lines} different lines with letters; training needs at least {MIN_LINES}. Send less"
            " text as `history`, or its words as `lexicon`, with each request instead"
        )


def _make(options: RecipeOptions, base: Checkpoint | None, config: RunConfig | None) -> bool:
    """Train the network, if there is a run for it, count, and write the checkpoint.

    Return False if a new network gained nothing, and no checkpoint was written.
    """
    best = _train(config, options.output / "run") if config else 0
    version = _labels(options, base)[1]
    if config and not best:
        write_line(
            f"{options.output}: the network gained nothing,"
            f" {'and stays as it was' if base else 'so no checkpoint is written'}: no state of the"
            " run predicts the held-out lines better than its start. Give more text or a lower"
            " --learning-rate, and another --output"
        )
    if best:
        write_line(f"export of step {best}: about half a minute")
        with tempfile.TemporaryDirectory(dir=options.output) as directory:
            _export(options, base, Path(directory) / "checkpoint")
            _add_counts(options, load_checkpoint(Path(directory) / "checkpoint"), version)
    elif base:
        _add_counts(options, base, version)
    return bool(best or base)


def _train(config: RunConfig, directory: Path) -> int:
    """Train to the end; return the number of the best step."""
    from training.run_state import find_state, read_state, saved_state  # torch loads slowly
    from training.trainer import train

    if not train(config, directory, resume=find_state(directory) is not None):
        raise KeyboardInterrupt
    return read_state(saved_state(directory)).progress.best_step


def _export(options: RecipeOptions, base: Checkpoint | None, checkpoint: Path) -> None:
    from training.export import ExportOptions, export

    best = options.output / "run" / "best"
    # A high cost of int8 is a warning: the comparison includes it, and training need not be lost.
    export(ExportOptions(best, checkpoint, *_labels(options, base), gate=False, base=base))


def _add_counts(options: RecipeOptions, start: Checkpoint, version: str) -> None:
    """Write the checkpoint: *start* with the counts and the known words of the text.

    A language that the text does not have gets no share of its counts.
    """
    data = open_prepared(options.output / "data")
    own = tuple(each for each in data.sources if not each.name.startswith(REPLAY_PREFIX))

    def counted(sources: tuple[Shard, ...]) -> CountsFiles:
        return count(replace(data, sources=sources), ORDER, MAX_COUNTS_BYTES)

    counts, files = counted(own)
    place = min(len(start.counts), 1)
    none = dict.fromkeys(LANGUAGES, (0.0,) * EVIDENCE)
    general, later = start.calibration.counts_weights
    weights = (general, none) if place else (none, later)
    calibration = replace(start.calibration, counts_weights=weights)
    layers = (*start.counts[:place], Counts(counts, list(files.values())))
    fitted = fit_counts_weights(
        replace(start, calibration=calibration, counts=layers),
        open_cpu_network(start, options.threads) if start.network else None,
        held_out_lines(data.held_out),
        first=place,
    )
    counts, files = counted((*own, *data.held_out))  # now that they are not needed for the shares
    known = (data.words, (start.directory / WORDS).read_bytes())
    notes = notes_of(start.directory / CARD)
    if not options.from_scratch and ADDED_TEXT not in notes:
        notes = f"{notes}\n\n{ADDED_TEXT}"
    configs = (*start.config.counts[:place], counts)
    described = replace(start.config, version=version, counts=configs, scores={})
    revise_checkpoint(
        start.directory,
        calibration=replace(calibration, counts_weights=fitted),
        scores={},
        card=model_card(described, notes),
        words=words_file(word for each in known for word in read_words(each)),
        counts={place: (counts, files)},
        version=version,
        output=options.output / "checkpoint",
    )


def _comparison(options: RecipeOptions) -> str:
    """Evaluate on the test lines, unless that is done; return a table."""
    from training.evaluation.evaluate import evaluate
    from training.evaluation.systems import open_system
    from training.evaluation.test_items import choose_items, read_files

    before = options.checkpoint

    def measure() -> dict[str, Any]:
        directories = {"before": before, "after": options.output / "checkpoint"}
        systems = [
            replace(open_system(directory, threads=options.threads), name=name)
            for name, directory in directories.items()
        ]
        files = read_files([str(options.output / "data" / "test")])
        tokenizer = load_checkpoint(before).tokenizer
        items = choose_items(files, tokenizer, options.lines, options.typing_lines, options.seed)
        return evaluate(systems, items, options.seed)

    report = cached_json(options.output / "evaluation.json", measure)
    rows = [
        (
            LANGUAGE_NAMES[language],
            label,
            *(cell(metric, value) for value in figure["values"]),
            f"{figure['n']:,}",
        )
        for language, summary in report["languages"].items()
        for metric, label in COMPARED.items()
        if (figure := summary["metrics"].get(metric))
    ]
    worse = [
        f"\n{LANGUAGE_NAMES[language]} is predicted better by {options.checkpoint}: give more such"
        f" text and --minutes{', or leave out --from-scratch' if options.from_scratch else ''}\n"
        for language, summary in report["languages"].items()
        if (bits := summary["metrics"]["bits_per_character"]["values"])[0] < bits[1]
    ]
    names = ("bundled", "yours") if options.from_scratch else ("before", "after")
    return table(rows, ("", "", *names, "n")) + "".join(worse)
