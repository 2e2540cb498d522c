"""Words of the text, the history and the lexicon of a writer: offered, known, blocked."""

from functools import cache
from typing import Any

import pytest

from model.checkpoint import DEFAULT_CHECKPOINT
from model.decoding.writer_words import (
    MIXTURE,
    OTHER_CASE,
    SMOOTHING,
    WORD_LENGTH,
    Lexicon,
    SearchedText,
    WriterWords,
    weigh,
)
from model.predictor import Predictor, open_model
from model.queries import LexiconEntry, PredictQuery
from model.tokenizer import FIRST_BYTE
from tests.fakes import TYPING, TableRuntime, answer, table_predictor


@cache
def bundled() -> Predictor:
    """Return a predictor of the bundled checkpoint."""
    return Predictor(*open_model(DEFAULT_CHECKPOINT))


def offered(text: str, **fields: Any) -> dict[str, str]:
    """Return what the bundled checkpoint offers among the first five: words by what they append."""
    candidates = answer(bundled(), PredictQuery(text, 5, **fields)).candidates
    return {each.append: each.word for each in candidates}


def entries(*words: str) -> tuple[LexiconEntry, ...]:
    """Return entries of weight 1."""
    return tuple(map(LexiconEntry, words))


@pytest.mark.parametrize(
    ("history", "text", "append", "word"),
    [
        ("Our vet is called Adaeze.", "I asked Ad", "aeze", "Adaeze"),
        ("They moved to Ystradgynlais.", "How far is Ystr", "adgynlais", "Ystradgynlais"),
        ("She takes methimazole.", "Buy meth", "imazole", "methimazole"),
        ("We play Vorpalia on Fridays.", "Who plays V", "orpalia", "Vorpalia"),
        ("We play Vorpalia on Fridays.", "who plays vor", "palia", "vorpalia"),
        ("try oxaprozin", "Oxap", "rozin", "Oxaprozin"),
        ("OUR VET IS CALLED ADAEZE.", "I asked Ada", "eze", "Adaeze"),
        ("班长是诸葛明月。", "我找诸葛", "明", "明"),
        ("狗叫豆豆包。", "我带着豆豆", "包", "包"),
    ],
)
def test_a_name_is_offered_after_it_came_once(
    history: str, text: str, append: str, word: str
) -> None:
    """It is among the first five, as it was written, whether history or text has it."""
    assert offered(text, history=history).get(append) == word
    assert offered(f"{history} {text}").get(append) == word
    assert append not in offered(text)


def test_fragments_of_a_name_are_not_offered() -> None:
    """The whole name comes first, and no made-up word comes."""
    found = offered("How far is Ystradg", history="They moved to Ystradgynlais.")
    assert next(iter(found.values())) == "Ystradgynlais"
    assert [word for word in found.values() if word.startswith("Ystr")] == ["Ystradgynlais"]


def test_what_begins_a_name_speaks_for_the_name() -> None:
    """After two letters it comes first, although its tokens seldom follow each other."""
    history = "My doctor is Dr. Okonkwo."
    assert next(iter(offered("Call Dr. Ok", history=history).values())) == "Okonkwo"


def test_a_short_history_changes_no_common_word() -> None:
    """Words that the network expects anyway stay first."""
    for text, word in (("Thank you very mu", "much"), ("I would like t", "to")):
        assert next(iter(offered(text, history="My tutor is Murgatroyd.").values())) == word


@pytest.mark.parametrize(
    ("lexicon", "text", "append", "word"),
    [
        (["Adaeze"], "I asked A", "daeze", "Adaeze"),
        (["iPhone"], "My new i", "Phone", "iPhone"),
        (["诸葛明月"], "我找诸", "葛明月", "诸葛明月"),
        (["诸葛明月"], "我們找諸", "葛明月", "諸葛明月"),
        (["諸葛鴻偉"], "我找诸", "葛鴻偉", "诸葛鴻偉"),
        (["Adaeze"], "PLEASE ASK AD", "AEZE", "ADAEZE"),
        (["Port Talbot"], "We live in P", "ort Talbot", "Port Talbot"),
        (["Port Talbot"], "We live in Port T", "albot", "Port Talbot"),
        (["C++"], "I write C", "++", "C++"),
    ],
)
def test_the_lexicon_is_completed_from_its_first_letter_on(
    lexicon: list[str], text: str, append: str, word: str
) -> None:
    """Its words are offered exactly as they are written."""
    assert offered(text, lexicon=entries(*lexicon)).get(append) == word


def test_weight_prefers_words_of_the_lexicon() -> None:
    """Of two words, the one with more weight comes first; more weight, more probability."""
    first, second = LexiconEntry("Zbigniew", 5.0), LexiconEntry("Zbyszek")
    words = [*offered("Ask Zb", lexicon=(second, first)).values()]
    assert words[:2] == ["Zbigniew", "Zbyszek"]
    light, heavy = (
        answer(bundled(), PredictQuery("Ask Z", 1, lexicon=(LexiconEntry("Zola", weight),)))
        for weight in (1.0, 100.0)
    )
    assert light.candidates[0].probability < heavy.candidates[0].probability


@pytest.mark.parametrize(
    ("text", "block", "word"),
    [
        ("See you tom", "TOMORROW", "tomorrow"),
        ("I was born in New ", "york", "York"),
        ("I was born in New ", "new york", "York"),
        ("谢", "謝謝", "谢谢"),
        ("祝你生日快", "快乐", "生日快乐"),
    ],
)
def test_blocked_words_never_come(text: str, block: str, word: str) -> None:
    """Neither in another case, in Traditional characters, nor as the end of a longer one."""
    assert word in offered(text).values()
    assert word not in offered(text, block=(block,)).values()
    assert offered(text, block=("nothing of it",)) == offered(text)
    lexicon = entries(word) if word.isascii() else ()
    assert word not in offered(text, block=(block,), lexicon=lexicon).values()


