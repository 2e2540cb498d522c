"""Perplexities of a word benchmark as they are published.

Static, with a neural cache (Grave et al. 2017, arXiv:1612.04426), and with dynamic evaluation
(Krause et al. 2018, arXiv:1709.07432). A text is read in one row; every word is predicted once,
``<eos>`` included, and the first word follows an ``<eos>``. Settings are fitted on valid text and
used once on test text. Networks are in float32 and evaluation mode, and are not changed.
"""

import copy
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from model.counts import Counts, counts_files
from model.errors import CorpusError
from model.runtime import Int64Array
from model.tokenizer import END_OF_GAP, START
from research.word_corpus import WordCorpus
from research.word_network import WordNetwork
from training.ngram import estimate

WINDOW = 256
# Grids of the neural cache: places kept, flatness of the match, share of the cache.
CACHE_WORDS = (500, 2000, 3800)
CACHE_FLATNESS = (0.3, 0.6, 1.0, 1.5)
CACHE_SHARES = (0.05, 0.1, 0.15, 0.2, 0.3)
# Grids of dynamic evaluation, and how many words of valid text choose from them.
DYNAMIC_RATES = (0.3, 0.6, 1.0)
DYNAMIC_DECAYS = (5e-3, 1e-2, 2e-2)
DYNAMIC_WINDOW = 20
DYNAMIC_FIT_WORDS = 12_000


@dataclass(frozen=True, slots=True)
class Reading:
    """Nats (N,) of each word of a text (N,), and the network's last outputs before it (N, e)."""

    nats: Tensor
    outputs: Tensor
    words: Tensor


def score_continuous(network: WordNetwork, corpus: WordCorpus) -> dict[str, Any]:
    """Return the perplexities over continuous text, static and with the cache that valid text
    chose.
    """
    valid, test = read_through(network, corpus.valid), read_through(network, corpus.test)
    cache = fit_cache(valid)
    return {
        "continuous": {"valid": perplexity(valid.nats), "test": perplexity(test.nats)},
        "cache": {
            **cache,
            "valid": perplexity(cached_nats(valid, **cache)),
            "test": perplexity(cached_nats(test, **cache)),
        },
    }


def score_dynamic(network: WordNetwork, corpus: WordCorpus) -> dict[str, float]:
    """Return the perplexities of dynamic evaluation with the settings that valid text chose."""
    settings = fit_dynamic(network, corpus.valid)
    valid, test = (dynamic_nats(network, text, **settings) for text in (corpus.valid, corpus.test))
    return {**settings, "valid": perplexity(valid), "test": perplexity(test)}


def score_ngram(corpus: WordCorpus, order: int) -> dict[str, Any]:
    """Return the perplexities of a modified Kneser-Ney n-gram of the training text, reset at each
    line.

    Raises:
        CorpusError: more words than 16-bit ids.
    """
    first = END_OF_GAP + 1  # the n-gram reserves the ids before it
    most = np.iinfo(np.uint16).max + 1 - first
    if len(corpus.words) > most:
        raise CorpusError(
            f"the training text has {len(corpus.words)} words; an n-gram holds at most {most}"
        )
    predictable = np.arange(first + len(corpus.words)) >= first
    ends = np.flatnonzero(corpus.train == 0) + 1
    scores: dict[str, Any] = {"order": order}
    text = (corpus.train + first).astype(np.uint16), np.diff(ends, prepend=0)
    unigram, levels, *_ = estimate([text], predictable, order)
    config, files = counts_files(unigram, levels, {})
    ngram = Counts(config, list(files.values()))
    scores["ngrams"] = sum(ngram.ngrams)
    for name, ids in (("valid", corpus.valid + first), ("test", corpus.test + first)):
        nats, context = np.empty(len(ids)), [START]
        for place, word in enumerate(tqdm(ids, desc=name, disable=None)):
            nats[place] = -math.log(ngram.probs(context, [ids[place]])[0][0])
            context = [START] if word == first else [*context, int(word)][-order:]
        scores[name] = perplexity(torch.from_numpy(nats))
    return scores


def perplexity(nats: Tensor) -> float:
    """Return exp of the mean of nats per word."""
    return math.exp(nats.double().mean().item())


