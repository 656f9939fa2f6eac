"""The MXFP4 format against MLX's own kernels and against a search over all sixteen codes."""

from __future__ import annotations

import math
from fractions import Fraction

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_oss.weights.mxfp4 import BLOCK, E2M1, SCALE_NAN, dequantize, pack_words, quantize

LARGEST = float(np.finfo(np.float32).max)


def random_blocks(seed: int, *shape: int, scales: tuple[int, int] = (1, SCALE_NAN)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (*shape, 16), np.uint8), rng.integers(*scales, shape, np.uint8)


def by_mlx(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """MLX's values, computed on the CPU, which does not flush subnormal numbers to zero."""
    with mx.stream(mx.cpu):
        words = mx.array(pack_words(blocks))
        return np.array(mx.dequantize(words, mx.array(scales), mode="mxfp4", group_size=32, bits=4, dtype=mx.float32))


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype == np.float32 and np.array_equal(a.view(np.uint32), b.view(np.uint32))


def test_codes_are_those_of_the_specification():
    """OCP MX v1.0, table of E2M1: exponent bias 1, subnormals 0 and 0.5, sign in the highest bit."""
    assert E2M1.tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]
    assert np.signbit(E2M1).tolist() == [False] * 8 + [True] * 8


def test_dequantize_equals_mlx_for_every_code_and_scale():
    codes = np.arange(16, dtype=np.uint8)
    block = np.tile(codes[0::2] | codes[1::2] << 4, 2)
    scales = np.arange(SCALE_NAN, dtype=np.uint8)[:, None]
    blocks = np.broadcast_to(block, (len(scales), 1, 16))
    ours, theirs = dequantize(blocks, scales), by_mlx(blocks, scales)
    assert same_bits(ours, theirs)


def test_dequantize_gives_the_specified_value_for_every_scale():
    """Against exact arithmetic, including subnormal results, and infinity where 2^127 * 4 does not fit in float32."""
    scales = np.arange(SCALE_NAN, dtype=np.uint8)[:, None]
    codes = np.arange(16, dtype=np.uint8)
    blocks = np.broadcast_to(np.tile(codes[0::2] | codes[1::2] << 4, 2), (SCALE_NAN, 1, 16))
    exact = np.tile(E2M1.astype(np.float64), 2) * 2.0 ** (scales.astype(np.float64) - 127)
    with np.errstate(over="ignore"):
        assert same_bits(dequantize(blocks, scales), exact.astype(np.float32))


def test_the_earlier_element_is_in_the_low_nibble():
    block = np.zeros((1, 16), np.uint8)
    block[0, 3] = 0x2_7  # element 6 is code 7, element 7 is code 2
    values = dequantize(block, np.array([127], np.uint8))
    assert values.nonzero()[0].tolist() == [6, 7] and values[6:8].tolist() == [6.0, 1.0]


def test_a_nan_scale_makes_its_block_nan_and_no_other():
    blocks, scales = random_blocks(0, 2, 3)
    scales[1, 1] = SCALE_NAN
    expected = np.zeros((2, 3, BLOCK), bool)
    expected[1, 1] = True
    assert np.array_equal(np.isnan(dequantize(blocks, scales)), expected.reshape(2, -1))


def test_dequantize_keeps_leading_dimensions_and_joins_groups():
    blocks, scales = random_blocks(1, 2, 5, 3)
    values = dequantize(blocks, scales)
    assert values.shape == (2, 5, 96)
    assert same_bits(values[1, 4, 32:64], dequantize(blocks[1, 4, 1:2], scales[1, 4, 1:2]))


def test_packed_words_are_mlxs_layout():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(5, 96)).astype(np.float32)
    words, scales = mx.quantize(mx.array(values), mode="mxfp4", group_size=32, bits=4)
    blocks = np.array(words).view(np.uint8).reshape(5, 3, 16)
    assert np.array_equal(pack_words(blocks), np.array(words))
    assert pack_words(blocks[:, ::2]).shape == (5, 8)  # a view that is not contiguous
    theirs = np.array(mx.dequantize(words, scales, mode="mxfp4", group_size=32, bits=4, dtype=mx.float32))
    assert same_bits(dequantize(blocks, np.array(scales)), theirs)


def test_quantizing_dequantized_values_gives_the_same_bits_where_a_block_reaches_four():
    """A block with smaller values gets a smaller scale, so only its values are the same: see the next test."""
    blocks, scales = random_blocks(3, 40, 7, scales=(3, 253))
    blocks[..., 5] |= 0x06
    again, scales_again = quantize(dequantize(blocks, scales))
    assert np.array_equal(again, blocks) and np.array_equal(scales_again, scales)


