"""Counting, discounting and pruning, checked against the formulas written with dictionaries."""

import itertools
import random
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.checkpoint import load_checkpoint, revise_checkpoint
from model.counts import Level, counts_files
from model.errors import CheckpointError, PreparedDataError
from model.runtime import Float32Array
from model.tokenizer import START
from tests.fixtures_checkpoint import build_tiny_checkpoint, tiny_tokenizer
from training.__main__ import main
from training.counting import Text, count_grams
from training.data.shards import open_prepared
from training.kneser_ney import FALLBACK_DISCOUNTS, smooth
from training.ngram import NgramOptions, build, estimate
from training.pruning import relative_entropy

SIZE = 12  # tokens, of which 0 to 4 are control tokens
Gram = tuple[int, ...]


def text(*lines: list[int]) -> Text:
    """Lines of token ids as shards have them."""
    ids = np.array([token for line in lines for token in line], dtype=np.uint16)
    return ids, np.array([len(line) for line in lines], dtype=np.uint32)


def estimated(
    lines: list[list[int]], order: int, size: int = SIZE, max_bytes: int | None = None
) -> "Exact":
    """Estimate an n-gram from lines of two sources."""
    texts = [text(*lines[::2]), text(*lines[1::2])]
    return Exact(*estimate(texts, np.arange(size) >= 5, order, max_bytes)[:2])


class Exact:
    """An n-gram as it is before it is quantised, as dictionaries."""

    def __init__(self, unigram: Float32Array, levels: list[Level]) -> None:
        self.bytes = len(b"".join(counts_files(unigram, levels, {})[1].values()))
        self.unigram = unigram.astype(float)
        self.shares: dict[Gram, dict[int, float]] = {}
        self.orders: list[list[Gram]] = []
        parents: list[Gram] = [(token,) for token in range(len(unigram))]
        for level in levels:
            tokens, shares = iter(level.tokens.tolist()), iter(level.shares.tolist())
            for parent, followers in zip(parents, level.followers.tolist(), strict=True):
                self.shares[parent] = {next(tokens): next(shares) for _ in range(followers)}
            assert next(tokens, None) is None
            parents = [(*parent, token) for parent in parents for token in self.shares[parent]]
            self.orders.append(parents)

    def row(self, context: Gram) -> np.ndarray[Any, Any]:
        """P(next token | context)."""
        shorter = self.row(context[1:]) if context else self.unigram
        known = self.shares.get(context, {})
        row = shorter * (1 - sum(known.values()))
        row[list(known)] += list(known.values())
        return row


class BruteForce:
    """Interpolated modified Kneser-Ney with dictionaries, from Chen & Goodman 1999.

    If only some n-grams are *kept*, the others are smoothed as in Siivola et al. 2007.
    """

    def __init__(
        self, lines: list[list[int]], order: int, size: int = SIZE, kept: set[Gram] | None = None
    ) -> None:
        self.order, self.uniform, self.kept = order, 1 / (size - 5), kept
        padded = [[START, *line] for line in lines]
        orders = range(1, order + 1)
        self.seen = {
            k: Counter(tuple(line[i : i + k]) for line in padded for i in range(len(line) - k + 1))
            for k in orders
        }
        adjusted = dict(self.seen)
        for k in range(order - 1, 0, -1):
            given = Counter[Gram]()
            for longer, count in adjusted[k + 1].items():
                given[longer[1:]] += 1 if kept is None or longer in kept else count
            adjusted[k] = Counter(
                {g: n if g[0] == START else given[g] for g, n in adjusted[k].items()}
            )
        del adjusted[1][START,]
        self.adjusted = adjusted
        self.discount = {k: self.discounts(adjusted[k]) for k in orders}
        self.followers = defaultdict[Gram, list[int]](list)
        for k in orders:
            for gram in adjusted[k]:
                self.followers[gram[:-1]].append(gram[-1])

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
        shares = {token: self.share((*context, token)) for token in self.followers[context]}
        return shares.get(word, 0.0) + (1 - sum(shares.values())) * lower

    def share(self, gram: Gram) -> float:
        """The share that the context alone gives the last token."""
        if self.kept is not None and len(gram) > 1 and gram not in self.kept:
            return 0.0
        counts = self.adjusted[len(gram)]
        total = sum(counts[*gram[:-1], token] for token in self.followers[gram[:-1]])
        return (counts[gram] - self.discount[len(gram)][min(counts[gram], 3) - 1]) / total


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
def test_probabilities_equal_the_formulas(order: int, lines: int, size: int) -> None:
    """Every probability in every context, seen or not, is that of the formulas."""
    corpus = random_lines(order * 100 + lines, lines, size)
    found, reference = estimated(corpus, order, size), BruteForce(corpus, order, size)
    generator = random.Random(1)
    contexts = [[START], []]
    for line in generator.sample(corpus, 5):
        contexts += [[START, *line[:end]] for end in range(1, len(line) + 1)]
    for _ in range(20):
        contexts.append([START, *generator.choices(range(5, size), k=generator.randint(1, 6))])
    for context in contexts:
        wanted = [reference.probability(word, tuple(context)) for word in range(5, size)]
        row = found.row(tuple(context[max(0, len(context) - order + 1) :]))
        np.testing.assert_allclose(row[5:], wanted, rtol=2e-5, err_msg=str(context))


