"""Linear layers that keep their weights as they are stored, on every backend.

A GPU multiplies stored bfloat16 and packed integers directly, so there these are MLX's own layers. On MLX's CPU
backend `backend.native` computes the products, where it is built and knows how they are stored. Knows nothing of the
model.
"""

from __future__ import annotations

from functools import lru_cache

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_oss.backend import native
from mlx_oss.config import QuantizationSpec
from mlx_oss.model.swiglu import swiglu


def linear(inputs: int, outputs: int, bias: bool, spec: QuantizationSpec | None) -> nn.Module:
    """A linear layer with random weights, quantised as `spec` says; None means not quantised."""
    if spec is None:
        return Linear(inputs, outputs, bias)
    return QuantizedLinear(inputs, outputs, bias, group_size=spec.group_size, bits=spec.bits, mode=spec.mode)


class Linear(nn.Linear):
    """x (..., inputs) -> (..., outputs) in the dtype of x; the weight may have another dtype."""

    def __call__(self, x: mx.array) -> mx.array:
        if native.computes(None):
            return native.product(x, None, [self.weight], self.get("bias"))
        return super().__call__(x).astype(x.dtype)


class QuantizedLinear(nn.QuantizedLinear):
    """Like `Linear`, with quantised weights."""

    def __call__(self, x: mx.array) -> mx.array:
        spec = QuantizationSpec(self.group_size, self.bits, self.mode)
        if native.computes(spec):
            return native.product(x, spec, _packed_arrays(self), self.get("bias"))
        y: mx.array = super().__call__(x)
        return y


def rows_of(layer: nn.Module, rows: mx.array) -> mx.array:
    """Rows (n,) of the matrix of a `linear` layer -> float32 (n, inputs), without rounding what is quantised."""
    weight, *scaling = (array[rows] for array in _packed_arrays(layer))
    if isinstance(layer, nn.QuantizedLinear):
        # In affine mode the values get the dtype of the scales; those of the other modes are exact in bfloat16.
        scaling = [array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array for array in scaling]
        biases = scaling[1] if len(scaling) > 1 else None
        weight = mx.dequantize(weight, scaling[0], biases, layer.group_size, layer.bits, mode=layer.mode)
    return weight.astype(mx.float32)


class ExpertLinear(nn.Module):
    """One matrix and bias for each expert; each row of the input is multiplied with a chosen expert's matrix.

    The matrices are quantised as `spec` says; None means not quantised.
    """

    def __init__(self, experts: int, inputs: int, outputs: int, spec: QuantizationSpec | None) -> None:
        super().__init__()
        self.spec = spec
        self.weight = mx.random.uniform(-1, 1, (experts, outputs, inputs))
        if spec is not None:
            self.weight, self.scales, *biases = mx.quantize(self.weight, spec.group_size, spec.bits, mode=spec.mode)
            if biases:
                self.biases = biases[0]
        self.bias = mx.zeros((experts, outputs))

    def __call__(self, x: mx.array, experts: mx.array, sorted_indices: bool = False) -> mx.array:
        """x (n, 1, inputs), experts (N,) -> (N, 1, outputs), without the bias, which is a parameter too.

        Each row of x is multiplied with N / n consecutive entries of `experts`. `sorted_indices` states that `experts`
        is sorted, which makes the product faster if experts have many rows each.
        """
        if native.computes(self.spec):
            return native.product(x, self.spec, _packed_arrays(self), experts=experts)
        # MLX uses its kernel for sorted experts only if `rows` is None.
        rows = None if sorted_indices else _token_of_pair(experts.size, experts.size // x.shape[0])
        if self.spec is None:
            matrices = self.weight.swapaxes(-1, -2)
            return mx.gather_mm(x, matrices, lhs_indices=rows, rhs_indices=experts, sorted_indices=sorted_indices)
        return mx.gather_qmm(
            x,
            self.weight,
            self.scales,
            self.get("biases"),
            lhs_indices=rows,
            rhs_indices=experts,
            transpose=True,
            group_size=self.spec.group_size,
            bits=self.spec.bits,
            mode=self.spec.mode,
            sorted_indices=sorted_indices,
        )

    def with_bias(self, x: mx.array, experts: mx.array, sorted_indices: bool = False) -> mx.array:
        """Like a call, with the bias of the expert added to each row."""
        if native.computes(self.spec):
            return native.product(x, self.spec, _packed_arrays(self), self.bias, experts)
        return self(x, experts, sorted_indices) + self.bias[experts][:, None]

    def activated(
        self, x: mx.array, experts: mx.array, sorted_indices: bool, alpha: float, limit: float, alternate: bool
    ) -> mx.array:
        """x (n, 1, inputs), experts (N,) -> (N, 1, outputs / 2): `swiglu` of the rows with the bias added."""
        if native.computes(self.spec):
            activation = native.SwiGLU(alpha, limit, alternate)
            return native.product(x, self.spec, _packed_arrays(self), self.bias, experts, activation)
        return swiglu(self(x, experts, sorted_indices), self.bias[experts][:, None], alpha, limit, alternate)


@lru_cache(maxsize=64)
def _token_of_pair(pairs: int, each: int) -> mx.array:
    """(pairs,) uint32: `each` times 0, then `each` times 1, ... Cached, because creating it launches a kernel."""
    return mx.array(np.arange(pairs, dtype=np.uint32) // each)


def packed(layer: nn.Module) -> list[str]:
    """Names of the parameters that hold a layer's matrix: weight; if quantised, scales and, if affine, biases."""
    return [name for name in ("weight", "scales", "biases") if layer.get(name) is not None]


def _packed_arrays(layer: nn.Module) -> list[mx.array]:
    return [layer[name] for name in packed(layer)]