def test_every_released_pattern_comes_back_at_every_scale():
    """Each pair of codes, in each byte of a block whose largest magnitude is 4 or 6, at each scale that is finite."""
    pairs = np.arange(256, dtype=np.uint8)
    blocks = np.repeat(pairs[:, None], 16, axis=1)
    positions = np.arange(16)
    for largest in (0x6, 0x7, 0xE, 0xF):
        each = blocks.copy()
        each[pairs, positions[pairs % 16]] = pairs & 0xF0 | largest  # the low nibble of one byte is the largest
        largest_code = np.maximum(each & 7, each >> 4 & 7).max(axis=1)
        assert set(largest_code.tolist()) <= {6, 7}
        for scale in range(253):
            again, scales_again = quantize(dequantize(each[:, None], np.full((256, 1), scale, np.uint8)))
            assert np.array_equal(again[:, 0], each) and (scales_again == scale).all(), scale


@settings(max_examples=100, deadline=None, database=None)
@given(st.integers(0, 2**32), st.integers(0, 4))
def test_quantizing_dequantized_values_loses_nothing(seed, spread):
    """Zeros keep their signs. The scales go down to the smallest one."""
    low = [0, 1, 2, 100, 245][spread]
    blocks, scales = random_blocks(seed, 8, scales=(low, low + 8))
    values = dequantize(blocks, scales)
    assert same_bits(dequantize(*quantize(values)), values)


def nearest_by_search(values: np.ndarray, scale: int) -> np.ndarray:
    """For each value, the nearest of all sixteen codes at this scale; the even one if two are equally near."""
    candidates = E2M1.astype(np.float64) * 2.0 ** (scale - 127)
    distance = np.abs(values.astype(np.float64)[:, None] - candidates)
    same_sign = np.signbit(values)[:, None] == np.signbit(E2M1)
    best = np.where(same_sign, distance, np.inf)
    nearest = best == best.min(axis=1, keepdims=True)
    even = np.arange(16) % 2 == 0
    return np.argmax(nearest * 2 + (nearest & even), axis=1)


def codes_of(blocks: np.ndarray) -> np.ndarray:
    return np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(-1)


def squared_error(values: np.ndarray, codes: np.ndarray, scale: int) -> Fraction:
    """In exact arithmetic."""
    stored = [Fraction(float(E2M1[code])) * Fraction(2) ** (scale - 127) for code in codes]
    return sum(((Fraction(float(a)) - b) ** 2 for a, b in zip(values, stored, strict=True)), Fraction(0))


def by_search(block: np.ndarray) -> tuple[int, list[int]]:
    """The scale and the codes of a block: exponent e = floor(log2(largest)) - 2 or, if it is strictly better, e + 1."""
    largest = float(np.abs(block).max())
    scale = max(math.frexp(largest)[1] - 1 - 2 + 127, 0)
    scales = [scale, scale + 1] if scale < 252 else [scale]
    tried = [(squared_error(block, codes, s), s, codes) for s in scales for codes in [nearest_by_search(block, s)]]
    _, scale, codes = min(tried, key=lambda each: each[:2])
    return scale, codes.tolist()


finite = st.floats(-LARGEST, LARGEST, width=32)
similar = st.floats(-8, 8, width=32) | st.sampled_from(
    [sign * (a + b) / 2 for a, b in zip(E2M1[:7].tolist(), E2M1[1:8].tolist(), strict=True) for sign in (-1.0, 1.0)]
)
near_codes = st.builds(
    lambda code, moved: float(E2M1[code] * np.float32(moved)), st.integers(0, 15), st.floats(0.9, 1.1)
)


@settings(max_examples=300, deadline=None, database=None)
@given(
    st.lists(similar, min_size=BLOCK, max_size=BLOCK)
    | st.lists(near_codes, min_size=BLOCK, max_size=BLOCK)
    | st.lists(finite, min_size=BLOCK, max_size=BLOCK)
)
def test_quantize_is_nearest_with_ties_to_even_at_the_better_of_two_scales(values):
    """The expected scale follows from exact arithmetic; codes come from a full search."""
    block = np.array(values, np.float32)
    blocks, scales = quantize(block)
    wanted, codes = by_search(block)
    if block.any():  # for zeros, any scale is right
        assert scales.tolist() == [wanted]
    assert codes_of(blocks).tolist() == codes


