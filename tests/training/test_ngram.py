"""The modified Kneser-Ney n-gram, checked against the formulas written with dictionaries."""

import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from model.errors import PreparedDataError
from model.ngram import NGramRuntime, map_arrays, open_ngram
from model.tokenizer import START
from training.__main__ import main
from training.data.shards import open_prepared
from training.ngram import FALLBACK_DISCOUNTS, Text, estimate

SIZE = 12  # tokens, of which 0 to 4 are control tokens
Gram = tuple[int, ...]


def text(*lines: list[int]) -> Text:
    """Lines of token ids as shards have them."""
    ids = np.array([token for line in lines for token in line], dtype=np.uint16)
    return ids, np.cumsum([0, *map(len, lines)])


def estimated(
    lines: list[list[int]], order: int, directory: Path, size: int = SIZE
) -> NGramRuntime:
    """Estimate an n-gram from lines of two sources and open it."""
    figures = estimate(
        [text(*lines[::2]), text(*lines[1::2])], np.arange(size) >= 5, order, directory
    )
    return map_arrays(directory, figures["counts"])


class BruteForce:
    """Interpolated modified Kneser-Ney with dictionaries, from Chen & Goodman 1999."""

    def __init__(self, lines: list[list[int]], order: int, size: int = SIZE) -> None:
        self.order, self.uniform = order, 1 / (size - 5)
        padded = [[START, *line] for line in lines]
        orders = range(1, order + 1)
        adjusted = {
            k: Counter(tuple(line[i : i + k]) for line in padded for i in range(len(line) - k + 1))
            for k in orders
        }
        for k in range(1, order):
            neighbours = Counter(longer[1:] for longer in adjusted[k + 1])
            adjusted[k] = Counter(
                {g: n if g[0] == START else neighbours[g] for g, n in adjusted[k].items()}
            )
        del adjusted[1][START,]
        self.adjusted = adjusted
        self.discount = {k: self.discounts(adjusted[k]) for k in orders}
        self.followers = defaultdict[Gram, list[int]](list)
        for k in orders:
            for gram, count in adjusted[k].items():
                self.followers[gram[:-1]].append(count)

    @staticmethod
    def discounts(adjusted: Counter[Gram]) -> list[float]:
        """D1, D2, D3+ of one order."""
        n = Counter(adjusted.values())
        if all(n[i] for i in (1, 2, 3, 4)):
            y = n[1] / (n[1] + 2 * n[2])
            found = [i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3)]
            if all(0 < d <= i for i, d in enumerate(found, start=1)):
                return found
        return list(FALLBACK_DISCOUNTS)

    def probability(self, word: int, context: Gram) -> float:
        """P(word | context)."""
        context = context[max(0, len(context) - self.order + 1) :]
        lower = self.probability(word, context[1:]) if context else self.uniform
        followers = self.followers[context]
        if not followers:
            return lower
        discount, total = self.discount[len(context) + 1], sum(followers)
        count = self.adjusted[len(context) + 1][*context, word]
        kept = max(count - discount[min(count, 3) - 1], 0) if count else 0
        gamma = sum(discount[min(c, 3) - 1] for c in followers) / total
        return kept / total + gamma * lower


def random_lines(seed: int, lines: int, size: int = SIZE) -> list[list[int]]:
    """Lines whose tokens are far from uniform, so that contexts recur and n1 to n4 occur."""
    generator = random.Random(seed)
    weights = [1 / (i + 1) ** 1.5 for i in range(size - 5)]
    return [
        generator.choices(range(5, size), weights, k=generator.randint(1, 9)) for _ in range(lines)
    ]


@pytest.mark.parametrize(
    ("order", "lines", "size"),
    [(2, 30, 12), (5, 6, 12), (5, 160, 12), (4, 160, 90)],
)
def test_probabilities_equal_the_formulas(
    order: int, lines: int, size: int, tmp_path: Path
) -> None:
    """Every probability in every context, seen or not, is that of the formulas."""
    corpus = random_lines(order * 100 + lines, lines, size)
    found, reference = estimated(corpus, order, tmp_path, size), BruteForce(corpus, order, size)
    generator = random.Random(1)
    contexts = [[START], []]
    for line in generator.sample(corpus, 5):
        contexts += [[START, *line[:end]] for end in range(1, len(line) + 1)]
    for _ in range(20):
        contexts.append([START, *generator.choices(range(5, size), k=generator.randint(1, 6))])
    for context in contexts:
        wanted = [reference.probability(word, tuple(context)) for word in range(5, size)]
        np.testing.assert_allclose(
            found.distribution(context)[5:], wanted, rtol=2e-5, err_msg=str(context)
        )


def test_empty_text_is_refused(tmp_path: Path) -> None:
    """No text is an error."""
    with pytest.raises(PreparedDataError, match="no text to count"):
        estimate([], np.arange(SIZE) >= 5, 3, tmp_path)


def test_the_command_writes_one_directory(tiny_prepared: Path, tmp_path: Path) -> None:
    """The command describes order, text and bytes, leaves nothing else and overwrites nothing."""
    output, data = tmp_path / "bigram", open_prepared(tiny_prepared)
    command = ["ngram", str(tiny_prepared), "--order", "2", "--output", str(output)]
    assert main(command) == 0
    checkpoint, _ = open_ngram(output)
    description = checkpoint.training
    assert "theatre" in checkpoint.words
    assert "theatr" not in checkpoint.words
    tokens = sum(len(source.ids) for source in data.sources)
    assert description["text"] == {"tokens": tokens, "prepared_sha256": data.sha256}
    assert description["bytes"] == sum(path.stat().st_size for path in output.glob("*.npy"))
    assert len(description["counts"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["bigram"]
    assert main(command) == 2
