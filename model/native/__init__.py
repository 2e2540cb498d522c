"""Computations in C++, which ``build_backend.py`` compiles."""
