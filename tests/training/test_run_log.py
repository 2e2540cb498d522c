"""The log of a run."""

from pathlib import Path

from training.run_log import RunLog, read_records


def test_log_goes_on_at_the_resumed_step(tmp_path: Path) -> None:
    """Lines after the resumed step and a torn last line are dropped; close draws the curves."""
    log = RunLog(tmp_path, 0)
    for step in (1, 2, 3):
        log.write(step, {"loss_next": 1.0 / step, "tokens": 10 * step})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss_')
    log = RunLog(tmp_path, 2)
    log.write(3, {"heldout_bits_per_character_en": 2.0, "tokens": 31})
    log.close()
    records = read_records(tmp_path / "metrics.jsonl")
    assert [(record["step"], record["tokens"]) for record in records] == [(1, 10), (2, 20), (3, 31)]
    assert (tmp_path / "loss.png").stat().st_size > 1000