def losses_of(lines: list[list[int]], order: int, size: int) -> tuple[Exact, dict[Gram, float]]:
    """The whole n-gram, and the loss of each n-gram of two tokens or more."""
    whole = estimated(lines, order, size)
    counted = count_grams([text(*lines)], size, order)
    _, smoothed = smooth(counted, np.arange(size) >= 5)
    losses = [relative_entropy(*each).tolist() for each in zip(counted[1:], smoothed, strict=True)]
    grams = [gram for own in whole.orders for gram in own]
    return whole, dict(zip(grams, itertools.chain(*losses), strict=True))


def test_losses_are_relative_entropies() -> None:
    """Each is close to what the row of the context loses, times how often the context came."""
    corpus = random_lines(7, 160)
    whole, losses = losses_of(corpus, 3, SIZE)
    seen = BruteForce(corpus, 3).seen
    wanted = []
    for gram in losses:
        before = whole.row(gram[:-1])[5:]
        share = whole.shares[gram[:-1]].pop(gram[-1])
        after = whole.row(gram[:-1])[5:]
        whole.shares[gram[:-1]][gram[-1]] = share
        followed = sum(n for longer, n in seen[len(gram)].items() if longer[:-1] == gram[:-1])
        wanted.append(followed * float((before * np.log(before / after)).sum()))
    found = list(losses.values())
    assert np.corrcoef(found, wanted)[0, 1] > 0.99
    assert 0.9 < sum(found) / sum(wanted) < 1.2


