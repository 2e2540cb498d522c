"""The probability that a word ends after each token, counted in the training text.

A Latin token with its space shows that its word ends. One without may continue (`elep`) or come
before a comma (`theatre`); the network would have to read it to know. The search takes these
probabilities for granted and so saves most of those readings.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model.tokenizer import Tokenizer
from training.data.shards import Shard

# Tokens counted at once: a few copies of 8 bytes each.
CHUNK = 1 << 20
# A token's counts are smoothed with so many occurrences of the average token that ends in a letter.
PRIOR = 2.0


def word_end_probs(sources: Sequence[Shard], tokenizer: Tokenizer) -> npt.NDArray[np.float32]:
    """Return the share of each token's occurrences that no letter follows.

    Args:
        sources: training text, each source counted by its weight.
        tokenizer: the tokenizer of the ids.

    Returns:
        (V,) float32, from 0 to 1.
    """
    seen = np.zeros(tokenizer.size)
    ended = np.zeros(tokenizer.size)
    for shard in sources:
        last = np.zeros(len(shard.ids) + 1, dtype=np.bool_)
        last[shard.offsets[1:] - 1] = True
        # Text was divided at a cut before it was encoded: the token before a cut shows nothing.
        cuts = (shard.offsets[:-1, None] + shard.cuts)[shard.cuts > 0]
        for start in range(0, len(shard.ids), CHUNK):
            tokens = shard.ids[start : start + CHUNK].astype(np.int64)
            stop = start + len(tokens)
            following = np.append(shard.ids[start + 1 : stop + 1], 0)[: len(tokens)]
            counted = np.ones(len(tokens), dtype=np.bool_)
            counted[cuts[(cuts > start) & (cuts <= stop)] - 1 - start] = False
            ends = counted & (last[start:stop] | ~tokenizer.starts_letter[following])
            seen += shard.weight * np.bincount(tokens[counted], minlength=tokenizer.size)
            ended += shard.weight * np.bincount(tokens[ends], minlength=tokenizer.size)
    letters = tokenizer.ends_letter
    average = ended[letters].sum() / max(1.0, seen[letters].sum())
    return np.asarray((ended + PRIOR * average) / (seen + PRIOR), dtype=np.float32)
