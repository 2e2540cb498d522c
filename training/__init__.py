"""Offline: text to vocabulary, shards, checkpoint and scores. `python -m training --help` lists the
commands.
"""
