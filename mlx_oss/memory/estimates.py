"""How much memory a model takes, and how long a context a Mac of a given size holds. Arithmetic, nothing is measured.

Knows configs and numbers of bytes; nothing of files, devices or MLX. `planner` applies it to a model and a machine.
"""

from __future__ import annotations

import re

from mlx_oss.config import ModelConfig
from mlx_oss.errors import OptionError

GB = 1 << 30  # the unit Macs are sold in
MAC_SIZES = (8, 16, 18, 24, 32, 36, 48, 64, 96, 128, 192, 256, 512)  # GB
# For everything beside weights and KV cache: what a prefill chunk computes, MLX's buffers, Python.
WORKING_BYTES = 1_000_000_000

_MOST_SCORES = 1 << 20  # on all cores, in attention, however long the context


def kv_cache_bytes(config: ModelConfig, context: int, itemsize: int = 2) -> int:
    """Keys and values of `context` tokens, all of them in the full layers and the last window's in the sliding ones.

    itemsize is 2 for the bfloat16 of a GPU, 4 for float32.
    """
    a_token = 2 * config.num_key_value_heads * config.head_dim * itemsize
    return sum(
        a_token * (min(context, config.sliding_window) if config.is_sliding(layer) else context)
        for layer in range(config.num_hidden_layers)
    )


def snapshot_bytes(config: ModelConfig, count: int, itemsize: int = 2) -> int:
    """`count` snapshots to step back to: each holds the windows of the sliding layers."""
    sliding = sum(config.is_sliding(layer) for layer in range(config.num_hidden_layers))
    return count * sliding * config.sliding_window * 2 * config.num_key_value_heads * config.head_dim * itemsize


def prefill_bytes(config: ModelConfig, chunk: int, context: int, itemsize: int = 2, cpu: bool = False) -> int:
    """What computing `chunk` tokens takes at most beside weights and caches, when they are the last of `context`.

    cpu  for MLX's CPU backend: its attention holds the scores of some tiles, where a GPU holds none;
         it makes float32 of weights block by block; and the C library keeps some of the memory that is freed. Its
         constants are measured with `tests/bench_memory.py`
    """
    c = config
    heads = c.num_attention_heads + 2 * c.num_key_value_heads
    a_token = 8 * c.hidden_size + 2 * heads * c.head_dim
    a_token += c.num_experts_per_tok * (6 * c.intermediate_size + 2 * c.hidden_size)
    if not cpu:
        return chunk * a_token * itemsize
    blocks = 6 * min(_BLOCK_BYTES, 4 * heads * c.head_dim * c.hidden_size)
    scores = 2 * 4 * min(c.num_attention_heads * chunk * context, _MOST_SCORES)
    return _RETAINED_BYTES + blocks + 17 * chunk * a_token * itemsize // 10 + scores


_BLOCK_BYTES, _RETAINED_BYTES = 8 << 20, 27_000_000

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30}


def parse_bytes(size: str | int) -> int:
    """Bytes: "8GB" (10^9), "6GiB" (2^30), "500 MB", or a number of them. Raises OptionError for anything else."""
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    found = re.fullmatch(r"(\d{1,15}(?:\.\d+)?)\s*([KMGT]?|[KMG]I)B?", str(size).strip().upper())
    bytes_ = round(float(found[1]) * _UNITS[found[2]]) if found else 0
    if bytes_ < 1:
        raise OptionError(f"{size!r} is no size of memory: give one like 8GB or 6GiB")
    return bytes_


def format_bytes(nbytes: int, *, round_up: bool = False) -> str:
    """A number of bytes for people, in units of 1000: "13.76 GB". `round_up` never says less than there is."""
    unit, name = next(((unit, name) for unit, name in ((10**9, "GB"), (10**6, "MB")) if nbytes >= unit), (1000, "kB"))
    hundredths = -(-100 * nbytes // unit) if round_up else round(100 * nbytes / unit)
    return f"{hundredths / 100:.2f} {name}"


def gpu_bytes(memory_bytes: int) -> int:
    """Of a Mac's memory what macOS recommends the GPU to use (`recommendedMaxWorkingSetSize`): two thirds, and three
    quarters from 36 GB on, as logs of llama.cpp show for 16, 32, 36, 64 and 96 GB. Recent systems allow more (84 % of
    128 GB), so this is on the careful side.
    """
    return memory_bytes * 3 // 4 if memory_bytes >= 36 * GB else memory_bytes * 2 // 3


def largest_context(config: ModelConfig, weight_bytes: int, memory_bytes: int) -> int:
    """Tokens of context, at most the model's own limit, that fit beside the weights on a Mac of `memory_bytes`; 0 if
    the weights themselves do not.
    """
    room = gpu_bytes(memory_bytes) - weight_bytes - WORKING_BYTES
    fits, fails = 0, config.max_position_embeddings + 1
    while fails - fits > 1:
        middle = (fits + fails) // 2
        fits, fails = (middle, fails) if kv_cache_bytes(config, middle) <= room else (fits, middle)
    return fits


def contexts_by_mac(config: ModelConfig, weight_bytes: int) -> dict[int, int]:
    """`largest_context` for each size of Mac, in GB."""
    return {size: largest_context(config, weight_bytes, size * GB) for size in MAC_SIZES}
