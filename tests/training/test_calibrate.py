"""Fitting temperatures and rescoring weights."""

import argparse
import errno
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.checkpoint import load_checkpoint
from model.config import Calibration
from model.errors import CheckpointError, LacunaError
from model.ngram import open_ngram
from model.predictor import Predictor, open_model
from model.queries import Blank, ClozeQuery, ClozeResult, Filling, Query, Result, Usage
from model.runtime import Float32Array, Integers
from model.tokenizer import Tokenizer
from tests.fixtures_checkpoint import tiny_tokenizer
from training.evaluation import calibrate as command
from training.evaluation.calibrate import (
    fit_calibration,
    fit_choices,
    fit_cloze_calibration,
    fit_next_temperature,
    retemper,
    score_tokens,
)
from training.evaluation.test_items import ClozeQuestion, cloze_questions, read_files

GRIDS = ((0.0, 0.5, 1.0), (0.0, 0.5))
QUESTIONS = [ClozeQuestion(0, n, f"{n} ____", "right", ()) for n in range(300)]


class FakePredictor:
    """Four candidates with random scores; weights other than λ1 = 1, λ2 = 0.5 add noise; claims are too sure by 1/τ."""

    def __init__(self, calibration: Calibration, truth: float) -> None:
        off = abs(calibration.forward_weight - 1.0) + abs(calibration.backward_weight - 0.5)
        assert dict(calibration.cloze_temperature) == {"zh": 1.0, "en": 1.0}
        generator = np.random.default_rng(1)
        self.answers = {}
        for question in QUESTIONS:
            scores = generator.normal(0, 2, 4)
            true = np.exp(scores) / np.exp(scores).sum()
            right = generator.choice(4, p=true)
            claimed = np.exp((scores + generator.normal(0, 1, 4) * off) * truth)
            words = [f"wrong{n}" if n != right else "right" for n in range(4)]
            order = np.argsort(-claimed)
            probabilities = 0.8 * claimed / claimed.sum()
            self.answers[question.text] = tuple(
                Filling(words[n], float(probabilities[n])) for n in order
            )

    def run(self, queries: Sequence[Query]) -> list[Result | LacunaError]:
        """Answer from what was drawn."""
        assert all(isinstance(query, ClozeQuery) and query.top_k == 4 for query in queries)
        return [
            ClozeResult("", (Blank(0, 4, self.answers[query.text]),), Usage(1)) for query in queries
        ]


def test_weights_and_temperature_are_found() -> None:
    """The weights without noise win, and claims twice too sure get a temperature of about 2, in their language only."""
    start = Calibration(
        next_temperature={"zh": 1.0, "en": 1.1}, cloze_temperature={"zh": 0.7, "en": 1.0}
    )
    fitted = fit_cloze_calibration(
        lambda calibration: FakePredictor(calibration, truth=2.0),
        QUESTIONS,
        ["en"] * 300,
        start,
        4,
        GRIDS,
    )
    assert (fitted.forward_weight, fitted.backward_weight) == (1.0, 0.5)
    temperatures = dict(fitted.cloze_temperature)
    assert 1.6 < temperatures["en"] < 2.5
    assert temperatures["zh"] == 0.7
    assert fitted.next_temperature == start.next_temperature


def test_mass_that_is_claimed_too_modestly_is_raised() -> None:
    """Blanks whose words claim 0.64 in all, and hold the answer in 8 of 10 cases, get the power that makes it 0.8."""

    class Modest(FakePredictor):
        def __init__(self, calibration: Calibration) -> None:
            super().__init__(calibration, truth=1.0)
            assert dict(calibration.cloze_coverage_exponent) == {"zh": 1.0, "en": 1.0}
            for number, (text, found) in enumerate(self.answers.items()):
                words = [filling.word if number % 5 else f"not {filling.word}" for filling in found]
                fair = (Filling(w, 0.8 * f.probability) for w, f in zip(words, found, strict=True))
                self.answers[text] = tuple(fair)

    start = Calibration(cloze_coverage_exponent={"zh": 0.7, "en": 3.0})
    fitted = fit_cloze_calibration(Modest, QUESTIONS, ["en"] * 300, start, 4, GRIDS)
    exponents = dict(fitted.cloze_coverage_exponent)
    assert exponents["en"] == pytest.approx(np.log(0.8) / np.log(0.64), rel=0.03)
    assert exponents["zh"] == 0.7


