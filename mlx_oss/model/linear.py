"""Linear layers whose weights stay as they are stored, on every backend.

A GPU multiplies stored bfloat16 and packed integers itself: there these are MLX's own layers. `backend.cpu_linear` has
the products of MLX's CPU backend. Knows nothing of the model.
"""

from __future__ import annotations

from functools import lru_cache, partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_oss.backend import cpu_linear, device
from mlx_oss.config import QuantizationSpec


def linear(inputs: int, outputs: int, bias: bool, spec: QuantizationSpec | None) -> nn.Module:
    """A layer of random weights, quantised as `spec` says; None: not."""
    if spec is None:
        return Linear(inputs, outputs, bias)
    return QuantizedLinear(inputs, outputs, bias, group_size=spec.group_size, bits=spec.bits, mode=spec.mode)


class Linear(nn.Linear):
    """x (..., inputs) -> (..., outputs) in the dtype of x; the weight may be stored in another."""

    def __call__(self, x: mx.array) -> mx.array:
        if device.on_gpu():
            return super().__call__(x)
        return cpu_linear.linear(x, self.weight, self.get("bias"))


class QuantizedLinear(nn.QuantizedLinear):
    """As `Linear`, with packed weights."""

    def __call__(self, x: mx.array) -> mx.array:
        if device.on_gpu():
            return super().__call__(x)
        spec = QuantizationSpec(self.group_size, self.bits, self.mode)
        return cpu_linear.quantized_linear(x, spec, self.get("bias"), *_stored(self))


class ExpertLinear(nn.Module):
    """One packed matrix and bias for each expert; a row of the input goes through the expert it names."""

    def __init__(self, experts: int, inputs: int, outputs: int, spec: QuantizationSpec) -> None:
        super().__init__()
        self.spec = spec
        self.weight, self.scales, *biases = mx.quantize(
            mx.random.uniform(-1, 1, (experts, outputs, inputs)), spec.group_size, spec.bits, mode=spec.mode
        )
        if biases:
            self.biases = biases[0]
        self.bias = mx.zeros((experts, outputs))

    def __call__(self, x: mx.array, experts: mx.array, sorted_indices: bool = False) -> mx.array:
        """x (n, 1, inputs), experts (N,) -> (N, 1, outputs) without the bias; each row serves N / n experts in turn.

        `sorted_indices` says that the experts come in order, which pays where each has many rows.
        """
        if sorted_indices and not device.on_gpu():
            return cpu_linear.expert_linear(x, experts, self.spec, *_stored(self))
        # Only without `rows` does MLX take its kernel for sorted experts.
        rows = None if sorted_indices else _token_of_pair(experts.size, experts.size // x.shape[0])
        gathered = partial(self._gathered, x, rows, experts)
        if device.on_gpu():
            return gathered(*_stored(self))
        return cpu_linear.by_rows_of(gathered, experts.size, *_stored(self))

    def _gathered(
        self,
        x: mx.array,
        rows: mx.array | None,
        experts: mx.array,
        weight: mx.array,
        scales: mx.array,
        biases: mx.array | None = None,
    ) -> mx.array:
        return mx.gather_qmm(
            x,
            weight,
            scales,
            biases,
            lhs_indices=rows,
            rhs_indices=experts,
            transpose=True,
            group_size=self.spec.group_size,
            bits=self.spec.bits,
            mode=self.spec.mode,
            sorted_indices=rows is None,
        )


@lru_cache(maxsize=64)
def _token_of_pair(pairs: int, each: int) -> mx.array:
    """(pairs,) uint32: 0 for the first `each`, 1 for the next, ...; kept, as making it is a kernel."""
    return mx.array(np.arange(pairs, dtype=np.uint32) // each)


def _stored(layer: nn.Module) -> list[mx.array]:
    return [layer[name] for name in ("weight", "scales", "biases") if layer.get(name) is not None]
