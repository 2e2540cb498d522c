"""Quantised counts, checked against dictionaries and damaged on purpose."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.config import EVIDENCE, CountsConfig
from model.counts import Counts, Level, counts_files, open_counts
from model.errors import CheckpointError
from model.tokenizer import START

SIZE = 40  # tokens, of which 0 to 4 are control tokens
Gram = tuple[int, ...]


class RandomCounts:
    """An n-gram with random shares, as a dictionary and as counts."""

    def __init__(self, order: int, seed: int = 0, size: int = SIZE) -> None:
        self.generator = generator = random.Random(seed)
        weights = [0.0] * 5 + [generator.random() + 0.01 for _ in range(size - 5)]
        self.unigram = np.array(weights, dtype=np.float32) / np.float32(sum(weights))
        self.shares: dict[Gram, dict[int, float]] = {}
        parents: list[Gram] = [(token,) for token in range(size)]
        levels = []
        for _ in range(2, order + 1):
            followers = []
            for parent in parents:
                # Some contexts have no follower, one has all tokens.
                many = 5 if parent[-1] in (0, 7) else 40 if parent == (START,) else 3
                tokens = sorted(set(generator.choices(range(5, size), k=many)))
                followers.append(tokens if generator.random() < 0.7 or parent[0] == START else [])
                parts = [generator.random() ** 4 + 1e-4 for _ in followers[-1]]
                given = generator.uniform(0.1, 0.9) / (sum(parts) or 1)
                self.shares[parent] = {
                    token: given * part for token, part in zip(followers[-1], parts, strict=True)
                }
            levels.append(
                Level(
                    np.array([len(each) for each in followers], dtype=np.uint32),
                    np.array([token for each in followers for token in each], dtype=np.uint16),
                    np.array(
                        [share for each in parents for share in self.shares[each].values()],
                        dtype=np.float32,
                    ),
                )
            )
            parents = [
                (*parent, token)
                for parent, tokens in zip(parents, followers, strict=True)
                for token in tokens
            ]
        self.parents = [gram for gram in self.shares if self.shares[gram]]
        self.config, self.files = counts_files(self.unigram, levels, {})
        self.order = order

    def opened(self) -> Counts:
        """The counts."""
        counts = Counts(self.config, list(self.files.values()))
        counts.check()
        return counts

    def backoff(self, context: Gram) -> float:
        """The backoff weight of a known context, to its code."""
        given = sum(self.shares[context].values())
        return float(1 / (1 + np.exp((127.5 - round(127.5 + 14 * np.log(1 / given - 1))) / 14)))

    def probability(self, context: Gram) -> np.ndarray[Any, Any]:
        """P(next token | context) by the formula, from the dictionary, to the codes."""
        shorter = self.probability(context[1:]) if context else self.unigram.astype(float)
        known = self.shares.get(context)
        if not known:
            return shorter
        backoff, given = self.backoff(context), sum(known.values())
        shares = [2 ** (-round(-10 * np.log2(share / given)) / 10) for share in known.values()]
        row = shorter * backoff
        row[list(known)] += (1 - backoff) * np.array(shares) / sum(shares)
        return row

    def contexts(self) -> Iterator[Gram]:
        """Known contexts, contexts whose shorter ones are unknown, and unknown ones."""
        yield ()
        yield from self.generator.sample(self.parents, min(60, len(self.parents)))
        for _ in range(60):
            yield tuple(self.generator.choices(range(SIZE), k=self.generator.randint(1, 7)))


def row_of(counts: Counts, context: Sequence[int]) -> tuple[np.ndarray[Any, Any], int]:
    """P(next token | context), (V,), and its evidence."""
    row = np.full((1, counts.vocabulary_size), 0.5, dtype=np.float32)
    counts.mix(row, np.array([context], dtype=np.int32), np.ones((1, EVIDENCE)))
    return row[0], counts.probs(context, [])[1]


@pytest.mark.parametrize("order", [2, 3, 5])
def test_rows_equal_the_formula_and_sum_to_one(order: int) -> None:
    """Rows are those of a dictionary, and evidence is that of the longest known context."""
    made = RandomCounts(order, seed=order)
    counts = made.opened()
    for context in made.contexts():
        row, evidence = row_of(counts, context)
        kept = context[max(0, len(context) - order + 1) :]
        np.testing.assert_allclose(row, made.probability(kept), rtol=1e-5, atol=1e-9)
        assert abs(float(row.sum(dtype=float)) - 1) < 1e-6
        known = [n for n in range(1, len(kept) + 1) if made.shares.get(kept[-n:])]
        wanted = 0
        if known:
            backoff = made.backoff(kept[-known[-1] :])
            edges = sum(backoff >= edge for edge in (0.1, 0.2, 0.4, 0.6, 0.8))
            wanted = 6 * known[-1] - 5 + edges
        assert evidence == wanted


def test_rows_are_mixed_by_the_weight_of_their_evidence() -> None:
    """A row of a batch is bit for bit the row alone; w = 0 keeps it."""
    made = RandomCounts(4, seed=3)
    counts, generator = made.opened(), np.random.default_rng(3)
    contexts = generator.integers(0, SIZE, (30, 4)).astype(np.int32)
    rows = generator.random((30, SIZE), dtype=np.float32)
    weights = generator.random((30, EVIDENCE))
    weights[:, 0] = 0
    mixed = rows.copy()
    counts.mix(mixed, contexts, weights)
    seen = set()
    for n, context in enumerate(contexts.tolist()):
        own, evidence = row_of(counts, context)
        seen.add(evidence)
        weight = weights[n, evidence]
        np.testing.assert_allclose(mixed[n], (1 - weight) * rows[n] + weight * own, rtol=1e-5)
        alone = rows[[n]]
        counts.mix(alone, contexts[[n]], weights[[n]])
        assert np.array_equal(alone[0], mixed[n])
    assert len(seen) > 5


def test_arrays_of_another_kind_are_refused() -> None:
    """The library would read them as what they are not."""
    counts = RandomCounts(3).opened()
    context, weights = np.zeros((1, 4), dtype=np.int32), np.ones((1, EVIDENCE))
    for row in (np.zeros((1, SIZE)), np.zeros((SIZE, 1), dtype=np.float32).repeat(2, 1)[:, ::2].T):
        with pytest.raises(ValueError, match="contiguous array of float32"):
            counts.mix(row, context, weights)
    for row in (np.zeros((1, SIZE + 1)), np.zeros((2, SIZE))):
        with pytest.raises(ValueError, match="different shapes"):
            counts.mix(row.astype(np.float32), context, weights)


def test_tokens_beyond_the_vocabulary_have_no_probability() -> None:
    """Nothing is read beyond an array, whatever the tokens are."""
    counts = RandomCounts(3).opened()
    odd = [SIZE, 1 << 30, -1]
    assert counts.probs(odd, odd)[0].tolist() == [0, 0, 0]
    assert counts.log_probs_of_next(odd, odd, []).tolist() == [0, 0, 0]


def test_a_row_of_one_context_is_exact_to_its_codes() -> None:
    """The codes are those of the formulas, written out for a single context."""
    followers = np.zeros(SIZE, dtype=np.uint32)
    followers[9] = 3
    shares = np.array([0.4, 0.02, 0.18], dtype=np.float32)
    unigram = np.where(np.arange(SIZE) < 5, 0, 1 / (SIZE - 5)).astype(np.float32)
    level = Level(followers, np.array([5, 6, 39], dtype=np.uint16), shares)
    config, files = counts_files(unigram, [level], {"text": "none"})
    assert config == CountsConfig(ngrams=(SIZE, 3), contexts=(1,), training={"text": "none"})
    row, _ = row_of(Counts(config, list(files.values())), [9])
    codes = np.round(-10 * np.log2(shares / 0.6))
    backoff = 1 / (1 + np.exp(-(round(127.5 + 14 * np.log(0.4 / 0.6)) - 127.5) / 14))
    wanted = backoff * unigram.astype(float)
    wanted[[5, 6, 39]] += (1 - backoff) * 2 ** (-codes / 10) / (2 ** (-codes / 10)).sum()
    np.testing.assert_allclose(row, wanted, rtol=1e-6)


def test_probabilities_at_some_tokens_are_those_of_the_row() -> None:
    """They are bit for bit the same, repeated tokens and control tokens included."""
    made = RandomCounts(4, seed=1)
    counts = made.opened()
    tokens = [39, 5, 0, 17, 17, 8, START]
    for context in made.contexts():
        row, _ = row_of(counts, context)
        assert np.array_equal(counts.probs(context, tokens)[0], row[tokens])


def test_probabilities_after_tokens_are_the_product_of_those_of_rows() -> None:
    """They are log P(first | context, token) P(second | context, token, first)."""
    made = RandomCounts(4, seed=1)
    counts, tokens, following = made.opened(), [39, 5, 0, 17], [8, 12]
    for context in made.contexts():
        found = counts.log_probs_of_next(context, tokens, following)
        for token, log_prob in zip(tokens, found.tolist(), strict=True):
            left = [*context, token]
            prob = row_of(counts, left)[0][8] * row_of(counts, [*left, 8])[0][12]
            assert log_prob == pytest.approx(np.log(prob), abs=1e-5)


def test_ranks_beyond_16_bits_are_found() -> None:
    """The high bits of a first rank follow from the places at which the low bits fall."""
    size = 300
    counts = RandomCounts(4, seed=2, size=size)
    followers = np.full(size, 290, dtype=np.uint32)
    tokens = np.tile(np.arange(5, 295, dtype=np.uint16), size)
    shares = np.random.default_rng(0).random(len(tokens), dtype=np.float32) / 600 + 1e-5
    config, files = counts_files(counts.unigram, [Level(followers, tokens, shares)], {})
    assert config.ngrams[1] > 1 << 16
    opened = Counts(config, list(files.values()))
    opened.check()
    for token in (0, 225, 226, 227, 299):
        row, _ = row_of(opened, [token])
        part = shares.reshape(size, 290)[token]
        wanted = counts.unigram * (1 - part.sum())
        wanted[5:295] += part
        np.testing.assert_allclose(row, wanted, rtol=0.1)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, CountsConfig]:
    """A folder of the counts of a random 4-gram."""
    made = RandomCounts(4)
    (tmp_path / "counts").mkdir()
    for name, content in made.files.items():
        (tmp_path / "counts" / name).write_bytes(content)
    return tmp_path, made.config


def test_mapped_counts_equal_those_in_memory(written: tuple[Path, CountsConfig]) -> None:
    """Opening a folder changes nothing."""
    made = RandomCounts(4)
    mapped = open_counts(written[0], "counts", written[1])
    for context in made.contexts():
        row, evidence = row_of(mapped, context)
        wanted, same = row_of(made.opened(), context)
        assert np.array_equal(row, wanted)
        assert evidence == same


def change(name: str, kind: str, place: int, value: float) -> Callable[[Path], None]:
    """Damage: one number of a file, at a place in bytes."""

    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        number = np.array([value], kind).tobytes()
        content[place : place + len(number)] = number
        (folder / name).write_bytes(content)

    return damage


# Places in bytes: of pages, and first followers, of the unigrams; of tokens of the 2-grams
PAGES = 4 * SIZE
FIRST = PAGES + 4
TOKENS_2 = 4 * 2
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a missing file": (lambda f: (f / "2.ngrams").unlink(), r"2\.ngrams is missing"),
    "a short file": (lambda f: (f / "3.ngrams").write_bytes(b"abc"), "has 3 bytes, not"),
    "NaN": (change("1.ngrams", "<f4", 36, np.nan), "do not sum to 1"),
    "a negative probability": (change("1.ngrams", "<f4", 36, -0.1), "do not sum to 1"),
    "no distribution": (change("1.ngrams", "<f4", 36, 0.9), "do not sum to 1"),
    "a control token": (change("1.ngrams", "<f4", 4, 1e-6), "a control token has one"),
    "a page too far": (change("1.ngrams", "<u4", PAGES, 1), "numbers of contexts"),
    "a first rank out of order": (change("1.ngrams", "u1", FIRST + 3, 0), "first followers"),
    "a first rank beyond the end": (change("1.ngrams", "u1", FIRST + 1, 255), "first followers"),
    "no first rank": (change("1.ngrams", "u1", FIRST, 1), "first followers"),
    "a token beyond the vocabulary": (change("2.ngrams", "<u2", TOKENS_2, SIZE), "token"),
    "a control token that follows": (change("2.ngrams", "<u2", TOKENS_2, START), "vocabulary"),
    "a token twice": (change("2.ngrams", "<u2", TOKENS_2 + 2, 5), "tokens are not in order"),
    "one more context": (
        lambda f: (f / "1.ngrams").write_bytes((f / "1.ngrams").read_bytes()[:-1] + b"\xff"),
        "bits of contexts",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_counts_are_refused(written: tuple[Path, CountsConfig], case: str) -> None:
    """Whatever the files hold, the error is named, has the path and says what to do."""
    damage, message = DAMAGES[case]
    damage(written[0] / "counts")
    with pytest.raises(CheckpointError, match=message) as caught:
        open_counts(written[0], "counts", written[1])
    assert str(written[0]) in str(caught.value)


def test_random_bytes_are_refused_or_give_distributions(
    written: tuple[Path, CountsConfig],
) -> None:
    """A byte changed at random is either refused or leaves every row a distribution."""
    directory, config = written
    generator = random.Random(5)
    made = RandomCounts(4)
    refused = 0
    for _ in range(60):
        name = generator.choice(list(made.files))
        content = bytearray(made.files[name])
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        (directory / "counts" / name).write_bytes(content)
        try:
            counts = open_counts(directory, "counts", config)
        except CheckpointError:
            refused += 1
        else:
            for context in made.contexts():
                row, _ = row_of(counts, context)
                assert row.min() >= 0
                assert abs(float(row.sum(dtype=float)) - 1) < 2e-3
        (directory / "counts" / name).write_bytes(made.files[name])
    assert 10 < refused < 60


def test_sizes_that_do_not_fit_are_refused() -> None:
    """Orders of ngrams and contexts must agree, and unigrams must be tokens."""
    for ngrams, contexts in (((40, 3), (1, 1)), ((0, 3), (1,)), ((1 << 17, 3), (1,))):
        with pytest.raises(ValueError, match=r"ngrams|contexts"):
            CountsConfig(ngrams=ngrams, contexts=contexts, training={})
