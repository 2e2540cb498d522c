"""What is typed next: a decoder against brute force over tiny vocabularies, and its promises on any text."""

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import Calibration
from model.decoding.next_word import SearchOptions, first_word
from model.decoding.token_index import TokenIndex
from model.predictor import Predictor
from model.queries import Candidate, PredictQuery, PredictResult
from model.text import is_word_character, normalise
from model.tokenizer import FIRST_BYTE, START, Tokenizer
from tests.fakes import TableRuntime, fake_checkpoint, hand_tokenizer

TOKENS = (
    "I ", "like ", "the", "the ", "theatre ", "t", "th", "he", "he ", "a", "s ", "re ", "cat", "cat ", ",", ", ", " ",
    "迟", "迟到", "到", "了", "上学", "。",
)  # fmt: skip
EXHAUSTIVE = SearchOptions(
    spelling_share=0.0, spelling_rows=1000, spelling_rounds=20, word_share=0.0, word_floor=0.0,
    word_rows=400, word_rounds=4,
    branch_share=0.0, branches=1000,
)  # fmt: skip
SPELLED = (
    "I ",
    "the",
    "the ",
    "s ",
    "a",
    ",",
    " ",
    "到",
)  # what the small brute-force worlds can predict


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A vocabulary of the tokens above."""
    return hand_tokenizer(TOKENS)


def predict(predictor: Predictor, text: str, top_k: int = 100) -> tuple[Candidate, ...]:
    """Candidates for one text."""
    (result,) = predictor.run([PredictQuery(text, top_k)])
    assert isinstance(result, PredictResult)
    return result.candidates


def predictor_of(
    tokenizer: Tokenizer, search: SearchOptions | None = None, **table: Any
) -> Predictor:
    """A predictor on a table."""
    runtime = TableRuntime(tokenizer, **table)
    return Predictor(
        fake_checkpoint(tokenizer, runtime.sizes, table.pop("calibration", None)),
        runtime,
        search=search,
    )


def brute_force(
    runtime: TableRuntime, tokenizer: Tokenizer, text: str, depth: int
) -> tuple[dict[str, float], float]:
    """P(append | text) by walking every token sequence that spells the text from its cut on, and *depth* tokens more.

    Nothing of the decoder is used but its cut: no frontier, no merging, no early end.

    Returns:
        Probabilities by what is appended, and the probability of all that was still undecided at *depth*.
    """
    left, _, rest = TokenIndex(tokenizer).heal(text)
    target = rest.decode()
    done: dict[str, float] = defaultdict(float)
    undecided = 0.0
    surfaces = tokenizer.surfaces

    def walk(states: Any, spelled: str, mass: float, tokens: int) -> None:
        nonlocal undecided
        (row,) = np.exp(runtime.score("next", states).astype(np.float64))
        for token in np.flatnonzero(row).tolist():
            now, here = spelled + surfaces[token], mass * float(row[token])
            if not now.startswith(target):
                if target.startswith(now):
                    walk(read(states, token), now, here, tokens)
                continue
            beyond = now[len(target) :]
            word = ended(beyond, len(beyond) - len(surfaces[token]))
            if word is not None:
                done[word] += here
            elif tokens == 0:
                undecided += here
            else:
                walk(read(states, token), now, here, tokens - 1)

    def ended(beyond: str, last: int) -> str | None:
        """The word in *beyond* if it has ended; its last token begins at *last* (below 0: before the text's end)."""
        body = beyond.lstrip(" ")
        if not body:
            return None
        spaces = len(beyond) - len(body)
        if not is_word_character(body[0]):
            token = beyond[max(last, spaces) :]
            size = next(
                (n for n, c in enumerate(token) if c == " " or is_word_character(c)), len(token)
            )
            return beyond[: max(last, spaces) + size]
        for size, character in enumerate(body):
            if not is_word_character(character):
                return beyond[: spaces + size]
        return None

    def read(states: Any, *tokens: int) -> Any:
        ids = np.array([tokens], dtype=np.int64)
        return runtime.run_tower("forward", states, ids, np.array([len(tokens)]))[0]

    start = read(np.zeros((1, 2), dtype=np.float32), START, *left)
    walk(start, "", 1.0, depth)
    total = sum(done.values()) + undecided
    return {append: mass / total for append, mass in done.items()}, undecided / total


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I like the",
        "I like the ",
        "I th",
        "I like t",
        "迟",
        "上学迟",
        "the到",
        "到the",
        "the,",
        "the  ",
        "I like\nthe",
        "s",
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_brute_force_over_all_token_sequences_agrees(
    tokenizer: Tokenizer, text: str, seed: int
) -> None:
    """With its shortcuts off, the decoder gives the exact probability of every word that ends within reach."""
    support = [tokenizer.surfaces.index(token) for token in (*SPELLED, "th", "t", "迟到", "迟")]
    runtime = TableRuntime(tokenizer, support, seed=seed)
    expected, undecided = brute_force(runtime, tokenizer, text, depth=4)
    candidates = predict(
        Predictor(fake_checkpoint(tokenizer, runtime.sizes), runtime, search=EXHAUSTIVE), text
    )
    assert candidates
    for candidate in candidates:
        # The decoder reads a word on for up to four tokens and settles its end; the walk stops one token earlier.
        low = expected.get(candidate.append, 0.0)
        assert low - 1e-6 <= candidate.probability <= low + undecided + 1e-6, candidate.append
    shown = candidates[-1].probability if len(candidates) == 100 else 0.0
    for append in expected.keys() - {candidate.append for candidate in candidates}:
        assert expected[append] <= shown + 1e-4, append


def test_default_search_stays_close_to_brute_force(tokenizer: Tokenizer) -> None:
    """With its shortcuts on, the first candidates are the exact ones, and their probabilities are within 2 %."""
    support = [tokenizer.surfaces.index(token) for token in (*SPELLED, "th", "t", "theatre ")]
    runtime = TableRuntime(tokenizer, support, seed=5)
    expected, _ = brute_force(runtime, tokenizer, "I like the", depth=4)
    best = sorted(expected.items(), key=lambda item: -item[1])[:3]
    candidates = predict(
        Predictor(fake_checkpoint(tokenizer, runtime.sizes), runtime), "I like the", 3
    )
    assert [candidate.append for candidate in candidates] == [append for append, _ in best]
    for candidate, (_, probability) in zip(candidates, best, strict=True):
        assert candidate.probability == pytest.approx(probability, rel=0.02)


def test_after_a_whole_word_stand_next_words_and_completions(tokenizer: Tokenizer) -> None:
    """`I like the` may go on as another word, after a space, or as a longer word, without one."""
    candidates = {
        each.append: each for each in predict(predictor_of(tokenizer, spread=0.1), "I like the")
    }
    assert candidates["atre"].word == "theatre"
    assert candidates[" cat"].word == "cat"
    assert candidates[" theatre"].word == "theatre"
    assert candidates["re"].word == "there"


def test_after_a_space_only_new_words_stand(tokenizer: Tokenizer) -> None:
    """`go to the ` is followed by a word without a space before it."""
    candidates = {
        each.append: each.word
        for each in predict(predictor_of(tokenizer, spread=0.1), "I like the ")
    }
    assert candidates["theatre"] == "theatre"
    assert candidates["cat"] == "cat"


def test_inside_a_word_the_rest_of_it_is_appended(tokenizer: Tokenizer) -> None:
    """`theat` is completed by `re`, and the whole word is named."""
    candidates = {
        each.append: each.word
        for each in predict(predictor_of(tokenizer, spread=0.1), "I like theat")
    }
    assert candidates["re"] == "theatre"


def test_chinese_word_is_healed(tokenizer: Tokenizer) -> None:
    """`迟` is completed to 迟到 although both are tokens; what two spellings append is one candidate."""
    candidates = predict(predictor_of(tokenizer, spread=0.1), "上学迟")
    assert [each.append for each in candidates].count("到") == 1
    assert {each.append: each.word for each in candidates}["到"] == "迟到"


def test_punctuation_is_a_candidate(tokenizer: Tokenizer) -> None:
    """A comma may be typed next, and its trailing space is not part of it."""
    candidates = {
        each.append: each.word for each in predict(predictor_of(tokenizer, spread=0.1), "the cat")
    }
    assert candidates[","] == ","


def test_word_spelled_in_bytes_counts_when_it_is_utf_8() -> None:
    """A character that is in no token is proposed through its bytes; bytes that spell nothing are not."""
    tokenizer = hand_tokenizer(("a ", "到"))
    support = [FIRST_BYTE + value for value in "€".encode()]
    candidates = predict(predictor_of(tokenizer, EXHAUSTIVE, support=support), "到")
    # Three-byte characters of these bytes begin with the first; the rest of the mass spells nothing.
    assert {each.append for each in candidates} == {"€", "₂", "⬂", "⬬"}
    assert sum(each.probability for each in candidates) < 1


def test_text_in_bytes_is_healed(tokenizer: Tokenizer) -> None:
    """Text whose last character is spelled in bytes is continued like any other."""
    candidates = predict(predictor_of(tokenizer, spread=0.1), "€")
    assert candidates and sum(each.probability for each in candidates) <= 1


def test_text_that_the_network_holds_impossible_is_still_continued(tokenizer: Tokenizer) -> None:
    """Where nothing that is predicted begins with the text, its own tokens are taken as read."""
    support = [tokenizer.surfaces.index(token) for token in ("到", "了", "cat ")]
    candidates = predict(predictor_of(tokenizer, support=support), "s")
    assert {each.append for each in candidates} >= {"到", "了", "cat"}


def test_temperature_of_the_language_is_applied(tokenizer: Tokenizer) -> None:
    """A high temperature for Chinese flattens what follows Chinese, and leaves English alone."""
    runtime = TableRuntime(tokenizer, seed=3)
    hot = Calibration(next_temperature={"zh": 5.0, "en": 1.0})
    plain = Predictor(fake_checkpoint(tokenizer, runtime.sizes), runtime)
    heated = Predictor(fake_checkpoint(tokenizer, runtime.sizes, hot), runtime)
    assert predict(heated, "the ") == predict(plain, "the ")
    assert predict(heated, "上学")[0].probability < predict(plain, "上学")[0].probability


def test_words_are_taken_to_end_as_often_as_in_the_training_text(tokenizer: Tokenizer) -> None:
    """With exact shares of word ends, and no reading on, the candidates are those of the full search."""
    support = [tokenizer.surfaces.index(token) for token in ("the", "cat", ",", "到")]
    runtime = TableRuntime(
        tokenizer, support, spread=0.0
    )  # each of them has a quarter, whatever stands before
    full = predict(
        Predictor(fake_checkpoint(tokenizer, runtime.sizes), runtime, search=EXHAUSTIVE), "", 4
    )
    shares = tuple(0.5 if tokenizer.ends_letter[token] else 1.0 for token in range(tokenizer.size))
    estimate = SearchOptions(word_rounds=0)
    quick = predict(
        Predictor(
            fake_checkpoint(tokenizer, runtime.sizes, word_end_probs=shares),
            runtime,
            search=estimate,
        ),
        "",
        4,
    )
    assert {each.append: pytest.approx(each.probability, rel=1e-3) for each in full} == {
        each.append: each.probability for each in quick
    }


def test_estimated_end_gives_way_to_the_network(tokenizer: Tokenizer) -> None:
    """Where the search goes far enough, a wrong share of word ends changes nothing."""
    runtime = TableRuntime(tokenizer, seed=4)
    wrong = fake_checkpoint(tokenizer, runtime.sizes, word_end_probs=(0.9,) * tokenizer.size)
    right = fake_checkpoint(tokenizer, runtime.sizes)
    found, expected = (
        predict(Predictor(each, runtime, search=EXHAUSTIVE), "I th", 10) for each in (wrong, right)
    )
    # The last round of a search has nothing after it that would correct what it takes for granted.
    assert {each.append: each.probability for each in found[:5]} == {
        each.append: pytest.approx(each.probability, abs=0.02) for each in expected[:5]
    }


def test_long_word_in_a_small_vocabulary_is_spelled_out() -> None:
    """A word of eight tokens is found where each of them is all but certain, although no token holds more of it."""
    word = "triangle"
    tokenizer = hand_tokenizer((*word, " "))
    (space,) = (tokenizer.surfaces.index(token) for token in " ")
    order = [space, *(tokenizer.surfaces.index(letter) for letter in word), space]

    class Speller(TableRuntime):
        def score(self, _: Any, outputs: Any) -> Any:  # type: ignore[override]
            rows = np.full((len(outputs), tokenizer.size), -np.inf, dtype=np.float32)
            rows[:, order] = np.log(0.1 / len(word))
            for row, output in zip(rows, outputs, strict=True):
                place = order.index(int(output[1])) if output[1] in order else 0
                row[order[place + 1]] = np.log(0.9)
            return rows

    runtime = Speller(tokenizer)
    (best, *_) = predict(Predictor(fake_checkpoint(tokenizer, runtime.sizes), runtime), "", 5)
    assert best.append == word
    assert best.probability == pytest.approx(0.9**9, rel=0.02)


@given(st.text(max_size=30) | st.text(alphabet="the ,a迟到了\n€_'", max_size=20))
@settings(max_examples=60, deadline=None)
def test_promises_hold_for_any_text(tokenizer_once: Tokenizer, text: str) -> None:
    """Whatever the text: probabilities sum to at most 1, fall, and every append is something that can be typed."""
    everything = range(FIRST_BYTE, tokenizer_once.size)
    candidates = predict(predictor_of(tokenizer_once, support=everything, spread=0.5), text, 20)
    assert sum(each.probability for each in candidates) <= 1 + 1e-9
    assert [each.probability for each in candidates] == sorted(
        (each.probability for each in candidates), reverse=True
    )
    appends = [each.append for each in candidates]
    assert len(set(appends)) == len(appends)
    for each in candidates:
        assert each.append and not each.append.endswith(" ") and each.probability > 0
        assert (normalise(text) + each.append).endswith(each.word)


@pytest.fixture(scope="module")
def tokenizer_once() -> Tokenizer:
    """The same, under a name that hypothesis may use: it is never changed."""
    return hand_tokenizer(TOKENS)


@pytest.mark.parametrize(
    ("text", "word"),
    [("atre ", "atre"), ("atre", None), (" cat ", " cat"), ("  ", None), ("", None), (", ", ","), ("到", "到"),
     ("了。", "了。"), ("cat,", "cat"), ("。a", "。"), (" 到", " 到")],
)  # fmt: skip
def test_first_word_ends_where_it_must(text: str, word: str | None) -> None:
    """A word of letters needs to be followed by something; anything else is as long as its token."""
    assert first_word(text) == word
