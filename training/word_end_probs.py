"""The probability that a word ends after each token, counted in the training text.

A Latin token with its space shows that its word ends. One without may continue (`elep`) or come
before a comma (`theatre`); the network would have to read it to know. The search takes these
probabilities for granted and so saves most of those readings.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model.tokenizer import Tokenizer
from training.data.shards import BLOCK_TOKENS, Shard, release

# A token's counts are smoothed with so many occurrences of the average token that ends in a letter.
PRIOR = 2.0


def word_end_probs(sources: Sequence[Shard], tokenizer: Tokenizer) -> npt.NDArray[np.float32]:
    """Return the share of each token's occurrences that no letter follows, (V,), from 0 to 1.

    Each source is counted by its weight.
    """
    seen, ended = np.zeros(tokenizer.size), np.zeros(tokenizer.size)
    for shard in (block for source in sources for block in source.blocks(BLOCK_TOKENS)):
        ends = ~tokenizer.starts_letter[np.append(shard.ids[1:], 0)]
        ends[shard.offsets[1:] - 1] = True
        counted = np.ones(len(ends), dtype=np.bool_)
        # Text was divided at a cut before it was encoded: the token before a cut shows nothing.
        cuts = (shard.offsets[:-1, None] + shard.cuts)[shard.cuts > 0]
        counted[cuts - 1] = False
        seen += shard.weight * np.bincount(shard.ids[counted], minlength=tokenizer.size)
        ended += shard.weight * np.bincount(shard.ids[counted & ends], minlength=tokenizer.size)
        release(shard.ids, shard.table)
    letters = tokenizer.ends_letter
    average = ended[letters].sum() / max(1.0, seen[letters].sum())
    return np.asarray((ended + PRIOR * average) / (seen + PRIOR), dtype=np.float32)
