"""The distribution of the next character, against brute force over all tokens."""

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.checkpoint import DEFAULT_CHECKPOINT
from model.decoding.token_index import TokenIndex
from model.predictor import Predictor, open_model
from model.queries import Letters, LexiconEntry, PredictQuery
from model.tokenizer import FIRST_BYTE, START
from tests.fakes import TYPING as TOKENIZER
from tests.fakes import TableRuntime, answer, table_predictor


def letters(predictor: Predictor, text: str, **options: Any) -> Letters:
    """Return the distribution after a text."""
    found: Letters = answer(predictor, PredictQuery(text, letters=True, **options)).letters
    return found


def total(found: Letters) -> float:
    """Sum everything."""
    return sum(each.probability for each in found.next) + found.end + found.other


def brute_force(runtime: TableRuntime, text: str) -> dict[str, float]:
    """Walk every token sequence that spells the text from its cut on, until one goes beyond it."""
    left, _, rest = TokenIndex(TOKENIZER).heal(text)
    found: dict[str, float] = defaultdict(float)

    def run(states: Any, *tokens: int) -> Any:
        return runtime.run_tower("forward", states, np.array([tokens]), np.array([len(tokens)]))[0]

    def walk(states: Any, rest: str, prob: float) -> None:
        (row,) = runtime.score("next", states).astype(np.float64)
        for token in np.flatnonzero(row).tolist():
            surface, here = TOKENIZER.surfaces[token], prob * float(row[token])
            if token == START or not surface:
                found["end" if token == START else "other"] += 0.0 if rest else here
            elif surface.startswith(rest) and surface != rest:
                found[surface[len(rest)]] += here
            elif rest.startswith(surface):
                walk(run(states, token), rest[len(surface) :], here)

    walk(run(np.zeros((1, 2), dtype=np.float32), START, *left), rest.decode(), 1.0)
    whole = sum(found.values())
    return {each: prob / whole for each, prob in found.items()}


@pytest.mark.parametrize(
    "text",
    ["", "I like the", "I like the ", "I th", "I like t", "迟", "上学迟", "到the", "the,", "s"],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_all_tokens_that_may_cover_the_cursor_count(
    text: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each character has the sum over all token sequences that spell the text and then it."""
    monkeypatch.setattr("model.decoding.letters.SPELLING_SHARE", 0)
    support = [START, FIRST_BYTE + 0xE4, *range(FIRST_BYTE + 256, TOKENIZER.size)]
    runtime = TableRuntime(TOKENIZER, support, seed=seed)
    expected = brute_force(runtime, text)
    found = letters(table_predictor(runtime, use_cache_lm=False), text)
    shown = {each.letter: each.probability for each in found.next}
    shown |= {"end": found.end, "other": found.other}
    for each in expected.keys() | shown.keys():
        assert shown.get(each, 0.0) == pytest.approx(expected.get(each, 0.0), abs=1e-5), each
    assert total(found) == pytest.approx(1, abs=1e-9)


def test_leaving_out_rare_spellings_changes_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the bundled checkpoint, no letter is off by more than 0.002."""
    opened = open_model(DEFAULT_CHECKPOINT)
    for text in ("Last night we went to the theat", "I am go", "It is an unus"):
        usual = letters(Predictor(*opened), text)
        with monkeypatch.context() as patch:
            patch.setattr("model.decoding.letters.SPELLING_SHARE", 1e-6)
            exact = {
                each.letter: each.probability for each in letters(Predictor(*opened), text).next
            }
        for each in usual.next:
            assert exact.get(each.letter, 0.0) == pytest.approx(each.probability, abs=2e-3)


@given(st.text(max_size=30) | st.text(alphabet="the ,a迟到了\n€_'遲", max_size=20))
@settings(max_examples=40, deadline=None)
def test_everything_sums_to_1_for_any_text(text: str) -> None:
    """Characters come once, most probable first, and the rest is `end` or `other`."""
    runtime = TableRuntime(TOKENIZER, range(FIRST_BYTE, TOKENIZER.size), spread=0.5)
    found = letters(table_predictor(runtime), text, lexicon=(LexiconEntry("theory"),))
    probs = [each.probability for each in found.next]
    assert probs == sorted(probs, reverse=True) and min(found.end, found.other, *probs) >= 0
    assert len({each.letter for each in found.next}) == len(probs)
    assert all(len(each.letter) == 1 for each in found.next)
    assert total(found) == pytest.approx(1, abs=1e-6)


def test_letters_of_the_writers_words_are_likelier() -> None:
    """After `Oko`, which the network does not expect, the lexicon says what comes."""
    predictor = table_predictor(TableRuntime(TOKENIZER))
    lexicon = (LexiconEntry("Okonkwo"),)
    (first, *_) = letters(predictor, "I like Oko", lexicon=lexicon).next
    assert first.letter == "n" and first.probability > 0.9


def test_words_of_one_more_letter_count_next_to_longer_ones() -> None:
    """A word that ends with a letter that no token has keeps its share if a longer one has it."""
    lexicon = LexiconEntry("Okλω", 5.0), LexiconEntry("Okλ")
    found = letters(table_predictor(TableRuntime(TOKENIZER)), "I like Ok", lexicon=lexicon)
    (first, *_) = found.next
    assert first.letter == "λ" and first.probability > 0.99
    assert total(found) == pytest.approx(1)


def test_a_whole_word_of_the_writer_may_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the network expects nothing but a letter, the share of the end is in `other`."""
    monkeypatch.setattr("model.decoding.letters._characters", lambda *_: {("", "h"): 1.0})
    lexicon = LexiconEntry("Ok", 5.0), LexiconEntry("Okonkwo")
    found = letters(table_predictor(TableRuntime(TOKENIZER)), "I like Ok", lexicon=lexicon)
    assert found.other > 0.5
    assert total(found) == pytest.approx(1)


def test_letters_are_written_as_the_text() -> None:
    """After a text in capitals they are capitals."""
    predictor = table_predictor(TableRuntime(TOKENIZER))
    small, large = (letters(predictor, text).next for text in ("Like the th", "LIKE THE TH"))
    assert large[0].letter == small[0].letter.upper() == "E"