@torch.no_grad()
def read_through(network: WordNetwork, ids: Int64Array) -> Reading:
    """Read a text in one row; the state is carried on."""
    words = torch.from_numpy(ids)
    text = torch.cat([torch.zeros(1, dtype=torch.int64), words])
    states = network.initial_states(1)
    nats, outputs = [], []
    for begin in range(0, len(words), WINDOW):
        window = text[begin : begin + WINDOW + 1].unsqueeze(1)
        _, raw, states = network(window[:-1], states)
        logits = network.logits(raw[:, 0])
        nats.append(F.cross_entropy(logits, window[1:, 0], reduction="none"))
        outputs.append(raw[:, 0])
    return Reading(torch.cat(nats), torch.cat(outputs), words)


def fit_cache(valid: Reading) -> dict[str, Any]:
    """Return the settings of the neural cache that are best on valid text."""
    best: tuple[float, dict[str, Any]] = (math.inf, {})
    grid = list(itertools.product(CACHE_WORDS, CACHE_FLATNESS))
    for words, flatness in tqdm(grid, desc="cache", disable=None):
        probabilities = cache_probabilities(valid, words, flatness)
        for share in CACHE_SHARES:
            nats = _mixed_nats(valid, probabilities, share).mean().item()
            if nats < best[0]:
                best = nats, {"words": words, "flatness": flatness, "share": share}
    return best[1]


def cached_nats(reading: Reading, words: int, flatness: float, share: float) -> Tensor:
    """Return the nats of each word under (1 - share) P(word) + share P_cache(word), (N,)."""
    return _mixed_nats(reading, cache_probabilities(reading, words, flatness), share)


def _mixed_nats(reading: Reading, probabilities: Tensor, share: float) -> Tensor:
    return -torch.log((1 - share) * torch.exp(-reading.nats) + share * probabilities)


@torch.no_grad()
def cache_probabilities(reading: Reading, words: int, flatness: float) -> Tensor:
    """Return P_cache of each word, (N,): softmax(flatness h_t h_i) over the last *words* places i.

    A place counts for the word that followed it. The first word has no earlier place and gets 0.
    """
    count = len(reading.words)
    found = torch.zeros(count)
    for begin in range(0, count, WINDOW):
        end = min(begin + WINDOW, count)
        first = max(0, begin - words)
        match = flatness * reading.outputs[begin:end] @ reading.outputs[first:end].t()
        here, places = torch.arange(begin, end).unsqueeze(1), torch.arange(first, end).unsqueeze(0)
        match = match.masked_fill((places >= here) | (places < here - words), -math.inf)
        same = reading.words[first:end].unsqueeze(0) == reading.words[begin:end].unsqueeze(1)
        shares = match.softmax(dim=1).nan_to_num()  # the first word matches nothing
        found[begin:end] = (shares * same).sum(dim=1)
    return found


def fit_dynamic(network: WordNetwork, ids: Int64Array) -> dict[str, Any]:
    """Return the settings of dynamic evaluation that are best on the beginning of valid text."""
    best: tuple[float, dict[str, Any]] = (math.inf, {})
    grid = list(itertools.product(DYNAMIC_RATES, DYNAMIC_DECAYS))
    for rate, decay in tqdm(grid, desc="dynamic evaluation", disable=None):
        nats = dynamic_nats(network, ids[:DYNAMIC_FIT_WORDS], rate, decay).mean().item()
        if nats < best[0]:
            best = nats, {"rate": rate, "decay": decay}
    return best[1]


def dynamic_nats(network: WordNetwork, ids: Int64Array, rate: float, decay: float) -> Tensor:
    """Return the nats of each word under a copy of the network that learns from the words so far.

    After each window a step, theta' = theta - rate g, and a pull to the start, theta = theta' +
    decay (theta_0 - theta'). Krause et al. pull from theta and divide gradients by their root mean
    squares; research/LOG.md has the comparison.
    """
    learner = copy.deepcopy(network)
    parameters = list(learner.parameters())
    start = [parameter.detach().clone() for parameter in parameters]
    words = torch.from_numpy(ids)
    text = torch.cat([torch.zeros(1, dtype=torch.int64), words])
    states = learner.initial_states(1)
    nats = []
    for begin in range(0, len(words), DYNAMIC_WINDOW):
        window = text[begin : begin + DYNAMIC_WINDOW + 1].unsqueeze(1)
        _, raw, states = learner(window[:-1], states)
        losses = F.cross_entropy(learner.logits(raw[:, 0]), window[1:, 0], reduction="none")
        nats.append(losses.detach())
        grads = torch.autograd.grad(losses.mean(), parameters)
        with torch.no_grad():
            for parameter, grad, origin in zip(parameters, grads, start, strict=True):
                parameter.sub_(grad, alpha=rate).lerp_(origin, decay)
    return torch.cat(nats)
