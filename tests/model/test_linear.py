"""Linear layers on the CPU backend: stored weights give float32 results, with the native library and without it."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_oss.backend import device, native
from mlx_oss.config import QuantizationSpec
from mlx_oss.model.linear import ExpertLinear, Linear, QuantizedLinear, linear
from mlx_oss.model.swiglu import swiglu

INPUTS, OUTPUTS = 192, 77
SPECS = {
    "q8": QuantizationSpec(64, 8, "affine"),
    "q4": QuantizationSpec(32, 4, "affine"),
    "mxfp4": QuantizationSpec(32, 4, "mxfp4"),
    "nvfp4": QuantizationSpec(16, 4, "nvfp4"),
    "mxfp8": QuantizationSpec(32, 8, "mxfp8"),
}
ROWS = [1, 2, 3, 4, 5, 16, 33]


@pytest.fixture(params=["the native library", "MLX's operations"], autouse=True)
def backend(request, monkeypatch):
    """What computes on the CPU backend: the library, or what MLX brings where it is not built."""
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    if request.param != "the native library":
        monkeypatch.setattr(native, "_native", None)
    elif native.vectors() is None:
        pytest.skip("the native library is not built")


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
def test_a_stored_matrix_gives_the_product_of_its_exact_values(rows, dtype, bias):
    layer, x = stored(dtype, bias), normal(rows, INPUTS)
    y = layer(x)
    assert y.dtype == mx.float32 and layer.weight.dtype == dtype
    assert np.abs(np.array(y) - expected(layer, layer.weight, x)).max() < 1e-4


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("rows", ROWS)
def test_a_packed_matrix_gives_the_product_of_its_values(rows, name, bias):
    spec = SPECS[name]
    layer, x = packed(spec, bias), normal(rows, INPUTS)
    weight = mx.dequantize(
        layer.weight, layer.scales, layer.get("biases"), spec.group_size, spec.bits, mode=spec.mode, dtype=mx.float32
    )
    y = layer(x)
    assert y.dtype == mx.float32
    assert np.abs(np.array(y) - expected(layer, weight, x)).max() < 1e-4


@pytest.mark.parametrize("make", [lambda: stored(mx.bfloat16), lambda: packed(SPECS["q8"])])
def test_the_leading_dimensions_are_those_of_the_input(make):
    layer, x = make(), normal(3, 2, 5, INPUTS)
    y = layer(x)
    assert y.shape == (3, 2, 5, OUTPUTS)
    assert np.abs(np.array(y[1, 1]) - np.array(layer(x[1, 1]))).max() < 1e-4


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
def test_sorted_rows_go_through_the_experts_they_name(counts, name):
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
def test_each_row_goes_through_its_own_experts(name, gpu, monkeypatch):
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
    x = normal(3, INPUTS)
    for layer, parent in ((stored(mx.float32), nn.Linear), (packed(SPECS["q8"]), nn.QuantizedLinear)):
        assert isinstance(layer, parent) and isinstance(layer, (Linear, QuantizedLinear))
        assert mx.array_equal(layer(x), parent.__call__(layer, x))


@pytest.mark.parametrize("name", [*SPECS, "float32"])
def test_a_bias_and_the_activation_are_added_alike(name):
    """In one call of the native library, and in several of MLX's operations."""
    layer = ExpertLinear(5, INPUTS, 2 * OUTPUTS, SPECS.get(name))
    layer.bias = normal(5, 2 * OUTPUTS)
    experts, x = mx.array([4, 0, 3, 3, 1, 4], mx.uint32), normal(2, 1, INPUTS)
    h = layer(x, experts) + layer.bias[experts][:, None]
    assert mx.abs(layer.with_bias(x, experts) - h).max().item() < 1e-5
    for alternate in (True, False):
        expected = swiglu(layer(x, experts), layer.bias[experts][:, None], 1.702, 7.0, alternate)
        assert mx.abs(layer.activated(x, experts, False, 1.702, 7.0, alternate) - expected).max().item() < 1e-4


def test_the_library_computes_what_it_knows_and_mlx_the_rest(monkeypatch):
    called, real = [], native.product
    monkeypatch.setattr(native, "product", lambda *a, **k: (called.append(1), real(*a, **k))[1])
    for name in (*SPECS, None):
        called.clear()
        (packed(SPECS[name]) if name else stored(mx.bfloat16))(normal(2, INPUTS))
        assert len(called) == (native._native is not None and name not in ("nvfp4", "mxfp8"))
