"""Answers of the bundled checkpoint, as clients get them: optional fields, and `/score`."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from model.checkpoint import DEFAULT_CHECKPOINT
from tests.service.client import real_model, synchronous

Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """A function from a path and a body to results."""
    with synchronous(real_model(DEFAULT_CHECKPOINT)) as send:

        def results(path: str, **body: Any) -> list[dict[str, Any]]:
            answer: Any = send("POST", path, json=body).json()
            found: list[dict[str, Any]] = answer["results"]
            return found

        yield results


def words(results: list[dict[str, Any]]) -> list[str]:
    """Return the words of the candidates for one text."""
    return [each["word"] for each in results[0]["candidates"]]


@pytest.mark.parametrize("word", ["Okonkwo", "iPhone-Hülle", "Zzyzx", "okKAY"])
def test_words_of_a_lexicon_are_offered_as_written(ask: Ask, word: str) -> None:
    """A word of the writer is offered after some letters; more weight, more probable."""
    text = f"I asked {word[:3]}"
    lexicon = [{"word": word, "weight": weight} for weight in (0.5, 50)]
    found = [ask("/predict", text=text, lexicon=[each], top_k=20) for each in lexicon]
    probs = []
    for results in found:
        (candidate,) = [each for each in results[0]["candidates"] if each["word"] == word]
        assert candidate["append"] == word[3:] and candidate["ended"]
        probs.append(candidate["probability"])
    assert probs[0] < probs[1]
    assert word not in words(ask("/predict", text=text, top_k=20))


def test_blocked_words_never_come(ask: Ask) -> None:
    """Nor does a word of the lexicon, or one in another case; the others stay in order."""
    text, top_k = "Last night we went to the theat", 10
    before = words(ask("/predict", text=text, top_k=top_k))
    blocked = ["THEATRE", "theaters"]
    after = words(ask("/predict", text=text, top_k=top_k, block=blocked, lexicon=["theatre"]))
    kept = [word for word in before if word not in ("theatre", "theaters")]
    assert len(kept) == len(before) - 2
    assert after[: len(kept)] == kept


@pytest.mark.parametrize(
    ("context", "text"),
    [
        ("I bought a new", "phone"),
        ("I bought a new", " phone"),
        ("I bought a new ", "phone"),
        ("I bought a new\u00a0", "\u200bphone"),
    ],
)
def test_a_word_after_a_context_gets_its_own_probability(ask: Ask, context: str, text: str) -> None:
    """It does not matter which side sends the space."""
    (result,) = ask("/score", text=text, context=context)
    assert result["log_probability"] == pytest.approx(-7.38, abs=0.05)
    assert (result["tokens"], result["characters"]) == (1, 5)
    assert "details" not in result


@pytest.mark.parametrize(
    ("context", "texts"),
    [
        ("She drank a cup of", [" coffee", " phone", " cof"]),
        ("Last night we went to the theat", ["re", "e", "rum"]),
        ("我很喜", ["欢你", "剧你", "的"]),
        ("Is the sky blue? Answer:", ["yes", "yet", "phone"]),
        ("It is late.", ["I am tired.", "I am tried.", "I am tyred."]),
    ],
)
def test_the_right_text_is_the_most_probable(ask: Ask, context: str, texts: list[str]) -> None:
    """Texts after the same context can be compared, and those inside a word as well."""
    found = [result["log_probability"] for result in ask("/score", text=texts, context=context)]
    assert max(found) == found[0] < 0
    alone = [ask("/score", text=text, context=context)[0]["log_probability"] for text in texts]
    assert found == alone


def test_no_context_is_the_start_of_a_text(ask: Ask) -> None:
    """An empty context, and null, change nothing."""
    text = "How are you?"
    assert (
        ask("/score", text=text)
        == ask("/score", text=text, context="")
        == ask("/score", text=text, context=None)
    )


def test_details_show_which_token_is_improbable(ask: Ask) -> None:
    """Their places are those of the text as sent, whatever its normal form."""
    text = "I have \u200btwo\u3000apple\u0301s.\r\n我們很好😀"
    (result,) = ask("/score", text=text, details=True)
    entries = result["details"]
    assert "".join(text[each["start"] : each["end"]] for each in entries) == text
    assert all(text[each["start"] : each["end"]] == each["text"] for each in entries)
    total = sum(each["log_probability"] for each in entries)
    assert total == pytest.approx(result["log_probability"], abs=1e-4)
    costs = {each["text"]: each["log_probability"] for each in entries}
    assert costs["\r\n"] == 0 and costs["😀"] == min(costs.values())


def test_line_ends_of_any_system_cost_nothing(ask: Ask) -> None:
    """A text with CR LF has the probability of the same text with LF."""
    lines = ["I am a student.", "我很好。", "Goodbye"]
    found = [
        ask("/score", text=end.join(lines))[0]["log_probability"] for end in ("\n", "\r\n", "\r")
    ]
    assert found[0] == found[1] == found[2]


def test_fillings_are_of_all_blanks_together(ask: Ask) -> None:
    """They come if more than one is asked for, best first, the first one as `filled`."""
    text = "I would like ____ and ____."
    (plain,) = ask("/cloze", text=text)
    (result,) = ask("/cloze", text=text, fillings=4)
    assert "fillings" not in plain and plain["blanks"] == result["blanks"]
    fillings = result["fillings"]
    assert 1 < len(fillings) <= 4 and fillings[0]["filled"] == plain["filled"]
    probs = [each["probability"] for each in fillings]
    assert probs == sorted(probs, reverse=True) and sum(probs) <= 1 + 1e-6
    for each in fillings:
        assert each["filled"] == "I would like {} and {}.".format(*each["words"])


def test_lexicon_and_block_hold_for_blanks(ask: Ask) -> None:
    """A word of the writer becomes likelier, a blocked one does not come."""
    text = "My cat is called ____."
    first = words(ask("/cloze", text=text)[0]["blanks"])[0]
    lexicon = [{"word": "Zorbax", "weight": 1000}]
    assert "Zorbax" in words(ask("/cloze", text=text, lexicon=lexicon)[0]["blanks"])
    assert first not in words(ask("/cloze", text=text, block=[first])[0]["blanks"])


def test_ghost_text_and_letters_come_if_they_are_asked(ask: Ask) -> None:
    """Candidates have `steps` and the result has `letters`; the first words stay the same."""
    text = "Thank you for your"
    (plain,) = ask("/predict", text=text)
    (result,) = ask("/predict", text=text, words=3, letters=True)
    assert words([plain]) == words([result])
    for each in result["candidates"]:
        assert each["append"] == "".join(step["append"] for step in each["steps"])
    letters = result["letters"]
    assert letters["next"][0]["letter"] == " " and letters.keys() == {"next", "end", "other"}
    probs = [each["probability"] for each in letters["next"]]
    assert sum(probs) + letters["end"] + letters["other"] == pytest.approx(1)
