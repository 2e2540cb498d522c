"""Lacuna measured against its peers: every contestant on the same core, in one run."""
