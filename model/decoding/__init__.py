"""The decoders: which steps of a network answer a query, and in which order."""
