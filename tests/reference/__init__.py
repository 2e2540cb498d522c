"""Decoders in Python, which the native ones are tested against."""
