"""YaRN rotary frequencies: one pure function of the config.

The formula is OpenAI's `RotaryEmbedding` in gpt_oss/torch/model.py (YaRN "NTK by parts", arXiv 2309.00071). The
correction range is not rounded unless the config says `truncate`. NumPy in float64; whoever uses the result picks its
precision.
"""

from __future__ import annotations

import math

import numpy as np

from mlx_oss.config import YarnScaling


def inverse_frequencies(head_dim: int, theta: float, scaling: YarnScaling | None) -> np.ndarray:
    """Radians a position for each rotated pair: float64 (head_dim / 2,).

    Slow frequencies are interpolated (divided by the factor), fast ones kept, those in the correction range blended.
    """
    kept = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    if scaling is None or scaling.factor <= 1:
        return kept
    low, high = correction_range(head_dim, theta, scaling)
    ramp = np.clip((np.arange(head_dim // 2) - low) / (high - low), 0, 1)
    return kept / scaling.factor * ramp + kept * (1 - ramp)


def correction_range(head_dim: int, theta: float, scaling: YarnScaling) -> tuple[float, float]:
    """The pairs, as fractional indices, that turn beta_fast and beta_slow times within the original context."""

    def pair(rotations: float) -> float:
        periods = scaling.original_max_position_embeddings / (rotations * 2 * math.pi)
        return head_dim / 2 * math.log(periods) / math.log(theta)

    low, high = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    return low, max(high, low + 0.001)  # as transformers: never an empty range
