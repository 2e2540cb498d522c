"""How often a word ends after each piece, counted in the training text: what a search may take for granted.

A Latin piece with its space says itself that its word ends. One without may go on (`elep`), or stand before a comma
(`theatre`): to know, the network has to read it. The count saves most of those readings.
"""

import numpy as np
import numpy.typing as npt

from model.vocabulary import Vocabulary
from training.shards import Prepared

# Pieces counted at once: a few copies of 8 bytes each.
CHUNK = 1 << 20
# A piece that was hardly seen is taken to end words as pieces of letters do on average, with the weight of so many.
PRIOR = 2.0


def count_word_ends(prepared: Prepared, vocabulary: Vocabulary) -> npt.NDArray[np.float32]:
    """Shares of each piece's occurrences that no letter follows.

    Args:
        prepared: whose training lines are counted, each source by its weight.
        vocabulary: of the same data.

    Returns:
        (V,) float32, from 0 to 1.
    """
    seen = np.zeros(vocabulary.size)
    ended = np.zeros(vocabulary.size)
    for shard in prepared.sources:
        last = np.zeros(len(shard.ids) + 1, dtype=np.bool_)
        last[shard.offsets[1:] - 1] = True
        # Text was divided at a cut before it was encoded: the piece before it says nothing of words.
        cuts = (shard.offsets[:-1, None] + shard.cuts)[shard.cuts > 0]
        for start in range(0, len(shard.ids), CHUNK):
            stop = min(start + CHUNK, len(shard.ids))
            pieces = shard.ids[start:stop].astype(np.int64)
            following = np.append(shard.ids[start + 1 : stop + 1], 0)[: stop - start].astype(np.int64)
            counted = np.ones(stop - start, dtype=np.bool_)
            counted[cuts[(cuts > start) & (cuts <= stop)] - 1 - start] = False
            ends = counted & (last[start:stop] | ~vocabulary.starts_letter[following])
            seen += shard.weight * np.bincount(pieces[counted], minlength=vocabulary.size)
            ended += shard.weight * np.bincount(pieces[ends], minlength=vocabulary.size)
    letters = vocabulary.ends_letter
    average = ended[letters].sum() / max(1.0, seen[letters].sum())
    shares: npt.NDArray[np.float32] = ((ended + PRIOR * average) / (seen + PRIOR)).astype(np.float32)
    return shares