def moved(share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Values of a release, and the same moved by `share` of their deviation; both in bfloat16."""
    normal = rng.standard_normal((500, 2880)).astype(np.float32) * np.float32(0.02)
    grid, groups = E2M1[:8], normal.reshape(500, 90, BLOCK)
    unit = np.exp2(np.floor(np.log2(np.abs(groups).max(axis=-1, keepdims=True))) - 2)  # as OpenAI's rule has it
    codes = np.abs(np.abs(groups / unit)[..., None] - grid).argmin(axis=-1)
    release = (np.copysign(grid[codes], groups) * unit).reshape(normal.shape)
    noise = rng.standard_normal(release.shape).astype(np.float32) * release.std() * np.float32(share)
    return release, in_bfloat16(release + noise)


def in_bfloat16(values: np.ndarray) -> np.ndarray:
    return np.array(mx.array(values).astype(mx.bfloat16).astype(mx.float32))


def relative_error(values: np.ndarray) -> float:
    return float(np.linalg.norm(values - dequantize(*quantize(values))) / np.linalg.norm(values))


@pytest.mark.parametrize(("share", "most"), [(0.01, 0.0105), (0.02, 0.0205)])
def test_a_fine_tune_is_as_near_to_itself_as_the_release_is(share, most):
    """With e alone the errors are 2.1 % and 3.0 %: a largest weight of 4 that has become smaller is stored as 3."""
    release, tuned = moved(share, np.random.default_rng(6))
    assert relative_error(release) == 0
    assert relative_error(tuned) <= most


def test_gaussian_weights_lose_no_more_than_any_two_scales_must():
    values = in_bfloat16(np.random.default_rng(7).standard_normal((500, 2880)).astype(np.float32) * np.float32(0.02))
    assert relative_error(values) <= 0.112


@pytest.mark.parametrize(
    ("value", "rounded"),
    [(0.25, 0.0), (0.75, 1.0), (1.25, 1.0), (1.75, 2.0), (2.5, 2.0), (3.5, 4.0), (5.0, 4.0), (5.001, 6.0), (7.0, 6.0)],
)
def test_ties_go_to_the_even_code_and_large_values_saturate(value, rounded):
    block = np.zeros(BLOCK, np.float32)
    block[[0, 1, 2]] = 6.0, value, -value  # the first value makes the scale 1
    assert dequantize(*quantize(block))[:3].tolist() == [6.0, rounded, -rounded]


def test_the_smaller_scale_wins_a_tie():
    """7.5 would lose 1.5 at scale 1, and 0.5 at scale 2, where each of eight values 0.5 loses 0.5: 2.25 both times."""
    block = np.zeros(BLOCK, np.float32)
    block[:9] = 7.5, *[0.5] * 8
    assert quantize(block)[1].tolist() == [127]
    block[8] = 0.0
    assert quantize(block)[1].tolist() == [128]


def test_a_zero_block_is_zeros_with_their_signs_and_harms_no_neighbour():
    values = np.zeros((2, 2 * BLOCK), np.float32)
    values[0, 3] = -0.0
    values[1, BLOCK:] = 3.0
    back = dequantize(*quantize(values))
    assert same_bits(back, values)


def test_the_largest_and_smallest_floats_quantize_without_a_warning():
    """pytest is configured to turn NumPy's overflow warnings into errors."""
    smallest = float(np.finfo(np.float32).smallest_subnormal)
    for value in (LARGEST, -LARGEST, smallest, float(np.finfo(np.float32).tiny)):
        values = np.full(BLOCK, value, np.float32)
        back = dequantize(*quantize(values)).astype(np.float64)
        step = max(abs(value) / 4, 2.0**-128)  # half the widest gap between codes, or half the smallest value
        assert np.isfinite(back).all() and np.abs(back - value).max() <= step


def test_quantize_leaves_its_argument_alone():
    values = np.random.default_rng(4).normal(size=(3, 64)).astype(np.float32)
    before = values.copy()
    quantize(values)
    assert same_bits(values, before)


def test_quantize_and_mlx_agree_on_ordinary_values_up_to_the_choice_of_scale():
    """MLX rounds the scale to the nearest and drops the sign of values that become zero. Otherwise both agree."""
    values = np.random.default_rng(5).normal(size=(64, 96)).astype(np.float32)
    words, theirs = (np.array(a) for a in mx.quantize(mx.array(values), mode="mxfp4", group_size=32, bits=4))
    blocks, ours = quantize(values)
    same = ours == theirs
    assert same.mean() > 0.5
    theirs_blocks = words.view(np.uint8).reshape(64, 3, 16)
    assert np.array_equal(
        dequantize(blocks[same][:, None], ours[same][:, None]),
        dequantize(theirs_blocks[same][:, None], ours[same][:, None]),
    )
