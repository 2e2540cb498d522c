"""A causal language model in a GGUF file, on one thread, by the package ``ik-llama-cpp-python``.

It is the faster of two builds of llama.cpp that come as wheels.
"""

import ctypes
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from model.errors import RunError
from model.runtime import Float32Array

CONTEXT_TOKENS, BATCH_TOKENS, PATHS, KEPT_ROWS = 4096, 256, 8, 256


class CausalModel:
    """A model over V tokens. What a call shares with the one before is not read again.

    Attributes:
        pieces: text of each token; empty for control tokens and parts of characters.
        start: tokens before every text.

    Raises:
        RunError: the package is missing, or cannot open the file.
    """

    def __init__(self, path: Path, sequences: int = 1 + PATHS) -> None:
        try:
            self._api: Any = import_module("ik_llama_cpp._ctypes_api")
        except ImportError as error:
            raise RunError("pip install --no-deps ik-llama-cpp-python, and run it again") from error
        self._library = self._api._lib
        self._log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(
            lambda *_: None
        )
        self._library.llama_log_set(self._log, None)
        self._api.llama_backend_init()
        settings = self._api.llama_model_default_params()
        self._model = self._api.llama_model_load_from_file(bytes(path), settings)
        if not self._model:
            raise RunError(f"{path}: llama.cpp cannot open it; name a GGUF file")
        settings = self._api.llama_context_default_params()
        settings.n_ctx, settings.n_batch = CONTEXT_TOKENS, BATCH_TOKENS
        settings.n_seq_max = sequences
        settings.n_threads = settings.n_threads_batch = 1
        self._context = ctypes.c_void_p(self._api.llama_init_from_model(self._model, settings))
        self._batch = self._api.llama_batch_init(BATCH_TOKENS, 0, 1)
        vocabulary = self._api.llama_model_get_vocab(self._model)
        self._size = self._api.llama_vocab_n_tokens(vocabulary)
        self.pieces = [self._piece(token) for token in range(self._size)]
        self.start = self.encode("<|im_start|>user\n", True)  # best of 8 on development text
        self._read: list[int] = []
        self._rows: dict[tuple[int, ...], Float32Array] = {}

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Return the tokens of a text; with *special* it may have control tokens."""
        data = text.encode()
        tokens = (ctypes.c_int32 * (len(data) + 1))()
        count = self._api.llama_tokenize(
            self._model, data, len(data), tokens, len(tokens), False, special
        )
        return tokens[:count]

    def next_probs(self, context: list[int], paths: Sequence[list[int]]) -> list[Float32Array]:
        """Return P(next token | context, path), (V,), for each of up to PATHS paths."""
        keys = [(*context, *path) for path in paths]
        for key in list(self._rows)[:-KEPT_ROWS]:
            del self._rows[key]
        if not all(key in self._rows for key in keys):
            self._read_context(context)
        new = [key for key in keys if key not in self._rows]
        for number in range(1, len(new) + 1):
            self._library.llama_kv_cache_seq_cp(self._context, 0, number, -1, -1)
        read = [
            (key[place], place, number, place == len(key) - 1)
            for number, key in enumerate(new, start=1)
            for place in range(len(context), len(key))
        ]
        self._rows |= zip(new, self._run(read), strict=True)
        for number in range(1, len(new) + 1):
            self._library.llama_kv_cache_seq_rm(self._context, number, -1, -1)
        return [self._rows[key] for key in keys]

    def log_probability(self, context: list[int], tokens: list[int]) -> float:
        """Return log P(tokens | context), in nats."""
        first = self._read_context(context)[tokens[0]]
        read = [(token, len(context) + n, 0, True) for n, token in enumerate(tokens[:-1])]
        others = [row[token] for token, row in zip(tokens[1:], self._run(read), strict=True)]
        self._read += tokens[:-1]
        return float(np.log([first, *others]).sum())

    def _read_context(self, context: list[int]) -> Float32Array:
        """Return P(next token) after a context."""
        key = tuple(context)
        same, most = 0, min(len(self._read), len(context) - (key not in self._rows))
        while same < most and self._read[same] == context[same]:
            same += 1
        self._library.llama_kv_cache_seq_rm(self._context, 0, same, -1)
        read = [(context[n], n, 0, n == len(context) - 1) for n in range(same, len(context))]
        for row in self._run(read):
            self._rows[key] = row
        self._read = list(context)
        return self._rows[key]

    def _run(self, tokens: Sequence[tuple[int, int, int, bool]]) -> Iterator[Float32Array]:
        """Read tokens with place, sequence and mark; yield P(next token) after marked ones.

        Raises:
            RunError: the text is too long.
        """
        batch = self._batch
        for start in range(0, len(tokens), BATCH_TOKENS):
            part = tokens[start : start + BATCH_TOKENS]
            batch.n_tokens = len(part)
            for n, (token, place, sequence, marked) in enumerate(part):
                batch.token[n], batch.pos[n], batch.n_seq_id[n] = token, place, 1
                batch.seq_id[n][0], batch.logits[n] = sequence, marked
            if self._api.llama_decode(self._context, batch):
                raise RunError(f"no room for {len(tokens)} more tokens of {CONTEXT_TOKENS}")
            for n in [n for n, (*_, marked) in enumerate(part) if marked]:
                row = self._api.llama_get_logits_ith(self._context, n)
                logits = np.ctypeslib.as_array(row, (self._size,))
                shares = np.exp(logits - logits.max())
                yield shares / shares.sum()

    def _piece(self, token: int) -> str:
        data = ctypes.create_string_buffer(256)
        size = self._api.llama_token_to_piece(self._model, token, data, len(data), 0, False)
        text = data.raw[: max(0, size)].decode(errors="replace")
        return "" if "\N{REPLACEMENT CHARACTER}" in text else text
