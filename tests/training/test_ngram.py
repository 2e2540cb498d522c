"""Building the modified Kneser-Ney n-gram, checked against the formulas written out with dictionaries."""

import argparse
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from model.errors import PreparedDataError
from model.ngram import Level, NGramRuntime, read_description, size_in_bytes
from model.tokenizer import START
from training.data.shards import open_prepared
from training.ngram import Text, add_arguments, estimate, run
from training.ngram import build as build_directory

TOKENIZER = 12
PREDICTABLE = np.arange(TOKENIZER) >= 5  # 0-4 are control tokens


def text(*lines: list[int]) -> Text:
    """Lines of token ids as shards hold them."""
    ids = np.array([token for line in lines for token in line], dtype=np.uint16)
    return Text(ids, np.cumsum([0, *map(len, lines)]))


def build(
    lines: list[list[int]], order: int, directory: Path, tokenizer: int = TOKENIZER
) -> NGramRuntime:
    """Estimate an n-gram and read its arrays back."""
    description = estimate([text(*lines)], np.arange(tokenizer) >= 5, order, directory)

    def read(name: str) -> np.ndarray:
        return np.load(directory / f"{name}.npy")

    levels = [
        Level(
            read(f"children.{k}"),
            read(f"backoff.{k}"),
            read(f"tokens.{k + 1}"),
            read(f"discounted.{k + 1}"),
        )
        for k in range(1, order)
    ]
    return NGramRuntime(read("unigram"), levels, description)


class BruteForce:
    """Interpolated modified Kneser-Ney from the formulas of Chen & Goodman 1999, by dictionaries, word by word."""

    def __init__(self, lines: list[list[int]], order: int, tokenizer: int = TOKENIZER) -> None:
        self.order, self.uniform = order, 1 / (tokenizer - 5)
        counts = [Counter[tuple[int, ...]]() for _ in range(order + 1)]
        for line in lines:
            padded = [START, *line]
            for k in range(1, order + 1):
                counts[k].update(tuple(padded[i : i + k]) for i in range(len(padded) - k + 1))
        self.adjusted: list[dict[tuple[int, ...], int]] = [{} for _ in range(order + 1)]
        for k in range(1, order + 1):
            for gram, count in counts[k].items():
                if k == order or gram[0] == START:
                    self.adjusted[k][gram] = count
                else:
                    self.adjusted[k][gram] = sum(
                        1 for longer in counts[k + 1] if longer[1:] == gram
                    )
        del self.adjusted[1][(START,)]
        self.discount: list[list[float]] = [[]]
        for k in range(1, order + 1):
            n = Counter(self.adjusted[k].values())
            discounts = [0.5, 1.0, 1.5]
            if all(n[i] for i in (1, 2, 3, 4)):
                y = n[1] / (n[1] + 2 * n[2])
                estimated = [
                    1 - 2 * y * n[2] / n[1],
                    2 - 3 * y * n[3] / n[2],
                    3 - 4 * y * n[4] / n[3],
                ]
                if all(0 < d <= i for i, d in enumerate(estimated, start=1)):
                    discounts = estimated
            self.discount.append(discounts)
        self.followers: list[dict[tuple[int, ...], list[int]]] = [
            defaultdict(list) for _ in range(order + 1)
        ]
        for k in range(1, order + 1):
            for gram, count in self.adjusted[k].items():
                self.followers[k][gram[:-1]].append(count)

    def probability(self, word: int, context: tuple[int, ...]) -> float:
        """P(word | context)."""
        context = context[len(context) - min(len(context), self.order - 1) :]
        k = len(context) + 1
        lower = self.probability(word, context[1:]) if context else self.uniform
        follow = self.followers[k].get(context, [])
        if not follow:
            return lower
        total = sum(follow)
        count = self.adjusted[k].get((*context, word), 0)
        kept = max(count - self.discount[k][min(count, 3) - 1], 0) if count else 0
        gamma = sum(self.discount[k][min(c, 3) - 1] for c in follow) / total
        return kept / total + gamma * lower


def random_lines(seed: int, lines: int, tokenizer: int = TOKENIZER) -> list[list[int]]:
    """Lines whose tokens are far from uniform, so that contexts recur and all of n1..n4 occur."""
    generator = random.Random(seed)
    weights = [1 / (i + 1) ** 1.5 for i in range(tokenizer - 5)]
    return [
        [int(p) for p in generator.choices(range(5, tokenizer), weights, k=generator.randint(1, 9))]
        for _ in range(lines)
    ]


