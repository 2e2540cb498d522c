"""Answer the MSR Sentence Completion challenge from each side of the blank, and from both.

The challenge (Zweig and Burges 2011) asks for one of five words in a sentence. METHODS lists the
ways of scoring a word: by the forward tower before the blank or over the whole sentence, by the
backward tower likewise, by the gap head, and by sums of these. ``/cloze`` sums the same parts over
a few tokens of context; here it is the whole sentence.

The weights of the last method are fitted on blanks of the held-out lines of the prepared text. The
challenge's own questions fit nothing.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model.checkpoint import Checkpoint
from model.config import SPAN, WORD
from model.decoding.blanks import find_blanks
from model.errors import CheckpointError, CorpusError
from model.predictor import open_model
from model.queries import ClozeQuery
from model.runtime import Float32Array, Float64Array, Head, Runtime
from model.tokenizer import END, END_OF_GAP, START, Tokenizer
from research.cloze_benchmarks import BenchmarkQuestion, msr_scc, wilson_interval
from training.cached_json import check_writable, report_json
from training.data.shards import Shard, open_prepared
from training.evaluation.quantisation import score_rows, tower_outputs
from training.evaluation.test_items import MARKER, TextFile, cloze_questions
from training.options import argument, option

PARTS = ("left", "right", "gap", "left whole", "right whole")
METHODS = {
    "left side": {"left": 1.0},
    "right side": {"right": 1.0},
    "gap head": {"gap": 1.0},
    "left to right, whole sentence": {"left whole": 1.0},
    "right to left, whole sentence": {"right whole": 1.0},
    "both directions, whole sentence": {"left whole": 1.0, "right whole": 1.0},
}
FITTED = "gap head and both directions, fitted weights"
# Grids: weights of the two directions relative to the gap head's 1, and temperatures of the sum.
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0)
TEMPERATURES = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0)
FITTING_QUESTIONS = 800
CHOICES = 5
BATCH_SENTENCES = 40


@dataclass(frozen=True, slots=True)
class Sentence:
    """Tokens before the blank, of a choice, and after the blank; the gap head's WORD or SPAN."""

    left: tuple[int, ...]
    word: tuple[int, ...]
    right: tuple[int, ...]
    kind: int

    @property
    def tokens(self) -> tuple[int, ...]:
        """The whole sentence."""
        return self.left + self.word + self.right


@dataclass(frozen=True, slots=True)
class CompletionOptions:
    """Options of the command."""

    checkpoint: Path = argument("checkpoint with two towers")
    questions: Path = argument("JSON Lines of the challenge")
    prepared: Path = option("prepared data; its held-out lines fit the weights")
    output: Path = option("JSON file to write")


def run(options: CompletionOptions) -> int:
    """Fit the weights, answer the questions and write the figures; return 0."""
    questions = read_questions(options.questions)
    check_writable(options.output)
    checkpoint, runtime = open_model(options.checkpoint)
    if runtime.sizes.architecture != "two_towers":
        raise CheckpointError(f"{options.checkpoint} has one tower; name a checkpoint with two")
    held_out = held_out_questions(options.prepared, checkpoint.tokenizer)
    fitting = log_probabilities(checkpoint, runtime, held_out, "held-out blanks")
    weights = fit_weights(fitting, _answers(held_out))
    parts = log_probabilities(checkpoint, runtime, questions, "questions")
    methods = measure(parts, _answers(questions), weights)
    for name, figures in measure(fitting, _answers(held_out), weights).items():
        methods[name]["held_out_accuracy"] = figures["accuracy"]
    report = {
        "name": checkpoint.name,
        "digest": checkpoint.digest,
        "training": checkpoint.training,
        "questions": len(questions),
        "fitted_on": len(held_out),
        "weights": weights,
        "methods": methods,
    }
    report_json(options.output, report)
    return 0


def read_questions(path: Path) -> list[BenchmarkQuestion]:
    """Read the challenge's questions.

    Raises:
        CorpusError: the file is empty, or a question lacks its answer or has not CHOICES choices.
    """
    questions = list(msr_scc(path))
    for number, question in enumerate(questions, start=1):
        if not question.answerable or len(question.choices) != CHOICES:
            raise CorpusError(f"{path}: question {number} needs {CHOICES} choices with the answer")
    if not questions:
        raise CorpusError(f"{path}: has no questions")
    return questions


def held_out_questions(prepared: Path, tokenizer: Tokenizer) -> list[BenchmarkQuestion]:
    """Make blanks of held-out lines, each with choices of similar frequency.

    Raises:
        CorpusError: no held-out line has a blank with enough choices.
    """
    found = open_prepared(prepared)
    files = [
        TextFile(shard.name, shard.language, tuple(_lines(shard, found.tokenizer)))
        for shard in found.held_out
    ]
    blanks = cloze_questions(files, tokenizer, sum(len(file.lines) for file in files), 0, seed=1)
    questions = [BenchmarkQuestion(b.text, b.answer, b.choices) for b in blanks if b.choices]
    if not questions:
        raise CorpusError(f"{prepared}: no held-out line has a blank; hold out a greater share")
    return questions[:FITTING_QUESTIONS]


def _lines(shard: Shard, tokenizer: Tokenizer) -> list[str]:
    bounds = itertools.pairwise(shard.offsets.tolist())
    return [tokenizer.decode(shard.ids[start:end].tolist()) for start, end in bounds]


def _answers(questions: Sequence[BenchmarkQuestion]) -> list[int]:
    return [question.choices.index(question.answer) for question in questions]


