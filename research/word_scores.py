"""Perplexities of a word benchmark, as they are published: static, with a neural cache, with dynamic evaluation.

One row, every word predicted once, ``<eos>`` included, the first one from an ``<eos>`` before it. Settings are fitted
on valid text and used once on test.
"""

import copy
import itertools
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from model.errors import CorpusError
from model.ngram import NGramRuntime, open_arrays
from model.tokenizer import END_OF_GAP, START
from research.word_corpus import Ids, WordCorpus
from research.word_network import WordNetwork
from training.ngram import Text, estimate

WINDOW = 256
# Grids of the neural cache: keys kept, flatness of the match, share of the cache.
CACHE_WORDS = (500, 2000, 3800)
CACHE_FLATNESS = (0.3, 0.6, 1.0, 1.5)
CACHE_SHARES = (0.05, 0.1, 0.15, 0.2, 0.3)
# Grids of dynamic evaluation, and the words of valid text that decide.
DYNAMIC_RATES = (0.3, 0.6, 1.0)
DYNAMIC_DECAYS = (5e-3, 1e-2, 2e-2)
DYNAMIC_WINDOW = 20
DYNAMIC_FIT_WORDS = 12_000


@dataclass(frozen=True, slots=True)
class Reading:
    """A text as the network read it.

    Attributes:
        nats: minus log-probability of each word, (N,).
        outputs: last outputs before each word, (N, e).
        words: (N,) int64.
    """

    nats: Tensor
    outputs: Tensor
    words: Tensor


