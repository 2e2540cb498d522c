"""The decoders: what is asked of a network, and in which order, to answer one query. Batching is the scheduler's."""
