"""The search for next words in Python: what the native one is tested against.

model/decoding/next_word.py describes its steps. This one reads each text from its start.
"""

import codecs
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter

from model.batching import Decoder
from model.decoding.candidates import CandidateRules, start_of_word
from model.decoding.context import DecoderContext, History, largest, typed_prob
from model.decoding.next_token import (
    BRANCH_SHARE,
    BRANCHES,
    WIDTH,
    WORD_FLOOR,
    WORD_ROUNDS,
    WORD_ROWS,
    WORD_SHARE,
)
from model.decoding.next_word import TAILS
from model.decoding.writer_words import Weights, WriterWords, weigh
from model.queries import PredictQuery
from model.text import NormalText, is_han, is_word_character, normalise, read_text
from research.smollm import first_word
from tests.reference.next_token import ALL, BYTES, LETTERS, NextToken, PrefixNode, load_prefix
from tests.reference.spellings import Speller, Spelling, room

# A candidate: the word, what it appends, its probability, if it has ended.
Shown = tuple[str, str, float, bool]
# The node before a token, the token, its probability, the characters of the text that it covers.
Source = tuple[PrefixNode, int, float, str]


@dataclass(slots=True, eq=False)
class PartialWord:
    """Characters after the text whose word has not ended."""

    prob: float
    ended_prob: float  # the part of it that counts, as an estimate, for a word that ends here
    doubtful_prob: float  # the part of it that reading on may take elsewhere
    suffix: str  # the characters
    pending: bytes  # of an incomplete character after them
    last: Source  # the last token, not run yet


@dataclass(slots=True, eq=False)
class Branch:
    """Next tokens after some characters, most probable first."""

    prob: float  # of what precedes them
    node: PrefixNode
    allowed: str  # of the next tokens, without a *spelling*
    suffix: str  # characters after the text
    pending: bytes  # of an incomplete character after them
    spelling: Spelling | None  # if the tokens cross the end of q after it
    covered: str  # characters at the end of the text that belong to the tokens
    skipped: int  # their number
    begins_word: bool  # each token does, and it is the first one of its word
    taken: int = 0  # of the tokens


def next_words(
    context: DecoderContext, query: PredictQuery, history: History
) -> Decoder[list[Shown]]:
    """Decode one query, which is checked already."""
    reading = read_text(query.text)
    text = reading.text
    boundary = context.index.last_stable_boundary(text)
    prefix = yield from load_prefix(context, text[:boundary], history)
    # tokens between prefix and cut; q as tokens and as bytes
    between, canonical, typed_prefix = context.index.heal(text[boundary:])
    next_token = NextToken(context, prefix)
    start = start_of_word(text)
    writer = WriterWords(text, start, history.words, history.lexicon)
    rules = CandidateRules(text, start, context.is_known, writer.__contains__)
    search = _Search(context, next_token, rules, reading, writer)
    spelled = yield from Speller(context.index, next_token).spell(between, canonical, typed_prefix)
    for spelling in spelled.spellings:
        search.branch_from(spelling, spelling.prob / (spelled.total or 1.0))
    yield from search.extend()
    if search.words:
        cut = len(text) - len(typed_prefix.decode())
        search.weigh(lambda start: typed_prob(context, text, start, cut, spelled.total))
    return search.candidates(query.top_k)