@pytest.mark.parametrize(
    ("order", "lines", "tokenizer"),
    [(2, 30, 12), (3, 30, 12), (5, 6, 12), (5, 40, 12), (5, 160, 12), (4, 160, 90)],
)
def test_probabilities_equal_the_formulas(
    order: int, lines: int, tokenizer: int, tmp_path: Path
) -> None:
    """Every probability in every context, seen or not, is that of a dictionary implementation of the formulas."""
    corpus = random_lines(order * 100 + lines, lines, tokenizer)
    network, reference = (
        build(corpus, order, tmp_path, tokenizer),
        BruteForce(corpus, order, tokenizer),
    )
    generator = random.Random(1)
    contexts = [[START], []]
    for line in generator.sample(corpus, 5):
        padded = [START, *line]
        contexts += [padded[:end] for end in range(2, len(padded) + 1)]
    contexts += [
        [START, *generator.choices(range(5, tokenizer), k=generator.randint(1, 6))]
        for _ in range(20)
    ]
    for context in contexts:
        wanted = [reference.probability(word, tuple(context)) for word in range(5, tokenizer)]
        np.testing.assert_allclose(
            network.distribution(context)[5:], wanted, rtol=2e-5, err_msg=str(context)
        )


def test_discounts_are_estimated_and_not_the_fallback(tmp_path: Path) -> None:
    """On enough text the discounts come from the counts of counts, as the reference estimates them."""
    corpus = random_lines(8, 160, 90)
    description, reference = build(corpus, 3, tmp_path, 90).description, BruteForce(corpus, 3, 90)
    assert [found["estimated"] for found in description["discounts"]] == [True, True, True]
    for k in (1, 2, 3):
        found = description["discounts"][k - 1]
        assert [found["D1"], found["D2"], found["D3+"]] == pytest.approx(reference.discount[k])


def test_bigram_worked_by_hand(tmp_path: Path) -> None:
    """Two lines, a b and a c, with the fallback discounts 0.5, 1, 1.5 and five predictable tokens a-e.

    Continuation counts: a 1 (after <s>), b 1, c 1, total 3. Unigram: p(b) = (1 - 0.5)/3 + (3 * 0.5)/3 * 1/5 = 4/15.
    After a: counts b 1, c 1. p(b|a) = (1 - 0.5)/2 + (2 * 0.5)/2 * 4/15 = 1/4 + 2/15 = 23/60.
    After <s>: a twice. p(a|<s>) = (2 - 1)/2 + 1/2 * 4/15 = 19/30.  d was never seen: p(d) = 1/2 * 1/5 = 1/10.
    """
    a, b, c, d = 5, 6, 7, 8
    network = build([[a, b], [a, c]], 2, tmp_path, tokenizer=10)
    assert network.distribution([])[b] == pytest.approx(4 / 15)
    assert network.distribution([START, a])[b] == pytest.approx(23 / 60)
    assert network.distribution([START])[a] == pytest.approx(19 / 30)
    assert network.distribution([d])[d] == pytest.approx(1 / 10)


def test_no_ngram_crosses_a_line_or_a_source(tmp_path: Path) -> None:
    """What follows a line's last token is unknown: its distribution there is that of the shorter context."""
    texts = [text([5, 6], [7, 8]), text([9, 5])]
    estimate(texts, PREDICTABLE, 3, tmp_path)
    pairs = np.load(tmp_path / "tokens.2.npy").tolist()
    children = np.load(tmp_path / "children.1.npy")
    found = {
        (left, right)
        for left in range(TOKENIZER)
        for right in pairs[children[left] : children[left + 1]]
    }
    assert found == {(START, 5), (5, 6), (START, 7), (7, 8), (START, 9), (9, 5)}


def test_empty_text_is_refused(tmp_path: Path) -> None:
    """There is no n-gram of nothing."""
    with pytest.raises(PreparedDataError, match="no text to count"):
        estimate([], PREDICTABLE, 3, tmp_path)


def test_the_description_says_what_text_was_counted(tiny_prepared: Path, tiny_ngram: Path) -> None:
    """Tokens and lines of each source, the data's hash, and the bytes on disk."""
    data, description = open_prepared(tiny_prepared), read_description(tiny_ngram)
    seen = description["text"]
    assert seen["prepared_sha256"] == data.sha256
    assert seen["tokens"] == sum(len(source.ids) for source in data.sources)
    assert [(source["name"], source["lines"], source["counted"]) for source in seen["sources"]] == [
        ("talk_en", 5, 1),
        ("talk_zh", 5, 1),
    ]
    assert description["bytes"] == size_in_bytes(tiny_ngram)


def test_weights_count_a_source_more_than_once(tiny_prepared: Path, tmp_path: Path) -> None:
    """With --weighted a source of weight 3 is counted three times, and nothing is left of an older attempt."""
    arguments = argparse.ArgumentParser()
    add_arguments(arguments)
    output = tmp_path / "weighted"
    assert (
        run(
            arguments.parse_args(
                [str(tiny_prepared), "--order", "2", "--weighted", "--output", str(output)]
            )
        )
        == 0
    )
    seen = read_description(output)["text"]
    assert [source["counted"] for source in seen["sources"]] == [3, 1]
    assert seen["tokens"] == sum(source["tokens"] * source["counted"] for source in seen["sources"])
    assert [path.name for path in tmp_path.iterdir()] == ["weighted"]


def test_nothing_is_overwritten(tiny_prepared: Path, tiny_ngram: Path) -> None:
    """A directory that exists is refused."""
    with pytest.raises(PreparedDataError, match="exists"):
        build_directory(tiny_prepared, tiny_ngram, 3)
