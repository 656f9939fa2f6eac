"""Linear layers on the CPU backend: stored weights give float32 results for any blocks, rows and cores."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_oss.backend import cores as cores_module
from mlx_oss.backend import cpu_linear, device
from mlx_oss.config import QuantizationSpec
from mlx_oss.model.linear import ExpertLinear, Linear, QuantizedLinear, linear

INPUTS, OUTPUTS = 192, 77
SPECS = {
    "q8": QuantizationSpec(64, 8, "affine"),
    "q4": QuantizationSpec(32, 4, "affine"),
    "mxfp4": QuantizationSpec(32, 4, "mxfp4"),
    "nvfp4": QuantizationSpec(16, 4, "nvfp4"),
    "mxfp8": QuantizationSpec(32, 8, "mxfp8"),
}
ROWS = [1, 2, 3, 4, 5, 16, 33]


@pytest.fixture(params=[1, 2, 3])
def cores(request, monkeypatch):
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    monkeypatch.setattr(cores_module, "SHARED_FROM", 0)
    monkeypatch.setattr(cores_module.os, "sched_getaffinity", lambda _: set(range(request.param)), raising=False)
    monkeypatch.setattr(cores_module, "_cpu", type(cores_module._cpu)())
    return request.param


@pytest.fixture(params=[1, 20 * INPUTS, 1 << 20])
def block(request, monkeypatch):
    """Blocks of one row, of several rows, and of all rows."""
    set_blocks(monkeypatch, request.param, 2 * request.param)


def set_blocks(monkeypatch, small: int, large: int) -> None:
    monkeypatch.setattr(cpu_linear, "SMALL_BLOCK", small)
    monkeypatch.setattr(cpu_linear, "LEAST_ROWS", 1)
    monkeypatch.setattr(cpu_linear, "LARGE_BLOCK", large)


def normal(*shape: int) -> mx.array:
    return mx.array(np.random.default_rng(shape).standard_normal(shape).astype(np.float32))


def stored(dtype: mx.Dtype, bias: bool = True) -> nn.Module:
    layer = linear(INPUTS, OUTPUTS, bias, None)
    layer.weight = normal(OUTPUTS, INPUTS).astype(dtype)
    if bias:
        layer.bias = normal(OUTPUTS)
    return layer


def packed(spec: QuantizationSpec, bias: bool = True) -> nn.Module:
    layer = linear(INPUTS, OUTPUTS, bias, spec)
    layer.weight, layer.scales, *biases = mx.quantize(
        normal(OUTPUTS, INPUTS), spec.group_size, spec.bits, mode=spec.mode
    )
    if biases:
        layer.biases = biases[0]
    if bias:
        layer.bias = normal(OUTPUTS)
    return layer


def expected(layer: nn.Module, weight: mx.array, x: mx.array) -> np.ndarray:
    weight, x = np.array(weight.astype(mx.float32), np.float64), np.array(x, np.float64)
    return x @ weight.T + (np.array(layer.bias) if "bias" in layer else 0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
@pytest.mark.parametrize("rows", ROWS)
def test_a_stored_matrix_gives_the_product_of_its_exact_values(rows, dtype, bias, block, cores):
    layer, x = stored(dtype, bias), normal(rows, INPUTS)
    y = layer(x)
    assert y.dtype == mx.float32 and layer.weight.dtype == dtype
    assert np.abs(np.array(y) - expected(layer, layer.weight, x)).max() < 1e-4


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("rows", ROWS)
def test_a_packed_matrix_gives_the_product_of_its_values(rows, name, bias, block, cores):
    spec = SPECS[name]
    layer, x = packed(spec, bias), normal(rows, INPUTS)
    weight = mx.dequantize(
        layer.weight, layer.scales, layer.get("biases"), spec.group_size, spec.bits, mode=spec.mode, dtype=mx.float32
    )
    y = layer(x)
    assert y.dtype == mx.float32
    assert np.abs(np.array(y) - expected(layer, weight, x)).max() < 1e-4


@pytest.mark.parametrize("make", [lambda: stored(mx.bfloat16), lambda: packed(SPECS["q8"])])
def test_the_leading_dimensions_are_those_of_the_input(make, cores):
    layer, x = make(), normal(3, 2, 5, INPUTS)
    y = layer(x)
    assert y.shape == (3, 2, 5, OUTPUTS)
    assert np.abs(np.array(y[1, 1]) - np.array(layer(x[1, 1]))).max() < 1e-4


@pytest.mark.parametrize("make", [lambda: stored(mx.bfloat16), lambda: packed(SPECS["q4"])])
@pytest.mark.parametrize("rows", ROWS)
def test_the_number_of_cores_changes_no_bit(make, rows, monkeypatch):
    layer, x = make(), normal(rows, INPUTS)
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    set_blocks(monkeypatch, 20 * INPUTS, 20 * INPUTS)
    results = []
    for shared_from in (0, 1 << 60):
        monkeypatch.setattr(cores_module, "SHARED_FROM", shared_from)
        results.append(np.array(layer(x)))
    assert np.array_equal(*results)


def test_mxfp4_halves_are_what_mlx_unpacks_for_every_byte_and_scale():
    codes = np.arange(256, dtype=np.uint8).repeat(16).reshape(-1, 128)  # 32 rows of 256 codes
    weight = mx.array(np.tile(codes, (32, 1))).view(mx.uint32)
    scales = mx.array(np.arange(weight.size // 4, dtype=np.uint32) % 254 + 1).astype(mx.uint8).reshape(-1, 8)
    expected = mx.dequantize(weight, scales, group_size=32, bits=4, mode="mxfp4", dtype=mx.float32)
    even, odd = cpu_linear._mxfp4_even_and_odd(weight, scales)
    assert mx.array_equal(even, expected[:, 0::2]) and mx.array_equal(odd, expected[:, 1::2])


def values_of(layer: ExpertLinear) -> np.ndarray:
    """The matrices of the experts, in float64."""
    spec = layer.spec
    weight = layer.weight
    if spec is not None:
        weight = mx.dequantize(
            weight, layer.scales, layer.get("biases"), spec.group_size, spec.bits, mode=spec.mode, dtype=mx.float32
        )
    return np.array(weight.astype(mx.float32), np.float64)


@pytest.mark.parametrize("name", [*SPECS, "bfloat16", "float32"])
@pytest.mark.parametrize("counts", [[3, 0, 1, 20, 0], [0, 5, 4, 7, 6], [0, 0, 0, 0, 2]])
def test_sorted_rows_go_through_the_experts_they_name(counts, name, block, cores):
    layer = ExpertLinear(len(counts), INPUTS, OUTPUTS, SPECS.get(name))
    if name == "bfloat16":
        layer.weight = layer.weight.astype(mx.bfloat16)
    experts, x = np.repeat(np.arange(len(counts)), counts), normal(sum(counts), 1, INPUTS)
    expected = np.einsum("nli,noi->nlo", np.array(x, np.float64), values_of(layer)[experts])
    for in_order in (True, False):
        y = layer(x, mx.array(experts.astype(np.uint32)), in_order)
        assert y.dtype == mx.float32 and np.abs(np.array(y) - expected).max() < 1e-4


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("name", [*SPECS, "float32"])
def test_each_row_goes_through_its_own_experts(name, gpu, cores, monkeypatch):
    """As a token does: a row for several experts, in any order."""
    monkeypatch.setattr(device, "on_gpu", lambda: gpu)
    layer = ExpertLinear(5, INPUTS, OUTPUTS, SPECS.get(name))
    experts, x = np.array([4, 0, 3, 3, 1, 4], np.uint32), normal(2, 1, INPUTS)
    expected = np.einsum("nli,noi->nlo", np.array(x, np.float64).repeat(3, axis=0), values_of(layer)[experts])
    assert np.abs(np.array(layer(x, mx.array(experts))) - expected).max() < 1e-4
    order = np.argsort(experts)
    y = layer(x[mx.array((order // 3).astype(np.uint32))], mx.array(experts[order]), sorted_indices=True)
    assert np.abs(np.array(y) - expected[order]).max() < 1e-4


def test_on_a_gpu_a_layer_is_mlxs_own(monkeypatch):
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    monkeypatch.setattr(cores_module, "over_cores", None)
    x = normal(3, INPUTS)
    for layer, parent in ((stored(mx.float32), nn.Linear), (packed(SPECS["q8"]), nn.QuantizedLinear)):
        assert isinstance(layer, parent) and isinstance(layer, (Linear, QuantizedLinear))
        assert mx.array_equal(layer(x), parent.__call__(layer, x))


def test_the_experts_of_a_call_are_one_queue_for_the_cores(cores, monkeypatch):
    queues, real = [], cores_module.over_cores
    monkeypatch.setattr(cores_module, "over_cores", lambda *a, **k: (queues.append(k["tails"]), real(*a, **k))[1])
    layer = ExpertLinear(3, INPUTS, OUTPUTS, SPECS["mxfp4"])
    for _ in range(2):
        layer(normal(60, 1, INPUTS), mx.array(np.repeat(np.arange(3), 20).astype(np.uint32)), True)
    assert [queue is queues[0] for queue in queues] == [True] * 3 + [False] * 3


@pytest.mark.parametrize("make", [lambda: stored(mx.bfloat16), lambda: packed(SPECS["mxfp4"])])
def test_a_matrix_too_small_to_be_shared_out_for_one_row_is_for_many(make, monkeypatch):
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    works, real = [], cores_module.over_cores
    monkeypatch.setattr(cores_module, "over_cores", lambda *a, **k: (works.append(k["work"]), real(*a, **k))[1])
    layer = make()
    for rows in (1, 16, 64):
        layer(normal(rows, INPUTS))
    assert works[0] < 1.5 * layer.weight.nbytes < works[1] and works[2] > 2 * works[1]
