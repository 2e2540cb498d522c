"""A run that diverges is stopped, and never replaces a good state."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from model.errors import DivergedError
from tests.training.tiny_config import tiny_config
from training.config import OptimizerOptions
from training.divergence import ODD, WINDOW, LossWatch, diverged
from training.trainer import Trainer, train


def test_a_run_that_gets_worse_than_a_guess_is_stopped(prepared: Path, tmp_path: Path) -> None:
    """A rate that is far too high never replaces a good state; the error names a lower rate."""
    optimizer = OptimizerOptions(learning_rate=100.0, schedule="constant", warmup_steps=1000)
    changes = {"full_softmax_steps": 0, "save_every_seconds": 0.0, "evaluate_every_steps": 0}
    run = tiny_config(prepared, optimizer=optimizer, **changes)
    match = r"guess has 6\.397; .*state of step \d+ is kept.* to 0\.01 or less,.* `train --resume`"
    with pytest.raises(DivergedError, match=match):
        train(run, tmp_path / "run")
    kept = Trainer(run, tmp_path / "run", resume=True)
    assert kept.progress.step >= 1
    assert kept.held_out_loss(kept.evaluate()) < 10
    lower = replace(run, optimizer=replace(optimizer, learning_rate=1e-3))
    assert train(lower, tmp_path / "run", resume=True)
    long = replace(run, steps=1000, save_every_seconds=100.0)
    with pytest.raises(DivergedError, match=r"step \d\d: .*nothing was saved yet; .*begin again"):
        train(long, tmp_path / "other")
    assert not (tmp_path / "other" / "state").exists()


def test_a_state_that_looks_bad_is_saved_later(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The saves that are due in a bad moment are left out; the run goes on."""
    trainer = Trainer(tiny_config(prepared, save_every_seconds=0.0), tmp_path / "run")
    saved, save = [], trainer.save

    def note() -> None:
        saved.append(trainer.progress.step)
        save()

    trainer.save = note  # type: ignore[method-assign]
    monkeypatch.setattr(trainer.watch, "is_good", lambda _: trainer.progress.step > 9)
    trainer.run([])
    assert sorted(set(saved)) == [10, 11, 12]


def test_a_third_of_the_rate_is_suggested(tmp_path: Path) -> None:
    """Nothing is saved yet, so the run begins again."""
    line = str(diverged(tmp_path, 7, "loss nan", 3e-3))
    assert line.startswith("step 7: diverged: loss nan; nothing was saved yet; ")
    assert line.endswith("to 0.001 or less, and begin again")


def test_losses_are_compared_with_a_uniform_guess() -> None:
    """The median of a window decides; one odd batch does not, nor a start above the guess."""
    uniform = math.log(600)
    watch = LossWatch(600)
    assert watch.is_good(99.0), "no step yet"
    for loss in (5.0, 99.0, *[6.0] * WINDOW):
        watch.add(loss)
    assert watch.is_good(6.0)
    assert not watch.is_good(ODD * uniform + 0.1)
    for loss in [uniform + 0.1] * (WINDOW // 2):
        watch.add(loss)
        assert not watch.has_diverged()
    watch.add(uniform + 0.1)
    assert watch.has_diverged()
    assert not watch.is_good(6.0)
    other_script = LossWatch(600)
    for loss in [9.0] * WINDOW:
        other_script.add(loss)
    assert other_script.is_good(9.0)
    assert not other_script.has_diverged()
