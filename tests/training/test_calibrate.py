"""Fitting temperatures and rescoring weights."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from model.checkpoint import load_checkpoint
from model.config import EVIDENCE, Calibration
from model.errors import LacunaError
from model.queries import Blank, ClozeResult, Filling, Query, Result, Usage
from training.__main__ import main
from training.evaluation import calibrate as command
from training.evaluation.calibrate import (
    fit_choices,
    fit_cloze_calibration,
    fit_shares,
)
from training.evaluation.test_items import ClozeQuestion

WEIGHTS = (0.0, 0.5, 1.0)
CHOICES = ("right", "one", "two", "three", "four")
ONES = {"zh": 1.0, "en": 1.0}


def blanks(count: int, choices: tuple[str, ...] = ()) -> list[ClozeQuestion]:
    """Return numbered questions whose answer is `right`."""
    return [ClozeQuestion(0, number, f"{number} ____", "right", choices) for number in range(count)]


class FakePredictor:
    """Draws the right one of K candidates from a softmax of scores, and claims a sharper one.

    Claims are sharper by *sharpness* and add up to *total*. A λ other than 1 adds noise. The
    answer is missing if *missing* says so.
    """

    def __init__(
        self, calibration: Calibration, candidates: int, sharpness: float, total: float = 1.0
    ) -> None:
        self.noise = abs(calibration.chain_weight["en"] - 1.0)
        self.candidates, self.sharpness, self.total = candidates, sharpness, total
        self.missing = lambda _: False

    def run(self, queries: Sequence[Query]) -> list[Result | LacunaError]:
        """Answer each query by its own seed."""
        return [self._answer(int(str(query.text).split()[0])) for query in queries]

    def _answer(self, number: int) -> ClozeResult:
        generator, count = np.random.default_rng(number), self.candidates
        scores = generator.normal(0, 2, count)
        right = generator.choice(count, p=np.exp(scores) / np.exp(scores).sum())
        noisy = scores + generator.normal(0, 1, count) * self.noise
        claimed = np.exp(noisy * self.sharpness)
        words = [f"wrong {index}" for index in range(count)]
        words[right] = "missing" if self.missing(number) else "right"
        shares = self.total * claimed / claimed.sum()
        fillings = (Filling(words[index], float(shares[index])) for index in np.argsort(-claimed))
        return ClozeResult("", (Blank(0, 4, tuple(fillings)),), Usage(1))


def test_weights_and_temperature_are_found() -> None:
    """A weight without noise wins; claims sharper by 2 get τ of about 2, in their language only."""
    start = Calibration(cloze_temperature={**ONES, "zh": 0.7}, chain_weight={"zh": 0.3, "en": 0.0})

    def predictor(calibration: Calibration) -> FakePredictor:
        assert calibration.cloze_temperature == calibration.cloze_coverage_exponent == ONES
        return FakePredictor(calibration, 4, 2.0, 0.8)

    fitted = fit_cloze_calibration(predictor, {"en": blanks(300)}, start, 4, WEIGHTS)
    assert fitted.chain_weight == {"zh": 0.3, "en": 1.0}
    assert 1.6 < fitted.cloze_temperature["en"] < 2.5
    assert fitted.cloze_temperature["zh"] == 0.7


def test_a_total_that_is_claimed_too_low_is_raised() -> None:
    """Words that claim 0.64, and are right in 8 of 10 blanks, get the power that makes it 0.8."""

    def predictor(calibration: Calibration) -> FakePredictor:
        fake = FakePredictor(calibration, 4, 1.0, 0.64)
        fake.missing = lambda number: number % 5 == 0
        return fake

    start = Calibration(cloze_coverage_exponent={"zh": 0.7, "en": 3.0})
    fitted = fit_cloze_calibration(predictor, {"en": blanks(300)}, start, 4, WEIGHTS)
    expected = pytest.approx(np.log(0.8) / np.log(0.64), rel=0.03)
    assert fitted.cloze_coverage_exponent == {"zh": 0.7, "en": expected}


class FakeChoices:
    """Draws the right one of five choices; a tenth of them evenly with *lapses*.

    Scores are 1.5 times those that the right one is drawn from, once β = 0.5.
    """

    def __init__(self, calibration: Calibration, lapses: bool) -> None:
        self.calibration, self.lapses = calibration, lapses

    def run(self, queries: Sequence[Query]) -> list[Result | LacunaError]:
        """Answer each query by its own seed."""
        return [self._answer(int(str(query.text).split()[0])) for query in queries]

    def _answer(self, number: int) -> ClozeResult:
        generator, calibration = np.random.default_rng(number), self.calibration
        scores, priors = generator.normal(0, 2, (2, 5))
        right = generator.choice(5, p=np.exp(scores) / np.exp(scores).sum())
        if self.lapses and number % 10 == 0:
            right = number // 10 % 5
        claimed = 1.5 * scores + 0.5 * priors
        claimed -= calibration.choice_prior_weight["en"] * priors
        claimed = np.exp(claimed)
        words = [*CHOICES[1:]]
        words.insert(right, "right")
        shares = (claimed / claimed.sum()).tolist()
        fillings = tuple(map(Filling, words, shares))
        return ClozeResult("", (Blank(0, 4, fillings),), Usage(1))


@pytest.mark.parametrize(("lapses", "mix", "within"), [(False, 0.0, 0.021), (True, 0.1, 0.051)])
def test_choices_get_weights_a_temperature_and_a_uniform_mix(
    lapses: bool, mix: float, within: float
) -> None:
    """β and τ that explain the right choices are found; even answers get their share."""
    start = Calibration(
        choice_temperature={"zh": 3.0, "en": 1.0}, choice_prior_weight={"zh": 0.1, "en": 0.0}
    )

    def predictor(calibration: Calibration) -> FakeChoices:
        assert calibration.choice_temperature == ONES
        return FakeChoices(calibration, lapses)

    questions = {"en": blanks(1500, CHOICES), "zh": blanks(50)}
    fitted = fit_choices(predictor, questions, start)
    assert fitted.choice_prior_weight == {"zh": 0.1, "en": pytest.approx(0.5, abs=0.16)}
    assert fitted.choice_temperature == {"zh": 3.0, "en": pytest.approx(1.5, rel=0.2)}
    assert fitted.choice_uniform_mix == {"zh": 0.0, "en": pytest.approx(mix, abs=within)}
    kept = {name: getattr(start, name) for name in ("chain_weight", "counts_weights")}
    assert {name: getattr(fitted, name) for name in kept} == kept


def test_shares_of_counts_are_found_by_class_of_evidence() -> None:
    """Tokens drawn from a mixture give its shares; a class without tokens has that of all."""
    generator = np.random.default_rng(0)
    network, counts = generator.dirichlet(np.full(6, 0.3), (2, 8_000))
    evidence = generator.integers(0, 2, len(network))
    shares = np.where(evidence == 0, 0.2, 0.7)[:, None]
    mixed = (1 - shares) * network + shares * counts
    targets = (mixed.cumsum(axis=1) > generator.random((len(mixed), 1))).argmax(axis=1)
    own = np.arange(len(mixed)), targets
    fitted = fit_shares(network[own], counts[own], evidence)
    assert fitted[:2] == pytest.approx((0.2, 0.7), abs=0.03)
    assert len(fitted) == EVIDENCE
    assert fitted[2:] == pytest.approx((0.45,) * (EVIDENCE - 2), abs=0.03)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A little development text."""
    path = tmp_path / "talk_en.txt"
    path.write_text("I like the cat that sat on the mat.\nThey went to the store.\n", "utf-8")
    return path


def test_the_command_writes_a_calibrated_checkpoint(
    tiny_checkpoint: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only calibration and version change; an existing output is refused."""
    monkeypatch.setattr(command, "WEIGHTS", (0.0, 0.5))
    output = tmp_path / "calibrated"
    words = ["calibrate", str(tiny_checkpoint), str(text), "--output", str(output)]
    assert main([*words, "--version", "1.1"]) == 0
    before, after = load_checkpoint(tiny_checkpoint), load_checkpoint(output)
    assert (before.version, after.version) == ("1", "1.1")
    assert after.calibration != before.calibration
    assert (after.network, after.sums.keys()) == (before.network, before.sums.keys())
    assert main(words) == 2


def test_counts_alone_are_calibrated_too(tiny_ngram: Path, text: Path, tmp_path: Path) -> None:
    """The copy has the same counts and another calibration."""
    output = tmp_path / "calibrated"
    assert main(["calibrate", str(tiny_ngram), str(text), "--output", str(output)]) == 0
    before, after = load_checkpoint(tiny_ngram), load_checkpoint(output)
    changed = {name for name in before.sums if before.sums[name] != after.sums[name]}
    assert changed == {"config.json"}
    assert before.calibration != after.calibration
