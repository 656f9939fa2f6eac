"""Activation of the experts: SwiGLU with clamped inputs, as in OpenAI's `swiglu` in gpt_oss/torch/model.py."""

from __future__ import annotations

from functools import partial

import mlx.core as mx

from mlx_oss.backend.device import compiled


def swiglu(h: mx.array, bias: mx.array, alpha: float, limit: float, alternate: bool = False) -> mx.array:
    """h and bias (N, 1, 2 F) -> (N, 1, F).

    The first half is gate and the second half is up. With `alternate`, even positions are gate and odd ones are up. The
    result is the same.
    """
    F = h.shape[-1] // 2
    gate, up = (slice(0, None, 2), slice(1, None, 2)) if alternate else (slice(F), slice(F, None))
    slope, bound = mx.array(alpha, h.dtype), mx.array(limit, h.dtype)
    return _activated(h[..., gate], h[..., up], bias[..., gate], bias[..., up], slope, bound)


@partial(compiled, shapeless=True)
def _activated(
    gate: mx.array, up: mx.array, gate_bias: mx.array, up_bias: mx.array, alpha: mx.array, limit: mx.array
) -> mx.array:
    """(..., F) each -> (..., F): gate * sigmoid(alpha * gate) * (up + 1), in one kernel on a GPU.

    First the biases are added and both inputs clamped, the gate only from above.
    """
    gate = mx.minimum(gate + gate_bias, limit)
    up = mx.clip(up + up_bias, -limit, limit)
    return gate * mx.sigmoid(alpha * gate) * (up + 1)