class FakeChooser:
    """Five choices of which the right one is drawn from true shares; claims are too sure by 1/τ, which is 1.5."""

    def __init__(self, calibration: Calibration) -> None:
        assert dict(calibration.choice_temperature) == {"zh": 1.0, "en": 1.0}
        assert calibration.forward_weight == 0.75
        self.asked: list[str] = []

    def run(self, queries: Sequence[Query]) -> list[Result | LacunaError]:
        """Answer each query by its own chance."""
        results: list[Result | LacunaError] = []
        for query in queries:
            assert isinstance(query, ClozeQuery) and query.choices is not None
            self.asked.append(query.text)
            generator = np.random.default_rng(int(query.text.split()[0]))
            scores = generator.normal(0, 2, 5)
            right = generator.choice(5, p=np.exp(scores) / np.exp(scores).sum())
            claimed = np.exp(1.5 * scores) / np.exp(1.5 * scores).sum()
            others = [choice for choice in query.choices if choice != "right"]
            words = ["right" if n == right else str(others.pop()) for n in range(5)]
            fillings = (Filling(words[n], float(claimed[n])) for n in np.argsort(-claimed))
            results.append(ClozeResult("", (Blank(0, 4, tuple(fillings)),), Usage(1)))
        return results


def test_temperature_of_choices_is_found() -> None:
    """Choices claimed too surely by 1.5 get a temperature of about 1.5; a language without choices keeps its own."""
    choices = ("right", "one", "two", "three", "four")
    with_choices = [ClozeQuestion(0, n, f"{n} ____", "right", choices) for n in range(700)]
    without = [ClozeQuestion(1, n, f"{n} ____", "right", ()) for n in range(700, 750)]
    start = Calibration(
        cloze_temperature={"zh": 0.7, "en": 0.9},
        choice_temperature={"zh": 3.0, "en": 1.0},
        forward_weight=0.75,
    )
    choosers: list[FakeChooser] = []

    def predictor(calibration: Calibration) -> FakeChooser:
        choosers.append(FakeChooser(calibration))
        return choosers[-1]

    languages = ["en"] * 700 + ["zh"] * 50
    fitted = fit_choices(predictor, [*with_choices, *without], languages, start, 600)
    temperatures = dict(fitted.choice_temperature)
    assert temperatures["en"] == pytest.approx(1.5, rel=0.15)
    assert temperatures["zh"] == 3.0
    assert dict(fitted.choice_uniform_mix) == {"zh": 0.0, "en": pytest.approx(0, abs=0.01)}
    rates = start.choice_uniform_mix
    assert (
        replace(fitted, choice_temperature=start.choice_temperature, choice_uniform_mix=rates)
        == start
    )
    (chooser,) = choosers
    assert len(chooser.asked) == len(set(chooser.asked)) == 600
    numbers = [int(text.split()[0]) for text in chooser.asked]
    assert min(numbers) < 100 and max(numbers) >= 600, "spread over all questions"
    assert fit_choices(predictor, without, ["zh"] * 50, start, 600) == start


