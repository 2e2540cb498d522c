"""The words of a causal model, and the questions that it is asked, with a small model of tokens."""

from collections.abc import Sequence

import numpy as np
import pytest

import research.smollm
from model.queries import ClozeQuery, ScoreQuery
from model.runtime import Float32Array
from research.smollm import CausalPredictor, first_word

PIECES = ("", " ", "a", "b", "ab", " a", " b", "ba", ".", "'")


class MarkovModel:
    """P(next token | last token) is a row of a random table."""

    pieces, start = PIECES, (0,)

    def __init__(self) -> None:
        self.table = np.random.default_rng(1).dirichlet((2, 2, *(0.4,) * 6, 2, 0.4), len(PIECES))

    def encode(self, text: str) -> tuple[int, ...]:
        """Return one token for each character."""
        return tuple(map(PIECES.index, text))

    def next_probs(self, context: Sequence[int], paths: Sequence[list[int]]) -> list[Float32Array]:
        """Return the row of the last token of each path."""
        return [self.table[[*context, *path][-1]] for path in paths]

    def log_probability(self, context: Sequence[int], tokens: Sequence[int]) -> float:
        """Return the sum over the tokens."""
        read = [context[-1], *tokens]
        return float(np.log(self.table[read[:-1], read[1:]]).sum())


def exact_words(model: MarkovModel, context: str, typed: str) -> dict[str, float]:
    """Return P(word | context, typed) of every path of tokens."""
    words, total = dict[str, float](), 0.0
    left = [(PIECES.index(context[-1]), "", 1.0)]
    while left:
        token, spelled, prob = left.pop()
        for following, share in enumerate((model.table[token] * prob).tolist()):
            longer = spelled + PIECES[following]
            fits = longer.startswith(typed) or typed.startswith(longer)
            if not fits or share < 1e-7:
                continue
            if following and len(spelled) < len(typed) <= len(longer):
                total += share
            append = longer[len(typed) :]
            word = first_word(append)[0] if following else append  # an end of text ends a word
            if word and word not in " .":
                words[word] = words.get(word, 0.0) + share
            elif following and word is None:
                left.append((following, longer, share))
    return {word: prob / total for word, prob in words.items()}


@pytest.mark.parametrize(
    ("context", "typed"), [("b.", " "), ("ab", " a"), ("b", " ab"), (".", "ba")]
)
def test_words_have_the_probability_of_all_their_spellings(
    context: str, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths are added up, whether they cross the end of the typed part or not."""
    monkeypatch.setattr(research.smollm, "ROUNDS", 50)
    monkeypatch.setattr(research.smollm, "FLOOR", 1e-5)
    model = MarkovModel()
    found = CausalPredictor(model).continuations(context + typed, 10_000)
    exact = exact_words(model, context, typed)
    assert found[0][0] == max(exact, key=exact.__getitem__)
    for word, prob in found[:20]:
        assert prob == pytest.approx(exact[word], abs=5e-3)


def test_few_rounds_find_the_same_best_words() -> None:
    """Tokens that are cut off are less probable than those that are kept."""
    model = MarkovModel()
    found = CausalPredictor(model).continuations("ab a", 3)
    exact = exact_words(model, "b", " a")
    assert {word for word, _ in found[:3]} == set(sorted(exact, key=exact.__getitem__)[-3:])


def test_choices_are_ranked_by_the_line() -> None:
    """Right context counts, and the shares sum to 1; without choices the left side proposes."""
    model = MarkovModel()
    predictor = CausalPredictor(model)
    texts = ("a a.b", "a b.b", "a ba.b")
    scores = [each.log_probability for each in predictor.run([ScoreQuery(text) for text in texts])]
    asked = ClozeQuery("a _.b", blank="_", choices=("a", "b", "ba"))
    (found,) = predictor.run([asked])
    shares = np.exp(scores) / np.exp(scores).sum()
    filled = {each.word: each.probability for each in found.blanks[0].candidates}
    assert [filled[word] for word in ("a", "b", "ba")] == pytest.approx(shares)
    (found,) = predictor.run([ClozeQuery("a _.b", blank="_")])
    assert len(found.blanks[0].candidates) > 3
