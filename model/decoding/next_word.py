"""Predict the next word: P(word | text), for a text that may stop anywhere, also inside a word.

1. *Heal* (:meth:`TokenIndex.heal`): cut the text where no later character can change its tokens.
   The rest is the typed prefix q, often an unfinished word, often empty.
2. *Spell* (next_token.py): follow the spellings of q that hold a share of Z = P(q | left).
3. *Branch*: take the most probable tokens that cross the end of q or follow it. A word of letters
   ends before the first other character; anything else (a Chinese word, punctuation) is one token.
   Leave out what cannot be right (candidates.py).
4. *Extend*: after a token that ends in letters, the word ends with the probability that it has in
   the training text. Run the tower over the token only if the rest of its probability could still
   change the first ``WIDTH`` candidates; then the network's own probability replaces the estimate.

    P(word | text) = P(q continues to the word, and the word ends | left) / Z

The candidates are events that exclude each other, so they sum to at most 1. The number of
candidates that is wanted cuts the list and changes nothing else: what a longer list has more comes
from step 3 alone, with lower probabilities.
"""

from collections.abc import Callable

from model.batching import Decoder
from model.decoding.candidates import CandidateRules, start_of_word
from model.decoding.context import DecoderContext, History, load_prefix, typed_prob
from model.decoding.letters import ended_share
from model.decoding.next_token import WIDTH, Found, NextToken, TextEnd
from model.decoding.origins import Shown, add_writer
from model.decoding.writer_words import Weights, WriterWords, weigh
from model.queries import Candidate, Origins, PredictQuery, PredictResult, Usage
from model.text import NormalText, is_word_character, read_text

# For longer lists, next tokens above these shares of the least probability that is taken otherwise
# are taken in turn; at most so many.
TAILS = (1 / 16, 32), (1 / 512, 128)


def next_words(
    context: DecoderContext, query: PredictQuery, history: History, after_word: bool = False
) -> Decoder[PredictResult]:
    """Decode one query, which is checked already; *after_word*, no letter follows its text."""
    reading = read_text(query.text)
    text = reading.text
    boundary = context.index.last_stable_boundary(text)
    prefix, cached_tokens = yield from load_prefix(context, text[:boundary], history)
    # tokens between prefix and cut; q as tokens and as bytes
    between, canonical, typed_prefix = context.index.heal(text[boundary:])
    next_token, tree = NextToken(context, prefix), prefix.tree
    start = start_of_word(text)
    writer = WriterWords(text, start, history.words, history.lexicon)
    rules = CandidateRules(text, start, context.is_known, writer.__contains__)
    words = _Words(next_token, rules, reading, writer)
    try:
        yield from next_token.spell(
            TextEnd(
                *(between, canonical, typed_prefix, rules.stem, writer.before),
                sentence_ended=rules.sentence_ended,
                is_plain=words.is_as_sent and not writer.blocks_any,
                asks_words=writer.has_other_words or bool(words.own),
                asks_marks=rules.asks_marks,
            )
        )
        total = next_token.total or 1.0
        if after_word:
            total *= ended_share(context, next_token) or 1.0
            words.own = []
        yield from next_token.find_words(total, words.show, after_word)
        cut = len(text) - len(typed_prefix.decode())
        candidates = words.candidates(
            query.top_k, lambda start: typed_prob(context, text, start, cut, next_token.total)
        )
    finally:  # a cancelled query leaves nodes, too
        next_token.close()
        if prefix.tree is tree:  # not dropped meanwhile
            context.cache.put(prefix)
    return PredictResult(
        candidates,
        Usage(
            prefix.tokens + len(between) + len(canonical),
            cached_tokens + next_token.cached_tokens,
        ),
        inside_word=rules.stem != "",
        network_rows=prefix.tokens - cached_tokens + next_token.network_rows,
    )


