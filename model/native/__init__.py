"""What is computed in C++; ``build_backend.py`` compiles it."""