def test_choices_that_no_score_saw_coming_get_a_lapse_rate() -> None:
    """Where one answer in ten is drawn evenly, whatever was claimed, the lapse rate is a tenth and τ stays true."""

    class Lapsing(FakeChooser):
        def run(self, queries: Sequence[Query]) -> list[Result | LacunaError]:
            """Every tenth answer of the fair ones is replaced by one drawn evenly."""
            results = super().run(queries)
            for number, result in enumerate(results):
                assert isinstance(result, ClozeResult)
                found = result.blanks[0].candidates
                words = [filling.word for filling in found]
                if number % 10 == 0:
                    right, lapsed = words.index("right"), number // 10 % 5
                    words[right], words[lapsed] = words[lapsed], words[right]
                fair = zip(words, found, strict=True)
                fillings = tuple(Filling(word, filling.probability) for word, filling in fair)
                results[number] = ClozeResult("", (Blank(0, 4, fillings),), Usage(1))
            return results

    choices = ("right", "one", "two", "three", "four")
    questions = [ClozeQuestion(0, n, f"{n} ____", "right", choices) for n in range(1000)]
    start = Calibration(forward_weight=0.75)
    fitted = fit_choices(Lapsing, questions, ["en"] * 1000, start, 1000)
    assert dict(fitted.choice_uniform_mix)["en"] == pytest.approx(0.1, abs=0.051)
    assert dict(fitted.choice_temperature)["en"] == pytest.approx(1.5, rel=0.2)