def test_candidates_stay_events_that_exclude_each_other() -> None:
    """With all sources together, nothing comes twice and the sum is at most 1."""
    query = PredictQuery(
        "Ask Zbigniew, Zbyszek or Zb", 100, "Zbigniew Zbyszek zebra Zbigniew", entries("Zbroja")
    )
    candidates = answer(bundled(), query).candidates
    assert len({each.append for each in candidates}) == len(candidates)
    assert {"Zbigniew", "Zbyszek", "Zbroja"} <= {each.word for each in candidates[:5]}
    assert sum(each.probability for each in candidates) <= 1 + 1e-9
    assert answer(bundled(), PredictQuery(query.text, 3, *(query.history, query.lexicon))) \
        .candidates == candidates[:3]  # fmt: skip


def test_bayes_rule_weighs_words_of_the_writer() -> None:
    """Each has its expected count over the network's probability of the typed letters."""
    history = "theatre theatre Then"
    words = WriterWords("I like the", 7, SearchedText(history), Lexicon())
    total = SMOOTHING + len(history) / WORD_LENGTH + 0.1 * len("I like ") / WORD_LENGTH
    found = {each.append: each.prior for each in words.continuations()}
    assert found == pytest.approx({"atre": MIXTURE * 2 / total, "n": MIXTURE * OTHER_CASE / total})
    network = {"ir": (0.5, "", 0.5)}
    weights = weigh(words.continuations(), network, {len("I like "): 0.1}.__getitem__)
    assert weights
    odds = {append: prior / 0.1 for append, prior in found.items()}
    assert weights.prob("atre", 0.25) == pytest.approx(
        (0.25 + odds["atre"]) / (1 + sum(odds.values()))
    )
    assert weights.prob(" is", 0.25) == pytest.approx(0.25 / (1 + sum(odds.values())))


def test_a_word_that_is_typed_as_a_whole_favours_what_ends_it() -> None:
    """Its probability goes to the candidates that do not continue it."""
    words = WriterWords("to the", 3, SearchedText("the the"), Lexicon()).continuations()
    network = {"ir": (0.4, "", 0.4), " cat": (0.1, "", 0.1)}
    assert weigh(words, network, {len("to "): 100.0}.__getitem__) is None
    weights = weigh(words, network, {len("to "): 0.1}.__getitem__)
    assert weights
    assert weights.prob(" cat", 0.1) > 0.1
    assert weights.prob("ir", 0.4) < 0.4
    assert weights.prob(" cat", 0.6) + weights.prob("ir", 0.4) == pytest.approx(1)


@pytest.mark.parametrize("word", ["Okonkwo", "okonkwo's", "Lagos", "cat", "Port Talbot"])
def test_words_of_the_writer_are_known(word: str) -> None:
    """Those of text, history and lexicon are, in any case, but no parts of them."""
    lexicon = Lexicon(entries("Lagos", "Port Talbot"))
    words = WriterWords("A cat for Dr. Oko", 14, SearchedText("I met Okonkwo."), lexicon)
    assert word in words
    assert word[:-1] + "x" not in words
    assert "Oko" not in words and "konkwo" not in words


def test_cache_and_neighbours_change_no_answer() -> None:
    """Answers are the same without a cache, with one, and in a batch with others."""
    runtime = TableRuntime(TYPING, [*range(FIRST_BYTE, TYPING.size)])
    queries = [
        PredictQuery(text, 10, history, lexicon, block)
        for text in ("I like th", "the ca", "迟")
        for history, lexicon, block in (
            ("theocracy", (), ()),
            ("", entries("thesis", "迟早"), ()),
            ("catalogue", (), ("the", "迟到")),
            ("", (), ()),
        )
    ]
    cached = table_predictor(runtime)
    apart = [answer(table_predictor(runtime, cache_bytes=0), query) for query in queries]
    for predictor in (cached, cached, table_predictor(runtime)):
        for expected, found in zip(apart, predictor.run(queries), strict=True):
            assert found.candidates == expected.candidates  # type: ignore[union-attr]


def test_other_words_share_no_cached_text() -> None:
    """A text with another lexicon or other blocked words finds nothing in the cache."""
    predictor = table_predictor(TableRuntime(TYPING))
    for lexicon, block in (((), ()), (entries("a"), ()), ((), ("a",)), (entries("a", "b"), ())):
        query = PredictQuery("I like the ", 5, "", lexicon, block)
        first, again = (answer(predictor, query).usage for _ in range(2))
        assert first.cached_tokens == 0 < again.cached_tokens == again.tokens


def test_few_places_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a text of the same letters again and again, the latest count."""
    monkeypatch.setattr("model.decoding.writer_words.MAX_PLACES", 3)
    words, searched = SearchedText("an ape an ant an axe").words("a")
    assert words == ["axe", "an", "ant"]
    assert searched == len("ant an axe")
    assert SearchedText("an ape").words("ap") == (["ape"], 6)


def test_letters_whose_lower_case_is_longer_are_found_as_they_are() -> None:
    """Places in the text stay right."""
    assert SearchedText("İzmir Bursa").words("İz") == (["İzmir"], 11)
    assert offered("İz", history="İzmir Bursa")["mir"] == "İzmir"