def score_continuous(network: WordNetwork, corpus: WordCorpus) -> dict[str, Any]:
    """Perplexities with the state carried on, static (``continuous``) and with the ``cache`` that valid text chose.

    Args:
        network: in float32 and evaluation mode; it is left as it was. So in the functions below.
        corpus: the benchmark.
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


def score_reset(network: WordNetwork, corpus: WordCorpus) -> dict[str, float]:
    """Perplexities where each line is read from zero states."""
    return {
        name: perplexity(read_lines_apart(network, getattr(corpus, name)))
        for name in ("valid", "test")
    }


def grids() -> dict[str, Any]:
    """What settings are chosen from: scores by other grids are other scores."""
    return {
        "cache": [CACHE_WORDS, CACHE_FLATNESS, CACHE_SHARES],
        "dynamic": [DYNAMIC_RATES, DYNAMIC_DECAYS, DYNAMIC_WINDOW, DYNAMIC_FIT_WORDS],
    }


def score_ngram(corpus: WordCorpus, order: int) -> dict[str, Any]:
    """Perplexities of an interpolated modified Kneser-Ney n-gram of the training text, reset at each line.

    Returns:
        ``order``, ``ngrams``, and the perplexity of ``valid`` and ``test``, ``<eos>`` counted.

    Raises:
        CorpusError: more words than 16 bits number.
    """
    first = END_OF_GAP + 1  # words follow the ids that the n-gram reserves
    most = np.iinfo(np.uint16).max + 1 - first
    if len(corpus.words) > most:
        raise CorpusError(
            f"the training text has {len(corpus.words)} words, but an n-gram holds at most {most}"
        )
    predictable = np.arange(first + len(corpus.words)) >= first
    ids = corpus.train + first
    offsets = np.append(0, np.flatnonzero(corpus.train == 0) + 1)
    with tempfile.TemporaryDirectory() as directory:
        counted = estimate(
            [Text(ids.astype(np.uint16), offsets)], predictable, order, Path(directory)
        )
        ngram = open_arrays(Path(directory), {"order": order, **counted})
        nats = {
            name: _ngram_nats(ngram, getattr(corpus, name) + first, first)
            for name in ("valid", "test")
        }
    return {
        "order": order,
        "ngrams": sum(counted["counts"]),
        **{name: perplexity(each) for name, each in nats.items()},
    }


def _ngram_nats(ngram: NGramRuntime, ids: Ids, end_of_line: int) -> Tensor:
    """Minus log-probability of each word after those before it on its line."""
    nats, context = np.empty(len(ids)), [START]
    for place, word in enumerate(tqdm(ids.tolist(), desc="n-gram", unit=" words", disable=None)):
        nats[place] = -math.log(ngram.distribution(context)[word])
        context = [START] if word == end_of_line else [*context, word][-ngram.order :]
    return torch.from_numpy(nats)


def perplexity(nats: Tensor) -> float:
    """Exp of the mean of nats a word."""
    return math.exp(nats.double().mean().item())


@torch.no_grad()
def read_through(network: WordNetwork, ids: Ids) -> Reading:
    """Read a text in one row with the state carried on."""
    words = torch.from_numpy(ids)
    text = torch.cat([torch.zeros(1, dtype=torch.int64), words])
    states = network.initial_states(1)
    nats, outputs = [], []
    for begin in range(0, len(words), WINDOW):
        window = text[begin : begin + WINDOW + 1].unsqueeze(1)
        read = network(window[:-1], states)
        states = read.states
        nats.append(
            F.cross_entropy(network.logits(read.raw[:, 0]), window[1:, 0], reduction="none")
        )
        outputs.append(read.raw[:, 0])
    return Reading(torch.cat(nats), torch.cat(outputs), words)


@torch.no_grad()
def read_lines_apart(network: WordNetwork, ids: Ids) -> Tensor:
    """Nats of every word where each line is read from zero states, (N,), in no particular order."""
    words = torch.from_numpy(ids)
    ends = (words == 0).nonzero()[:, 0] + 1
    lines = sorted(torch.tensor_split(words, ends[:-1].tolist()), key=len)
    nats = []
    for begin in range(0, len(lines), 32):
        some = lines[begin : begin + 32]
        targets = nn.utils.rnn.pad_sequence(some, padding_value=-100)  # (T, B)
        inputs = torch.cat(
            [torch.zeros(1, len(some), dtype=torch.int64), targets[:-1].clamp(min=0)]
        )
        read = network(inputs, network.initial_states(len(some)))
        known = targets.flatten() >= 0
        logits = network.logits(read.raw.flatten(0, 1)[known])
        nats.append(F.cross_entropy(logits, targets.flatten()[known], reduction="none"))
    return torch.cat(nats)


def fit_cache(valid: Reading) -> dict[str, Any]:
    """The settings of the neural cache that are best on valid text."""
    grid = itertools.product(CACHE_WORDS, CACHE_FLATNESS)
    best: tuple[float, dict[str, Any]] = (math.inf, {})
    for words, flatness in tqdm(list(grid), desc="cache", disable=None):
        probabilities = cache_probabilities(valid, words, flatness)
        for share in CACHE_SHARES:
            nats = (
                -torch.log((1 - share) * torch.exp(-valid.nats) + share * probabilities)
                .mean()
                .item()
            )
            best = min(
                best,
                (nats, {"words": words, "flatness": flatness, "share": share}),
                key=lambda each: each[0],
            )
    return best[1]


def cached_nats(reading: Reading, words: int, flatness: float, share: float) -> Tensor:
    """Nats of each word by (1 - share) P(word) + share P_cache(word), (N,)."""
    probabilities = cache_probabilities(reading, words, flatness)
    return -torch.log((1 - share) * torch.exp(-reading.nats) + share * probabilities)


@torch.no_grad()
def cache_probabilities(reading: Reading, words: int, flatness: float) -> Tensor:
    """P_cache of each word: the share of softmax(flatness h_t h_i) that falls on the earlier i it followed, (N,).

    Only the last *words* places are kept; the first word, before which there are none, gets 0. Grave et al. 2017,
    arXiv:1612.04426.
    """
    count = len(reading.words)
    found = torch.zeros(count)
    for begin in range(0, count, WINDOW):
        end = min(begin + WINDOW, count)
        first = max(0, begin - words)
        match = (
            flatness * reading.outputs[begin:end] @ reading.outputs[first:end].t()
        )  # (here, places)
        here, places = torch.arange(begin, end).unsqueeze(1), torch.arange(first, end).unsqueeze(0)
        match = match.masked_fill((places >= here) | (places < here - words), -math.inf)
        same = reading.words[first:end].unsqueeze(0) == reading.words[begin:end].unsqueeze(1)
        shares = match.softmax(dim=1).nan_to_num()  # the first word matches nothing
        found[begin:end] = (shares * same).sum(dim=1)
    return found


def fit_dynamic(network: WordNetwork, ids: Ids) -> dict[str, Any]:
    """The settings of dynamic evaluation that are best on the beginning of valid text."""
    best: tuple[float, dict[str, Any]] = (math.inf, {})
    grid = itertools.product(DYNAMIC_RATES, DYNAMIC_DECAYS)
    for rate, decay in tqdm(list(grid), desc="dynamic evaluation", disable=None):
        nats = dynamic_nats(network, ids[:DYNAMIC_FIT_WORDS], rate, decay).mean().item()
        best = min(best, (nats, {"rate": rate, "decay": decay}), key=lambda each: each[0])
    return best[1]


def dynamic_nats(network: WordNetwork, ids: Ids, rate: float, decay: float) -> Tensor:
    """Nats of each word by a network that goes on learning from the words it has just been asked for, (N,).

    After each window a step, theta' = theta - rate g, and then a pull, theta <- theta' + decay (theta_0 - theta'):
    Krause et al. 2018 (arXiv:1709.07432), who pull from theta, for plain gradients; research/LOG.md says what their
    root mean squares did here. A copy learns; *network* stays.
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
        read = learner(window[:-1], states)
        states = read.states
        losses = F.cross_entropy(learner.logits(read.raw[:, 0]), window[1:, 0], reduction="none")
        nats.append(losses.detach())
        grads = torch.autograd.grad(losses.mean(), parameters)
        with torch.no_grad():
            for parameter, grad, origin in zip(parameters, grads, start, strict=True):
                parameter.sub_(grad, alpha=rate).lerp_(origin, decay)
    return torch.cat(nats)