def test_pruning_keeps_what_is_missed_most_within_the_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kept n-grams have kept prefixes; no removed one is missed more; the bytes are used."""
    corpus = random_lines(9, 400, 60)
    whole, losses = losses_of(corpus, 4, 60)
    monkeypatch.setattr("training.ngram.ROUNDS", 1)  # later losses are those of other models
    limit = whole.bytes // 2
    pruned = estimated(corpus, 4, 60, limit)
    assert limit - 12 <= pruned.bytes <= limit
    kept = {gram for order in pruned.orders for gram in order}
    assert all(len(context) == 1 or context in kept for context in pruned.shares)
    longest = [gram for gram in kept if not pruned.shares.get(gram)]
    assert max(losses[gram] for gram in losses.keys() - kept) < min(map(losses.get, longest))  # type: ignore[type-var]


def test_pruned_probabilities_equal_the_formulas() -> None:
    """Those that stay are smoothed again: removed n-grams give the shorter ones their counts."""
    corpus = random_lines(9, 160)
    pruned = estimated(corpus, 4, max_bytes=700)
    kept = {gram for order in pruned.orders for gram in order}
    reference = BruteForce(corpus, 4, kept=kept)
    assert 50 < len(kept) < sum(len(reference.seen[k]) for k in (2, 3, 4))
    for line in corpus[:20]:
        context = (START, *line)[-3:]
        wanted = [reference.probability(word, context) for word in range(5, SIZE)]
        np.testing.assert_allclose(pruned.row(context)[5:], wanted, rtol=2e-5)


def test_unigrams_need_their_bytes() -> None:
    """A size below that of the unigrams is an error, not a model without them."""
    with pytest.raises(PreparedDataError, match="unigrams alone have more than 40 bytes"):
        estimated(random_lines(1, 20), 2, max_bytes=40)


def test_empty_text_is_refused() -> None:
    """No text is an error."""
    with pytest.raises(PreparedDataError, match="no text to count"):
        estimate([], np.arange(SIZE) >= 5, 3)


def test_the_command_writes_a_checkpoint(tiny_prepared: Path, tmp_path: Path) -> None:
    """It describes the text and predicts without a network; it leaves nothing else behind."""
    output, data = tmp_path / "bigram", open_prepared(tiny_prepared)
    command = ["ngram", str(tiny_prepared), "--order", "2", "--output", str(output)]
    assert main(command) == 0
    checkpoint = load_checkpoint(output)
    assert "theatre" in checkpoint.words
    assert "theatr" not in checkpoint.words
    assert "commit None" not in (output / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert checkpoint.languages == ("en", "zh")
    (counts,) = checkpoint.counts
    assert counts.order == 2
    training = checkpoint.training
    assert training["tokens"] == sum(len(source.ids) for source in data.sources)
    assert training["data_sha256"] == data.sha256
    assert [path.name for path in tmp_path.iterdir()] == ["bigram"]
    assert main(command) == 2


def test_counts_are_put_into_a_copy_of_a_checkpoint(
    tiny_checkpoint: Path, tiny_prepared: Path, tmp_path: Path
) -> None:
    """The copy has the network's files and pruned counts; later counts replace them."""
    options = NgramOptions(tiny_prepared, tmp_path / "copy", tiny_checkpoint, 0.002, 3)
    mixed, network = build(options), load_checkpoint(tiny_checkpoint)
    assert mixed.network == network.network
    same = mixed.sums.keys() - {"config.json", *(f"counts/{k}.ngrams" for k in (1, 2, 3))}
    assert {name: mixed.sums[name] for name in same} == {
        name: each for name, each in network.sums.items() if name != "config.json"
    }
    (counts,) = mixed.counts
    assert sum(path.stat().st_size for path in (tmp_path / "copy/counts").iterdir()) <= 2000
    again = NgramOptions(tiny_prepared, tmp_path / "again", tmp_path / "copy", None, 2)
    (whole,) = build(again).counts
    assert 0 < counts.ngrams[1] < whole.ngrams[1]
    assert whole.order == 2
    assert not (tmp_path / "again/counts/3.ngrams").exists()


def test_another_tokenizer_is_refused(
    tiny_checkpoint: Path, tiny_prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts are of the checkpoint's tokens."""
    other = replace(load_checkpoint(tiny_checkpoint), tokenizer=tiny_tokenizer(350))
    monkeypatch.setattr("training.ngram.load_checkpoint", lambda _: other)
    with pytest.raises(PreparedDataError, match="another tokenizer"):
        build(NgramOptions(tiny_prepared, tmp_path / "copy", tiny_checkpoint))


def test_new_counts_drop_scores(tiny_checkpoint: Path, tiny_prepared: Path, tmp_path: Path) -> None:
    """Scores of a checkpoint are not those of its copy with other counts."""
    scored = tmp_path / "scored"
    revise_checkpoint(tiny_checkpoint, scores={"en": {}}, output=scored)
    assert build(NgramOptions(tiny_prepared, tmp_path / "copy", scored, order=2)).scores == {}


def test_a_checkpoint_that_takes_no_counts_is_refused(tiny_prepared: Path, tmp_path: Path) -> None:
    """A stacked bidirectional network predicts no next token, so there is nothing to mix."""
    build_tiny_checkpoint(tmp_path / "stacked", architecture="stacked_bidirectional")
    with pytest.raises(CheckpointError, match="stacked only fills blanks"):
        build(NgramOptions(tiny_prepared, tmp_path / "copy", tmp_path / "stacked"))


@pytest.mark.parametrize("size", ["nan", "inf", "0", "-1"])
def test_a_size_that_is_not_above_zero_is_refused(
    tiny_prepared: Path, tmp_path: Path, size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line is wrong, which is said before any text is counted."""
    with pytest.raises(SystemExit):
        main(["ngram", str(tiny_prepared), "--output", str(tmp_path / "new"), "--megabytes", size])
    assert "--megabytes" in capsys.readouterr().err
