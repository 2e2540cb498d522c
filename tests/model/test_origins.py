"""Origins: the shares of a candidate's probability are those of the sum that it is."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from model.counts import Counts
from model.decoding.cache_lm import CacheLM
from model.mixture import Mixture, MixtureRuntime
from model.predictor import Predictor
from model.queries import Candidate, ClozeQuery, LexiconEntry, Origins, PredictQuery
from model.tokenizer import START
from tests.fakes import TYPING, TableRuntime, answer, set_search_limits, table_predictor
from tests.model.test_counts import RandomCounts
from tests.model.test_mixture import GENERAL, OWN

EVERY = range(TYPING.size)
TEXT = "the cat, I like the cat, I like "


def random_counts(seed: int) -> Counts:
    """Random counts of the tokens of TYPING."""
    return RandomCounts(3, seed, TYPING.size).opened()


def predictor(layers: int, **options: Any) -> Predictor:
    """A predictor of random tables with layers of random counts."""
    table = TableRuntime(TYPING)
    counts = tuple(random_counts(seed) for seed in range(layers))
    mixture = Mixture(counts, (GENERAL, OWN), TYPING)
    made = table_predictor(table)
    calibration = replace(made.checkpoint.calibration, counts_weights=(GENERAL, OWN))
    checkpoint = replace(made.checkpoint, counts=counts, calibration=calibration)
    return Predictor(checkpoint, MixtureRuntime(table, mixture) if layers else table, **options)


def candidates(made: Predictor, **query: Any) -> dict[str, Candidate]:
    """Candidates after TEXT, by word."""
    result = answer(made, PredictQuery(**{"text": TEXT, "top_k": 40} | query))
    return {each.append: each for each in result.candidates}


def total(origins: Origins) -> float:
    """Sum the shares."""
    return origins.network + origins.counts + origins.cache + (origins.own or 0.0)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_shares_are_those_of_the_mixture(layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are computed here from the tables, token by token; a new answer has the same ones."""
    set_search_limits(monkeypatch, branch_share=0)
    made, table = predictor(layers), TableRuntime(TYPING)
    tokens = [START, *TYPING.encode(TEXT)]
    (network,) = table.score("next", np.array([tokens[-2:]], dtype=np.float32)).astype(float)
    rows, evidence = zip(
        *(random_counts(seed).probs(tokens[-4:], EVERY) for seed in (0, 1)), strict=True
    )
    share, own = GENERAL["en"][evidence[0]], OWN["en"][evidence[1]]
    share, own = share * (layers > 0), own * (layers > 1)
    parts = {
        "network": (1 - own) * (1 - share) * network,
        "counts": (1 - own) * share * rows[0],
        "own": own * rows[1],
    }
    mixed = sum(parts.values())
    cache = CacheLM(np.array(tokens[:-1]), TYPING.background, marginals=False)
    after = cache.mix(mixed.astype(np.float32), tokens[-3:])
    kept = cache.kept(mixed.astype(np.float32), tokens[-3:])
    assert kept < 1
    shown = candidates(made)
    assert candidates(made) == shown
    for surface in ("到", "上学", "the "):
        token, found = TYPING.surfaces.index(surface), shown[surface.strip()].origins
        for name, part in parts.items():
            expected = kept * part[token] / after[token]
            assert (getattr(found, name) or 0.0) == pytest.approx(expected, abs=1e-3), name
        assert found.cache == pytest.approx(1 - kept * mixed[token] / after[token], abs=1e-3)
        assert total(found) == pytest.approx(1)
        assert (found.own is None) == (layers < 2)


def test_words_of_the_writer_are_of_the_cache() -> None:
    """A word of the lexicon that the network does not expect has all of its probability there."""
    found = candidates(predictor(1), text="I like Oko", lexicon=(LexiconEntry("Okonkwo"),))
    assert found["nkwo"].origins == Origins(network=0.0, counts=0.0, cache=1.0)


@pytest.mark.parametrize("choices", [None, ("the", "了", "cat")])
def test_words_for_blanks_have_the_origins_of_their_first_token(choices: Any) -> None:
    """They are those of the next token after the left side, which the cache knows from both."""
    made, table = predictor(1), TableRuntime(TYPING)
    query = ClozeQuery(f"{TEXT}____ cat", choices=choices, top_k=20)
    tokens = [START, *TYPING.encode(TEXT)]
    (network,) = table.score("next", np.array([tokens[-2:]], dtype=np.float32)).astype(float)
    counts, evidence = random_counts(0).probs(tokens[-4:], EVERY)
    share, seen = GENERAL["en"][evidence], 0
    for each in answer(made, query).blanks[0].candidates:
        assert total(each.origins) == pytest.approx(1)
        if each.word == "了":  # spelled in one way; counts and network keep their ratio
            token, seen = TYPING.surfaces.index(each.word), seen + 1
            counted = share * counts[token]
            expected = counted / (counted + (1 - share) * network[token])
            found = each.origins.counts / (each.origins.counts + each.origins.network)
            assert found == pytest.approx(expected, abs=2e-3)
    assert seen
