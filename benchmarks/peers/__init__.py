"""The systems that Lacuna is compared with, as servers: ``python -m benchmarks.peers NAME --port P
--checkpoint DIR``.
"""