def test_choices_of_development_text_are_fitted(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Calibrating a checkpoint fits it to choices among the text's own words: no other temperature does better."""
    path = tmp_path / "talk_en.txt"
    path.write_text(
        "\n".join(f"I like the {w} that sat on the mat." for w in ("cat", "dog", "hen")),
        encoding="utf-8",
    )
    checkpoint, runtime = open_model(tiny_checkpoint)
    files = read_files([str(path)], None, None, 1)
    start = replace(
        checkpoint.calibration,
        cloze_temperature={"zh": 1.0, "en": 0.8},
        choice_temperature={"zh": 1.25, "en": 1.0},
    )
    fitted = fit_calibration(replace(checkpoint, calibration=start), runtime, files, 20)
    temperatures = dict(fitted.choice_temperature)
    assert temperatures["zh"] == 1.25
    assert temperatures["en"] in command.TEMPERATURES

    def loss(temperature: float) -> float:
        calibration = replace(fitted, choice_temperature={"zh": 1.0, "en": temperature})
        predictor = Predictor(replace(checkpoint, calibration=calibration), runtime)
        total = 0.0
        for question in cloze_questions(files, checkpoint.tokenizer, 20, 10, 2):
            (result,) = predictor.run(
                [ClozeQuery(question.text, blank="____", choices=question.choices)]
            )
            assert isinstance(result, ClozeResult) and len(question.choices) == 5
            (right,) = (
                found for found in result.blanks[0].candidates if found.word == question.answer
            )
            total -= float(np.log(right.probability))
        return total

    assert loss(temperatures["en"]) <= min(loss(0.5), loss(1.0), loss(2.0), loss(8.0)) + 1e-6


def test_retempering_keeps_the_mass_and_the_order() -> None:
    """M softmax(s / τ) from M softmax(s): at τ = 1 nothing changes, above it claims come closer."""
    claimed = np.array([0.5, 0.2, 0.1])
    np.testing.assert_allclose(retemper(claimed, 1.0), claimed)
    softer = retemper(claimed, 2.0)
    assert softer.sum() == pytest.approx(0.8)
    assert softer[0] / softer[1] == pytest.approx((0.5 / 0.2) ** 0.5)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Tokens of a few lines of both languages."""
    return tiny_tokenizer()


def softened(temperature: float, seed: int = 0) -> Iterator[tuple[Float32Array, Integers]]:
    """Batches whose targets are drawn from the softmax of logits, reported as if divided by 1 / *temperature*."""
    generator = np.random.default_rng(seed)
    for _ in range(40):
        logits = generator.normal(size=(100, 50)) * 2
        logits[:, 0] = -np.inf
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        targets = (probabilities.cumsum(axis=1) > generator.random((100, 1))).argmax(axis=1)
        scaled = logits * temperature
        yield (
            (scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))).astype(np.float32),
            targets,
        )


@pytest.mark.parametrize("temperature", [0.6, 0.87, 1.0, 1.3, 1.7, 3.0])
def test_the_temperature_that_was_applied_is_found(temperature: float) -> None:
    """Log-probabilities that are too sharp by a factor get that factor back, within sampling error."""
    assert fit_next_temperature(softened(temperature)) == pytest.approx(temperature, rel=0.06)


@pytest.mark.parametrize(("temperature", "limit"), [(0.1, 0.5), (10.0, 4.0)])
def test_temperatures_stay_within_bounds(temperature: float, limit: float) -> None:
    """Far-off networks get the nearest temperature that is tried."""
    assert fit_next_temperature(softened(temperature)) == pytest.approx(limit)


def test_next_temperature_of_sharpened_claims(tiny_ngram: Path, tokenizer: Tokenizer) -> None:
    """An n-gram whose logits are doubled needs twice the temperature of the n-gram as it is."""
    ngram = open_ngram(tiny_ngram)
    texts = ["They like the theatre.", "She went to the store in the evening."]
    plain = fit_next_temperature(score_tokens(ngram, tokenizer, texts))
    honest = ngram.next_log_probabilities
    ngram.next_log_probabilities = lambda outputs: 1.3 * honest(outputs)  # type: ignore[method-assign]
    fitted = fit_next_temperature(score_tokens(ngram, tokenizer, texts))
    assert fitted / plain == pytest.approx(1.3, rel=0.02)


def arguments(*words: str) -> argparse.Namespace:
    """Parsed arguments of the command."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A little development text."""
    path = tmp_path / "talk_en.txt"
    path.write_text(
        "I like the cat that sat on the mat.\nThey went to the store.\n", encoding="utf-8"
    )
    return path


def test_the_command_writes_a_checkpoint_that_differs_in_its_calibration(
    tiny_checkpoint: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy loads, has the fitted values and the version that was given, and everything else is the same."""
    monkeypatch.setattr(command, "WEIGHTS", (0.0, 0.5))
    output = tmp_path / "calibrated"
    named = ("--output", str(output), "--version", "1.1")
    assert command.run(arguments(str(tiny_checkpoint), str(text), *named)) == 0
    before, after = load_checkpoint(tiny_checkpoint), load_checkpoint(output)
    assert (before.version, after.version) == ("1", "1.1")
    assert after.calibration != before.calibration
    assert after.network == before.network
    same = {path.name for path in tiny_checkpoint.rglob("*.onnx")}
    assert same == {path.name for path in output.rglob("*.onnx")}
    with pytest.raises(CheckpointError, match="exists"):
        command.run(arguments(str(tiny_checkpoint), str(text), "--output", str(output)))


def test_an_ngram_is_calibrated_too(tiny_ngram: Path, text: Path, tmp_path: Path) -> None:
    """The copy of an n-gram opens, predicts the same, and has the fitted temperatures; it has no version to give."""
    output = tmp_path / "calibrated"
    with pytest.raises(CheckpointError, match="no version"):
        command.run(
            arguments(str(tiny_ngram), str(text), "--output", str(output), "--version", "2")
        )
    assert command.run(arguments(str(tiny_ngram), str(text), "--output", str(output))) == 0
    before, after = open_ngram(tiny_ngram), open_ngram(output)
    assert np.array_equal(before.distribution([1, 300]), after.distribution([1, 300]))
    assert before.description["calibration"] != after.description["calibration"]
    assert json.loads((output / "ngram.json").read_text())["calibration"]["forward_weight"] == 1.0


def test_an_ngram_that_cannot_be_written_whole_leaves_nothing(
    tiny_ngram: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up in mid-copy leaves no directory that looks like an n-gram, and none beside it."""
    written: list[bool] = []
    write_text = Path.write_text

    def full(self: Path, *values: Any, **options: Any) -> int:
        if self.name == "ngram.json":
            written.append((tmp_path / "new" / "calibrated").exists())
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_text(self, *values, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        command.run(
            arguments(str(tiny_ngram), str(text), "--output", str(tmp_path / "new" / "calibrated"))
        )
    assert written == [False], "nothing stands under the final name before all is there"
    assert list((tmp_path / "new").iterdir()) == []
