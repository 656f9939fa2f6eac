"""YaRN rotary frequencies, as a pure function of the config.

The formula is that of OpenAI's `RotaryEmbedding` in gpt_oss/torch/model.py (YaRN "NTK by parts", arXiv 2309.00071). The
correction range is rounded only if the config sets `truncate`. Computed with NumPy in float64; the caller chooses the
precision of the result. Knows nothing of MLX.
"""

from __future__ import annotations

import math

import numpy as np

from mlx_oss.config import YarnScaling


def inverse_frequencies(head_dim: int, theta: float, scaling: YarnScaling | None) -> np.ndarray:
    """Angle in radians by which each pair of dimensions rotates per position: float64 (head_dim / 2,).

    Low frequencies are interpolated (divided by the factor), high ones are kept, and those in the correction range are
    blended. Without `scaling` all are kept.
    """
    kept: np.ndarray = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    if scaling is None or scaling.factor <= 1:
        return kept
    low, high = correction_range(head_dim, theta, scaling)
    ramp = np.clip((np.arange(head_dim // 2) - low) / (high - low), 0, 1)
    blended: np.ndarray = kept / scaling.factor * ramp + kept * (1 - ramp)
    return blended


def correction_range(head_dim: int, theta: float, scaling: YarnScaling) -> tuple[float, float]:
    """Indices of the pairs that rotate beta_fast and beta_slow times within the original context.

    They are fractional, unless `scaling.truncate` rounds them.
    """

    def pair(rotations: float) -> float:
        periods = scaling.original_max_position_embeddings / (rotations * 2 * math.pi)
        return head_dim / 2 * math.log(periods) / math.log(theta)

    low, high = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    return low, max(high, low + 0.001)  # never an empty range, as in transformers