def log_probabilities(
    checkpoint: Checkpoint, runtime: Runtime, questions: Sequence[BenchmarkQuestion], label: str
) -> Float64Array:
    """Return every part for every choice: (questions, choices, len(PARTS)), in nats."""
    sentences = [each for q in questions for each in _sentences(checkpoint.tokenizer, q)]
    starts = range(0, len(sentences), BATCH_SENTENCES)
    parts = [
        score_sentences(runtime, sentences[start : start + BATCH_SENTENCES])
        for start in tqdm(starts, desc=label, disable=None)
    ]
    return np.concatenate(parts).reshape(len(questions), -1, len(PARTS))


def _sentences(tokenizer: Tokenizer, question: BenchmarkQuestion) -> list[Sentence]:
    layout = find_blanks(ClozeQuery(question.text, blank=MARKER), limit=1)
    slot = layout.slots[0]
    left, right = tuple(tokenizer.encode(layout.before)), tuple(tokenizer.encode(slot.line))
    sentences = []
    for choice in question.choices:
        word = tuple(tokenizer.encode(slot.spellings(choice)[0]))
        several = any(not tokenizer.joins(*pair) for pair in itertools.pairwise(word))
        sentences.append(Sentence(left, word, right, SPAN if several else WORD))
    return sentences


def score_sentences(runtime: Runtime, sentences: Sequence[Sentence]) -> Float64Array:
    """Return the parts of each sentence: (sentences, len(PARTS)), in nats.

    ``left`` is log P_F(word | left) and ``left whole`` log P_F(word, right | left); ``right`` and
    ``right whole`` are their mirror images. ``gap`` is log P(word | left, right), <eog> included.
    """
    forward_text = [sentence.tokens for sentence in sentences]
    backward_text = [text[::-1] for text in forward_text]
    forward = tower_outputs(runtime, "forward", [(START, *text) for text in forward_text])
    backward = tower_outputs(runtime, "backward", [(END, *text) for text in backward_text])
    left = [len(sentence.left) for sentence in sentences]
    right = [len(sentence.right) for sentence in sentences]
    ahead = _chain(runtime, "next", forward, forward_text, left)
    back = _chain(runtime, "previous", backward, backward_text, right)
    gap = _gap(runtime, sentences, forward, backward)
    rows = []
    for sentence, from_left, from_right, inside in zip(sentences, ahead, back, gap, strict=True):
        word = len(sentence.word)
        of_word = from_left[:word].sum(), from_right[:word].sum(), inside.sum()
        rows.append([*of_word, from_left.sum(), from_right.sum()])
    return np.array(rows)


def _chain(
    runtime: Runtime,
    head: Head,
    outputs: Sequence[Float32Array],
    texts: Sequence[tuple[int, ...]],
    known: Sequence[int],
) -> list[Float64Array]:
    """Return, for each text, the log-probability of each token after the first *known* ones."""
    spans = list(zip(outputs, texts, known, strict=True))
    rows = np.concatenate([output[start : len(text)] for output, text, start in spans])
    return _pick(runtime, head, [rows], [text[start:] for _, text, start in spans])


def _gap(
    runtime: Runtime,
    sentences: Sequence[Sentence],
    forward: Sequence[Float32Array],
    backward: Sequence[Float32Array],
) -> list[Float64Array]:
    """Return, for each sentence, the gap head's log-probability of each token of the word and
    <eog>.
    """
    tokens = [(*sentence.word, END_OF_GAP) for sentence in sentences]
    asked = [
        (forward[row][len(s.left) + position], backward[row][len(s.right)], True, position, s.kind)
        for row, s in enumerate(sentences)
        for position in range(len(tokens[row]))
    ]
    inputs = [np.array(each) for each in zip(*asked, strict=True)]
    return _pick(runtime, "gap", inputs, tokens)


def _pick(
    runtime: Runtime, head: Head, inputs: Sequence[NDArray[Any]], tokens: Sequence[tuple[int, ...]]
) -> list[Float64Array]:
    """Call a head with all rows; return the log-probabilities of the tokens."""
    flat = np.array([token for each in tokens for token in each])
    scored = score_rows(runtime, head, flat, *inputs)
    found = [log_probs[np.arange(len(targets)), targets] for log_probs, targets in scored]
    ends = np.cumsum([len(each) for each in tokens])
    return np.split(np.concatenate(found).astype(np.float64), ends[:-1])


def fit_weights(parts: Float64Array, answers: Sequence[int]) -> dict[str, float]:
    """Return the weights and the temperature that make the right choices most probable."""
    best, chosen = -np.inf, (0.0, 0.0, 1.0)
    for left, right in itertools.product(WEIGHTS, WEIGHTS):
        scores = _sum(parts, {"gap": 1.0, "left whole": left, "right whole": right})
        for temperature in TEMPERATURES:
            scaled = scores / temperature
            log_probs = scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)
            likelihood = float(log_probs[np.arange(len(answers)), list(answers)].mean())
            if likelihood > best:
                best, chosen = likelihood, (left, right, temperature)
    return dict(zip(("left whole", "right whole", "temperature"), chosen, strict=True))


def measure(
    parts: Float64Array, answers: Sequence[int], weights: dict[str, float]
) -> dict[str, dict[str, Any]]:
    """Return the accuracy of each method with its 95 % interval."""
    fitted = {"gap": 1.0, **{name: weights[name] for name in ("left whole", "right whole")}}
    methods = {}
    for name, used in (METHODS | {FITTED: fitted}).items():
        right = int((_sum(parts, used).argmax(axis=1) == np.array(answers)).sum())
        methods[name] = {
            "right": right,
            "accuracy": right / len(answers),
            "interval": list(wilson_interval(right, len(answers))),
        }
    return methods


def _sum(parts: Float64Array, weights: dict[str, float]) -> Float64Array:
    scores: Float64Array = parts @ np.array([weights.get(name, 0.0) for name in PARTS])
    return scores