class _Search:
    """The candidates so far, and the partial words that may become candidates."""

    def __init__(
        self,
        context: DecoderContext,
        next_token: NextToken,
        rules: CandidateRules,
        reading: NormalText,
        writer: WriterWords,
    ) -> None:
        self._index = context.index
        self._surfaces = context.tokenizer.surfaces
        self._word_end_probs = context.word_end_probs
        self._is_word = context.is_word
        self._next_token = next_token
        self._rules = rules
        self._reading = reading
        self._is_as_sent = reading.text == reading.sent
        self._writer = writer
        self.words = writer.continuations()
        self._blocks_any = writer.blocks_any
        self._weights: Weights | None = None
        # By appended text: its probability; probability and source of its likeliest token. Of those
        # with a space after them, the probability of that.
        self._found: dict[str, tuple[float, float, Source | None]] = {}
        self._spaced_probs: dict[str, float] = {}
        self._partial_words: list[PartialWord] = []
        self._branches: list[Branch] = []
        self._last_prob = 0.0  # of the last candidate so far
        self._cutoff = 0.0  # of next tokens

    def branch_from(self, spelling: Spelling, prob: float) -> None:
        """Take the tokens that cross the end of q from a spelling, or that follow it."""
        if not prob > self._cutoff or not spelling.total > 0:
            return
        crossing = None if spelling.crossing is None else spelling
        covered = spelling.rest.decode()
        begins_word = covered == self._rules.stem and not self._rules.sentence_ended
        self._branch(
            Branch(prob, spelling.node, ALL, "", b"", crossing, covered, len(covered), begins_word)
        )

    def extend(self) -> Decoder[None]:
        """Extend partial words while they could change the candidates, up to a limit."""
        for _ in range(WORD_ROUNDS):
            floor = max(self._last_prob * WORD_SHARE, WORD_FLOOR)
            words = [word for word in self._partial_words if word.doubtful_prob > floor]
            words.sort(key=lambda word: -word.doubtful_prob)
            chosen = words[: min(WORD_ROWS, room(self._next_token))]
            if not chosen:
                break
            self._partial_words = words[len(chosen) :]
            nodes = yield from self._next_token.expand([word.last[:2] for word in chosen])
            for word, node in zip(chosen, nodes, strict=True):
                allowed = ALL
                if word.pending:
                    allowed = BYTES
                elif word.suffix[-1:] != " ":  # replace the estimate
                    allowed = LETTERS
                    cutoff = self._cutoff / word.prob
                    top = self._next_token.top(node, LETTERS, cutoff, BRANCHES)
                    added = word.prob * (1.0 - min(1.0, top.total)) - word.ended_prob
                    self._accept(word.suffix, added, word.last)
                suffix, begins_word = word.suffix, word.suffix == " "
                self._branch(
                    Branch(word.prob, node, allowed, suffix, word.pending, None, "", 0, begins_word)
                )

    def _branch(self, branch: Branch) -> None:
        """Take the most probable next tokens while they could change the candidates."""
        self._branches.append(branch)
        # A cached list may hold tokens below the cutoff for which it is read, and corrections of
        # estimates may lower that while they are taken.
        cutoff, taken = self._cutoff, 0
        for token, token_prob in zip(*self._next(branch, cutoff, BRANCHES), strict=True):
            if taken == WIDTH:
                self._update_cutoff()
                cutoff = max(cutoff, self._cutoff)
            prob = branch.prob * token_prob
            if prob <= cutoff:
                break
            taken += 1
            self._take(branch, token, prob)
        branch.taken = taken
        self._update_cutoff()

    def _next(self, branch: Branch, cutoff: float, limit: int) -> tuple[list[int], list[float]]:
        """Return next tokens and their probabilities above *cutoff*, falling."""
        cutoff /= branch.prob
        spelling = branch.spelling
        if spelling is None or spelling.crossing is None:
            top = self._next_token.top(branch.node, branch.allowed, cutoff, limit)
            return top.tokens[:limit], top.probs[:limit]
        places = largest(spelling.crossing_probs, limit, cutoff)
        return spelling.crossing[places].tolist(), spelling.crossing_probs[places].tolist()

    def _update_cutoff(self) -> None:
        if len(self._found) >= WIDTH:
            self._last_prob = sorted(map(itemgetter(0), self._found.values()))[-WIDTH]
            self._cutoff = BRANCH_SHARE * self._last_prob

    def _take(self, branch: Branch, token: int, prob: float) -> None:
        """Add a next token to the candidates, or to the partial words."""
        surface = self._surfaces[token]
        source = branch.node, token, prob / branch.prob, branch.covered
        if not surface:  # a byte
            spelled = branch.pending + self._index.spellings[token]
            character = _character(spelled)
            if not character:
                if character is not None and prob > WORD_FLOOR:
                    word = PartialWord(prob, 0, prob, branch.suffix, spelled, source)
                    self._partial_words.append(word)
                return
            surface = character
        suffix = branch.suffix + surface[branch.skipped :]
        append, is_spaced_mark = first_word(suffix)
        is_allowed = branch.begins_word and self._is_word[token]
        if append is not None:
            self._accept(append, prob, source, is_allowed)
            if is_spaced_mark:
                self._spaced_probs[append] = self._spaced_probs.get(append, 0.0) + prob
            return
        ended_prob = 0.0
        if suffix and suffix[-1] != " ":
            ended_prob = prob * self._word_end_probs[token]
            if ended_prob > 0:
                self._accept(suffix, ended_prob, source, is_allowed)
        # How often a number ends after a digit says little: that depends on its length.
        doubtful = prob if suffix[-1:].isdigit() else prob - ended_prob
        if doubtful > WORD_FLOOR:
            word = PartialWord(prob, ended_prob, doubtful, suffix, b"", source)
            self._partial_words.append(word)

    def _accept(self, append: str, prob: float, source: Source, is_allowed: bool = False) -> None:
        """Add to the probability of a candidate, if the rules allow it."""
        written = append if self._is_as_sent else self._reading.complete(source[3], append)
        if written is None:
            return
        found = self._found.get(written)
        if found is not None:
            likeliest = (prob, source) if prob > found[1] else found[1:]
            self._found[written] = found[0] + prob, *likeliest
        elif not (is_allowed or self._rules.allow(append)):
            # A word that nobody knows does not end here, but the writer may have one that goes on.
            longer = [each.append for each in self.words if each.append.startswith(append)]
            if longer:
                self._accept(longer[0], prob, source, True)
        elif not (self._blocks_any and self._writer.blocks(append)):
            self._found[written] = prob, prob, source

    def weigh(self, typed_prob: Callable[[int], float]) -> None:
        """Add the words of the writer; *typed_prob* is of the text from a place to its end."""
        words, found = self.words, self._found
        if not self._is_as_sent:
            write = self._reading.write
            words = [each._replace(append=each.append and write(each.append)) for each in words]
        self._weights = weigh(words, found, typed_prob)
        for append in self._weights.words if self._weights else ():
            found.setdefault(append, (0.0, 0.0, None))

    def candidates(self, top_k: int) -> list[Shown]:
        """Return the best candidates, falling, ties by text."""
        candidates: list[Shown] = []
        if not self._found:  # all that is probable may be no candidate
            self._take_tail(0.0, TAILS[-1][1])
        # What was not taken is below the cutoff, so those above it are final.
        self._add_final(candidates, self._cutoff, top_k)
        for share, limit in TAILS:
            if not WIDTH <= len(candidates) < top_k:  # below WIDTH next to nothing is left
                break
            self._take_tail(self._cutoff * share, limit)
            self._add_final(candidates, self._cutoff * share, top_k)
        return candidates

    def _ranked(self, cutoff: float) -> list[tuple[float, str]]:
        """Return (-probability, appended text) of candidates above *cutoff*, sorted."""
        found, weights = self._found.items(), self._weights
        if not weights:
            return sorted([(-prob, append) for append, (prob, _, _) in found if prob > cutoff])
        cutoff *= weights.continued
        weighed = [(weights.prob(append, prob), append) for append, (prob, _, _) in found]
        return sorted([(-prob, append) for prob, append in weighed if prob > cutoff])

    def _add_final(self, candidates: list[Shown], cutoff: float, top_k: int) -> None:
        """Add candidates above *cutoff*, below and after the *candidates*, up to *top_k*."""
        seen = {append for _, append, _, _ in candidates}
        most = candidates[-1][2] if candidates else 1.0
        left = 1.0 - sum([prob for _, _, prob, _ in candidates])
        for minus_prob, append in self._ranked(cutoff):
            if seen and append in seen:
                continue
            prob = -minus_prob
            if prob > most or prob > left:  # in float32 they may sum to a little more than 1
                prob = min(most, left)
            if len(candidates) == top_k or not prob > 0:
                break
            left -= prob
            if self._weights and append in self._weights.words:
                word = self._reading.as_sent(self._weights.words[append].start) + append
                candidates.append((word, append, prob, True))
                continue
            total, _, source = self._found[append]
            start = self._rules.stem
            if source and not is_word_character(append[0]):
                start = source[3]
            if not self._is_as_sent:
                start = self._reading.as_sent(len(self._reading.text) - len(start))
            word = append.lstrip(" ") if append[0] == " " else start + append
            ended = self._rules.is_complete(append, self._spaced_probs.get(append, 0.0) / total)
            candidates.append((word, append, prob, ended))

    def _take_tail(self, cutoff: float, limit: int) -> None:
        """Take further next tokens of all branches."""
        for branch in self._branches:
            tokens, probs = self._next(branch, cutoff, limit)
            for token, token_prob in zip(
                tokens[branch.taken :], probs[branch.taken :], strict=True
            ):
                prob = branch.prob * token_prob
                if prob <= cutoff:
                    break
                branch.taken += 1
                self._take(branch, token, prob)


@lru_cache(maxsize=1 << 12)
def _character(data: bytes) -> str | None:
    """Return the character that *data* spells: empty if incomplete, None for invalid bytes.

    Nor is there one that no text in normal form has, such as a full-width digit or an odd space.
    """
    try:
        character = codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return None
    return character if is_han(character) or normalise(character) == character else None
