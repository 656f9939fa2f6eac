"""How many (token, expert) pairs to compute at once, so that MLX reads each expert's matrix as seldom as possible.

MLX's product with chosen experts (`gather_qmm`) has two kernels on Metal. One reads an expert's matrix again for every
pair. The other takes pairs that are sorted by expert, in blocks, and reads a matrix once for all pairs of a block. MLX
takes the second one only from 16 pairs and 4 pairs an expert on (mlx/backend/metal/quantized.cpp), counting all
experts, used or not. So for a prompt a little shorter than that, some more rows of the last expert read less. Knows
nothing of layers.
"""

from __future__ import annotations

from mlx_oss.backend import device

_LEAST_PAIRS, _PAIRS_PER_EXPERT = 16, 4  # for MLX's kernel for sorted pairs
_BLOCK = 16  # pairs that this kernel takes at a time; 32 or 64 on an M5


def sorted_rows(pairs: int, experts: int) -> int:
    """Number of rows to sort and compute for this many pairs, or 0 if they are not to be sorted.

    More rows than pairs are computed only where this reads less, however the pairs are distributed. On the CPU backend
    the order does not matter.

    Args:
        pairs: Number of (token, expert) pairs.
        experts: Number of experts in the stacked matrices.
    """
    if not device.on_gpu():
        return 0
    rows = max(pairs, _LEAST_PAIRS, _PAIRS_PER_EXPERT * experts)
    return rows if most_reads(pairs, rows, experts) < pairs else 0


def most_reads(pairs: int, rows: int, experts: int) -> int:
    """The most matrices of experts that the kernel for sorted pairs reads, if `rows` rows are computed for `pairs`.

    Each expert with a pair is read once, and once more for each block of rows that begins inside its rows.
    """
    return min(pairs, experts) + -(-rows // _BLOCK) - 1
