"""Estimates how much memory a model needs, and the longest context for a Mac of a given size.

Pure arithmetic: nothing is measured. Knows configs and numbers of bytes, and nothing of files, devices or MLX; `plan`
applies it to a model and a machine.
"""

from __future__ import annotations

import re

from mlx_oss.backend.machine import GIB, mac
from mlx_oss.config import ModelConfig
from mlx_oss.errors import OptionError

MAC_SIZES = (8, 16, 18, 24, 32, 36, 48, 64, 96, 128, 192, 256, 512)  # GB
# For everything except weights and KV cache: the computation of a prefill chunk, MLX's buffers, Python.
WORKING_BYTES = 1_000_000_000


def kv_cache_bytes(config: ModelConfig, context: int, itemsize: int = 2) -> int:
    """Bytes of the keys and values of `context` tokens.

    Full-attention layers store all tokens, sliding-window layers the last window. `itemsize` is 2 for bfloat16 (on a
    GPU) and 4 for float32.
    """
    token_bytes = 2 * config.num_key_value_heads * config.head_dim * itemsize
    return sum(
        token_bytes * (min(context, config.sliding_window) if config.is_sliding(layer) else context)
        for layer in range(config.num_hidden_layers)
    )


def snapshot_bytes(config: ModelConfig, count: int, itemsize: int = 2) -> int:
    """Bytes of `count` snapshots that a cache can be rewound to. Each stores the windows of the sliding layers."""
    sliding = sum(config.is_sliding(layer) for layer in range(config.num_hidden_layers))
    return count * sliding * config.sliding_window * 2 * config.num_key_value_heads * config.head_dim * itemsize


def expert_bytes(config: ModelConfig) -> int:
    """Bytes of one expert of one layer: its MXFP4 matrices (17 bytes for 32 values) and its biases in bfloat16."""
    values = 3 * config.hidden_size * config.intermediate_size
    return values // 32 * 17 + 2 * (2 * config.intermediate_size + config.hidden_size)


def prefill_bytes(config: ModelConfig, chunk: int, itemsize: int = 2, cpu: bool = False) -> int:
    """The most bytes that computing `chunk` tokens needs in addition to weights and caches, whatever was before them.

    Args:
        config: The model's config.
        chunk: Tokens that are computed at a time.
        itemsize: Bytes per activation.
        cpu: True for MLX's CPU backend with the native library. The system's C library keeps some of the freed memory
            there. The constants for it were measured with `tests/bench_memory.py`.
    """
    c = config
    heads = c.num_attention_heads + 2 * c.num_key_value_heads
    values_per_token = 8 * c.hidden_size + 2 * heads * c.head_dim
    values_per_token += c.num_experts_per_tok * (6 * c.intermediate_size + 2 * c.hidden_size)
    if not cpu:
        return chunk * values_per_token * itemsize
    return _RETAINED_BYTES + 11 * chunk * values_per_token * itemsize // 10


_RETAINED_BYTES = 10_000_000

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30}


def parse_bytes(size: str | int) -> int:
    """Converts a size of memory to bytes: "8GB" (10^9), "6GiB" (2^30), "500 MB", or a number of bytes.

    Raises:
        OptionError: If `size` is anything else.
    """
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    match = re.fullmatch(r"(\d{1,15}(?:\.\d+)?)\s*([KMGT]?|[KMG]I)B?", str(size).strip().upper())
    bytes_ = round(float(match[1]) * _UNITS[match[2]]) if match else 0
    if match and not match[2] and 0 < bytes_ < _UNITS["M"]:  # surely not meant: GB were left out
        raise OptionError(f"{size!r} is a number of bytes: add the unit, as in 8GB or 6GiB")
    if bytes_ < 1:
        raise OptionError(f"{size!r} is not a size of memory: give one like 8GB or 6GiB")
    return bytes_


def format_bytes(nbytes: int, *, round_up: bool = False) -> str:
    """Formats a number of bytes for people, in units of 1000: "13.76 GB". With `round_up`, never less than `nbytes`."""
    unit, name = next(((unit, name) for unit, name in ((10**9, "GB"), (10**6, "MB")) if nbytes >= unit), (1000, "kB"))
    hundredths = -(-100 * nbytes // unit) if round_up else round(100 * nbytes / unit)
    return f"{hundredths / 100:.2f} {name}"


def largest_context(config: ModelConfig, weight_bytes: int, memory_bytes: int) -> int:
    """The longest context in tokens that fits together with the weights on a Mac with `memory_bytes` of memory.

    It is at most the model's own limit, and 0 if the weights alone do not fit.
    """
    room = mac(memory_bytes).limit - weight_bytes - WORKING_BYTES
    fits, fails = 0, config.max_position_embeddings + 1
    while fails - fits > 1:
        middle = (fits + fails) // 2
        fits, fails = (middle, fails) if kv_cache_bytes(config, middle) <= room else (fits, middle)
    return fits


def contexts_by_mac(config: ModelConfig, weight_bytes: int) -> dict[int, int]:
    """`largest_context` for each of MAC_SIZES, by the size in GB."""
    return {size: largest_context(config, weight_bytes, size * GIB) for size in MAC_SIZES}
