"""The MXFP4 number format: blocks of 32 four-bit floats under one shared power of two.

OCP Microscaling Formats specification v1.0: an element is E2M1 (1 sign, 2 exponent, 1 mantissa bit), a scale is E8M0
(value 2^(byte - 127), 0xFF is NaN). A block is stored as 16 bytes, with the earlier element in the low nibble.
Uses NumPy only. Knows nothing of models: which tensors are MXFP4 is decided elsewhere.
"""

from __future__ import annotations

import numpy as np

BLOCK = 32
SCALE_BIAS = 127
SCALE_NAN = 0xFF
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32)
# Midpoints between neighbouring magnitudes. A tie goes to the even code, as in IEEE rounding.
_MIDPOINTS = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], dtype=np.float32)
_LARGEST_SCALE = 252  # the largest at which every value is finite in float32 and bfloat16: 6 * 2^125


def dequantize(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """blocks u8 (..., G, 16), scales u8 (..., G) -> float32 (..., G * 32), without rounding."""
    nibbles = np.stack([blocks & 0x0F, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], BLOCK)
    with np.errstate(over="ignore"):  # 4 * 2^127 is infinity in float32
        values = np.ldexp(E2M1[nibbles], (scales.astype(np.int32) - SCALE_BIAS)[..., None])
    values = np.where((scales == SCALE_NAN)[..., None], np.float32(np.nan), values)
    return values.reshape(*blocks.shape[:-2], -1)


def quantize(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float (..., N), N a multiple of 32 -> (blocks u8 (..., N/32, 16), scales u8 (..., N/32)).

    The exponent of a scale is e = floor(log2(largest magnitude)) - 2, as in OCP MX v1.0 section 6.3, or e + 1 where
    that makes the squared error of the block smaller. At e alone, all magnitudes from 6 to 8 become 6, and a largest
    weight of 4 that has become a little smaller loses a quarter. Elements are rounded to nearest, ties to even, and
    saturate at 6. Values that were dequantised from MXFP4 come back exactly. The values must be finite.
    """
    groups = np.asarray(values, dtype=np.float32).reshape(*values.shape[:-1], -1, BLOCK)
    magnitude = np.abs(groups)
    _, exponent = np.frexp(magnitude.max(axis=-1))  # magnitude = m 2^e with 0.5 <= m < 1: floor(log2) is e - 1
    scales = np.clip(exponent - 3 + SCALE_BIAS, 0, SCALE_NAN - 1)
    magnitude *= np.ldexp(np.float32(1), SCALE_BIAS - scales)[..., None]
    code = _nearest(magnitude)
    # Up to 7, every magnitude is at least as near to a value at e as to one at e + 1.
    saturated = (magnitude.max(axis=-1) > 7) & (scales < _LARGEST_SCALE)
    values_at_e, at_e = magnitude[saturated].astype(np.float64), code[saturated]
    at_next = _nearest(magnitude[saturated] / 2)
    lost, lost_at_next = (values_at_e - E2M1[at_e]) ** 2, (values_at_e - 2 * E2M1[at_next]) ** 2
    is_better = (lost - lost_at_next).sum(axis=-1) > 0
    code[saturated] = np.where(is_better[:, None], at_next, at_e)
    scales[saturated] += is_better
    code |= np.signbit(groups).view(np.uint8) << 3
    return code[..., 0::2] | (code[..., 1::2] << 4), scales.astype(np.uint8)


def _nearest(magnitude: np.ndarray) -> np.ndarray:
    """The codes, as uint8, of the values that are nearest to magnitudes at scale 1."""
    code = np.zeros(magnitude.shape, np.uint8)
    for lower, midpoint in enumerate(_MIDPOINTS):  # at a tie, the lower code is kept if it is even
        code += (magnitude >= midpoint if lower % 2 else magnitude > midpoint).view(np.uint8)
    return code


def pack_words(blocks: np.ndarray) -> np.ndarray:
    """blocks u8 (..., G, 16) -> u32 (..., G * 4), the layout of MLX's mode `mxfp4`: the same bytes viewed as words."""
    flat = np.ascontiguousarray(blocks).reshape(*blocks.shape[:-2], -1)
    return flat.view("<u4")
