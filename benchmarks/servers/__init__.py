"""The peers, as programs: each serves on loopback until ended. All but the reference run in ``benchmarks/.venv``."""
