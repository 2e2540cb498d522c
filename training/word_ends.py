"""How often a word ends after each token, counted in the training text: what a search may take for granted.

A Latin token with its space says itself that its word ends. One without may go on (`elep`), or stand before a comma
(`theatre`): to know, the network has to read it. The count saves most of those readings.
"""

import numpy as np
import numpy.typing as npt

from model.tokenizer import Tokenizer
from training.data.shards import Prepared

# Tokens counted at once: a few copies of 8 bytes each.
CHUNK = 1 << 20
# A token that was hardly seen is taken to end words as tokens of letters do on average, with the weight of so many.
PRIOR = 2.0


def count_word_ends(prepared: Prepared, tokenizer: Tokenizer) -> npt.NDArray[np.float32]:
    """Shares of each token's occurrences that no letter follows.

    Args:
        prepared: whose training lines are counted, each source by its weight.
        tokenizer: of the same data.

    Returns:
        (V,) float32, from 0 to 1.
    """
    seen = np.zeros(tokenizer.size)
    ended = np.zeros(tokenizer.size)
    for shard in prepared.sources:
        last = np.zeros(len(shard.ids) + 1, dtype=np.bool_)
        last[shard.offsets[1:] - 1] = True
        # Text was divided at a cut before it was encoded: the token before it says nothing of words.
        cuts = (shard.offsets[:-1, None] + shard.cuts)[shard.cuts > 0]
        for start in range(0, len(shard.ids), CHUNK):
            stop = min(start + CHUNK, len(shard.ids))
            tokens = shard.ids[start:stop].astype(np.int64)
            following = np.append(shard.ids[start + 1 : stop + 1], 0)[: stop - start].astype(
                np.int64
            )
            counted = np.ones(stop - start, dtype=np.bool_)
            counted[cuts[(cuts > start) & (cuts <= stop)] - 1 - start] = False
            ends = counted & (last[start:stop] | ~tokenizer.starts_letter[following])
            seen += shard.weight * np.bincount(tokens[counted], minlength=tokenizer.size)
            ended += shard.weight * np.bincount(tokens[ends], minlength=tokenizer.size)
    letters = tokenizer.ends_letter
    average = ended[letters].sum() / max(1.0, seen[letters].sum())
    shares: npt.NDArray[np.float32] = ((ended + PRIOR * average) / (seen + PRIOR)).astype(
        np.float32
    )
    return shares
