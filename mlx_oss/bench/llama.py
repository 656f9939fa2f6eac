"""Runs a GGUF file with llama.cpp, through llama-cpp-python: ids in, ids out. `worker` measures it.

Knows nothing of MLX, and of no model.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import numpy as np

from mlx_oss.backend.cores import usable_cores
from mlx_oss.errors import BenchmarkError

_ERROR = 4  # llama.cpp's log level
_BATCH = 512  # tokens of a prompt that are computed at a time, as in mlx-oss


class Llama:
    """A model with room for one sequence. It uses as many threads as this process may use cores, and a GPU if it can.

    Args:
        path: The GGUF file.
        context: Most tokens of a prompt and its answer.

    Raises:
        BenchmarkError: If llama.cpp cannot load the model; with what it says.
    """

    def __init__(self, path: Path, context: int) -> None:
        self._errors: list[str] = []
        self._log = llama_cpp.llama_log_callback(self._hear)  # kept, because C calls it
        llama_cpp.llama_log_set(self._log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        how = llama_cpp.llama_model_default_params()
        if llama_cpp.llama_supports_gpu_offload():
            how.n_gpu_layers = 1 << 20  # all of them
        self._model = self._made(llama_cpp.llama_model_load_from_file(str(path).encode(), how))
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = context
        options.n_batch = options.n_ubatch = _BATCH
        options.n_threads = options.n_threads_batch = usable_cores()
        self._context = self._made(llama_cpp.llama_init_from_model(self._model, options))
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

    def generate(self, prompt: list[int], tokens: int) -> Iterator[int]:
        """Reads a prompt and yields this many ids, each of them the likeliest. What was read before is forgotten."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        ids = [token % self._vocabulary for token in prompt]
        for start in range(0, len(ids), _BATCH):
            self._read(ids[start : start + _BATCH])
        for number in range(1, tokens + 1):
            logits = llama_cpp.llama_get_logits_ith(self._context, -1)
            token = int(np.ctypeslib.as_array(logits, (self._vocabulary,)).argmax())
            yield token
            if number < tokens:
                self._read([token])

    def _read(self, ids: list[int]) -> None:
        array = (llama_cpp.llama_token * len(ids))(*ids)  # the batch only points to it
        if status := llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(array, len(ids))):
            raise BenchmarkError(self._reason(f"llama.cpp could not compute (status {status})"))

    def _made(self, pointer: ctypes.c_void_p | None) -> ctypes.c_void_p:
        if not pointer:
            raise BenchmarkError(self._reason("llama.cpp reported no reason"))
        return pointer

    def _reason(self, otherwise: str) -> str:
        """What llama.cpp said first, in one line. What follows is less exact."""
        return " ".join((self._errors or [otherwise])[0].split())

    def _hear(self, level: int, text: bytes, _: object) -> None:
        if level == _ERROR and text.strip():
            self._errors.append(text.decode(errors="replace"))