class _Words:
    """The words that are found, and those of the writer."""

    def __init__(
        self,
        next_token: NextToken,
        rules: CandidateRules,
        reading: NormalText,
        writer: WriterWords,
    ) -> None:
        self._next_token = next_token
        self._rules, self._reading, self._writer = rules, reading, writer
        self.is_as_sent = reading.text == reading.sent
        self.own = writer.continuations()

    def show(self, append: str, covered: int, is_allowed: bool) -> str | None:
        """Return how a candidate is shown, if the rules allow it; see Decide."""
        written: str | None = append
        if not self.is_as_sent:
            text = self._reading.text
            written = self._reading.complete(text[len(text) - covered :], append)
        if written is None or not append:
            return None
        if not (is_allowed or self._rules.allow(append)):
            # A word that nobody knows does not end here, but the writer may have one that goes on.
            longer = [each.append for each in self.own if each.append.startswith(append)]
            return self.show(longer[0], covered, True) if longer else None
        return None if self._writer.blocks_any and self._writer.blocks(append) else written

    def candidates(self, top_k: int, typed_prob: Callable[[int], float]) -> tuple[Candidate, ...]:
        """Return the best candidates, falling, ties by text.

        *typed_prob* returns the probability of the text from a place to its end.
        """
        next_token = self._next_token
        weights = self._weigh(typed_prob) if self.own else None
        if not next_token.has_found and not weights:  # all that is probable may be no candidate
            next_token.take_tail(0.0, TAILS[-1][1], self.show)
        candidates: list[Candidate] = []
        # What was not taken is below the cutoff, so those above it are final.
        self._add_final(candidates, weights, next_token.cutoff, top_k)
        for share, limit in TAILS:
            if not WIDTH <= len(candidates) < top_k:  # below WIDTH next to nothing is left
                break
            cutoff = next_token.cutoff * share
            next_token.take_tail(cutoff, limit, self.show)
            self._add_final(candidates, weights, cutoff, top_k)
        return tuple(candidates)

    def _weigh(self, typed_prob: Callable[[int], float]) -> Weights | None:
        """Weigh the words of the writer."""
        words, found = self.own, {each.append: (each.prob,) for each in self._next_token.found(0.0)}
        if not self.is_as_sent:
            write = self._reading.write
            words = [each._replace(append=each.append and write(each.append)) for each in words]
        return weigh(words, found, typed_prob)

    def _ranked(self, weights: Weights | None, cutoff: float, limit: int) -> list[Found]:
        """Return candidates above *cutoff*, falling, *limit* or more."""
        if not weights:
            return self._next_token.found(cutoff, limit)
        cutoff *= weights.continued
        found = {word: Found(word, 0.0, 0.0, 0, Origins()) for word in weights.words}
        found |= {each.append: each for each in self._next_token.found(0.0)}
        weighed = [
            each._replace(prob=weights.prob(each.append, each.prob)) for each in found.values()
        ]
        above = [each for each in weighed if each.prob > cutoff]
        return sorted(above, key=lambda each: (-each.prob, each.append))

    def _add_final(
        self, candidates: list[Candidate], weights: Weights | None, cutoff: float, top_k: int
    ) -> None:
        """Add candidates above *cutoff*, below and after the *candidates*, up to *top_k*."""
        seen = {each.append for each in candidates}
        most = candidates[-1].probability if candidates else 1.0
        left = 1.0 - sum([each.probability for each in candidates])
        added = weights.words if weights else {}
        for found in self._ranked(weights, cutoff, top_k):
            if found.append in seen:
                continue
            prob = found.prob
            if prob > most or prob > left:  # in float32 they may sum to a little more than 1
                prob = min(most, left)
            if len(candidates) == top_k or not prob > 0:
                break
            left -= prob
            if word := added.get(found.append):
                shown = self._reading.as_sent(word.start) + found.append, found.append, prob, True
            else:
                shown = self._shown(found, prob)
            candidates.append(Candidate(*shown, add_writer(found.origins, shown, added)))

    def _shown(self, found: Found, prob: float) -> Shown:
        append, text, start = found.append, self._reading.text, self._rules.stem
        if not is_word_character(append[0]):
            start = text[len(text) - found.covered :]
        if not self.is_as_sent:
            start = self._reading.as_sent(len(text) - len(start))
        word = append.lstrip(" ") if append[0] == " " else start + append
        return word, append, prob, self._rules.is_complete(append, found.spaced)
