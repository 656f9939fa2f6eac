"""YaRN frequencies equal those of the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlx_oss.config import YarnScaling
from mlx_oss.model.rope import correction_range, inverse_frequencies

RELEASED = YarnScaling(32.0, 4096, 32.0, 1.0, truncate=False)
# Index -> radians per position, computed by gpt_oss/torch/model.py for the released settings.
REFERENCE = {9: 0.0317057, 12: 0.00679496, 15: 0.00105260, 17: 0.000129319}


def test_frequencies_are_the_references_numbers():
    ours = inverse_frequencies(64, 150000.0, RELEASED)
    assert {i: float(f"{ours[i]:.6g}") for i in REFERENCE} == REFERENCE


def test_frequencies_equal_the_references_float32_formula():
    """The reference computes in float32, so they are equal within a few roundings."""
    base = np.float32(150000) ** (np.arange(0, 64, 2, dtype=np.float32) / np.float32(64))
    low, high = (32 * math.log(4096 / (turns * 2 * math.pi)) / math.log(150000) for turns in (32, 1))
    keep = 1 - np.clip((np.arange(32, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    expected = 1 / (np.float32(32) * base) * (1 - keep) + 1 / base * keep
    np.testing.assert_allclose(inverse_frequencies(64, 150000.0, RELEASED), expected, rtol=8 * 2**-23)


def test_correction_range_is_not_rounded_unless_the_config_says_so():
    assert correction_range(64, 150000.0, RELEASED) == pytest.approx((8.0928, 17.3980), abs=1e-4)
    rounded = YarnScaling(32.0, 4096, 32.0, 1.0, truncate=True)
    assert correction_range(64, 150000.0, rounded) == (8, 18)


def test_concentration_is_the_releases():
    assert RELEASED.concentration == pytest.approx(1.34657, abs=1e-5)


def test_without_scaling_frequencies_are_plain_rope():
    np.testing.assert_allclose(inverse_frequencies(8, 100.0, None), [1, 100**-0.25, 0.1, 100**-0.75])
