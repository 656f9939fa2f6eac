"""Counts what a decode step costs, whatever the machine: kernels, bytes of weights, and copies of the KV cache.

Kernels are counted in MLX's graph before it is evaluated. Views (slices, reshapes) launch nothing. A function of
`mx.fast` is one kernel on Metal but many primitives on the CPU backend, so each is replaced by a single operation while
the graph is traced. The native library of the CPU backend is not used then.
"""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from mlx_oss.backend import device
from mlx_oss.generation.generate import generate_step
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.model.transformer import Transformer
from mlx_oss.weights.arrays import bytes_of

VIEWS = frozenset(
    "AsStrided Broadcast Depends ExpandDims Flatten Reshape Slice Split Squeeze StopGradient Transpose Unflatten "
    "View".split()
)
FILL = 3  # tokens in the cache before the step that is traced
# Steps after which addresses are compared. Looking waits for the GPU, so it is done rarely; the distances have no
# common divisor, or two buffers that are used in turn could look like one.
_LOOKS = (3, 5, 8, 13, 21, 34)


def kernels_per_layer(model: Transformer) -> float:
    """Kernels that a step of one token launches per layer, as the mean of a sliding-window and a full-attention layer.

    This is half of the difference between two and four layers, because gpt-oss alternates the two kinds. If the model
    has fewer than four layers, it is the number of kernels of the whole step, divided by the number of layers.
    """
    layers = list(model.layers)
    if len(layers) < 4:
        return _kernels(model, len(layers)) / len(layers)
    return (_kernels(model, 4) - _kernels(model, 2)) / 2


def bytes_per_token(model: Transformer) -> int:
    """Bytes of weights that a step of one token reads. Only the chosen experts count, and one row of the embedding."""
    config = model.config
    total = 0
    parameters: Any = tree_flatten(model.parameters())
    for name, array in parameters:
        share = 1.0
        if ".experts." in name:
            share = config.num_experts_per_tok / array.shape[0]
        elif name.startswith("embed_tokens."):
            share = 1 / config.vocab_size
        total += round(array.nbytes * share)
    return total


def copied_buffers(model: Transformer) -> tuple[int, int]:
    """Generates some tokens, and looks whether keys and values stay where they are in memory.

    A step should write only those of its own token. But MLX copies a whole buffer if a computation that still runs
    needs it, which only a GPU can show: there the next token is being computed while the last one is read.

    Returns:
        (number of buffers that were copied, number of all buffers).
    """
    cache = model.make_cache()
    cache.reserve(FILL + max(_LOOKS) + 1)
    seen: list[set[int]] = []
    steps = generate_step(model, [1] * FILL, SamplingOptions(temperature=0), cache=cache, max_tokens=max(_LOOKS))
    for number, _ in enumerate(steps, start=1):
        if number in _LOOKS:
            addresses = [ctypes.addressof(ctypes.c_char.from_buffer(bytes_of(array))) for array in cache.arrays]
            seen = [places | {at} for places, at in zip(seen or [set()] * len(addresses), addresses, strict=True)]
    return sum(len(places) > 1 for places in seen), len(seen)


def _kernels(model: Transformer, layers: int) -> int:
    """Kernels of a whole step through the first `layers` layers."""
    all_layers = list(model.layers)
    model.layers = all_layers[:layers]
    try:
        cache = model.make_cache()
        mx.eval(model(mx.array([[1] * FILL]), cache), model(mx.array([[1]]), cache))
        with _as_on_a_gpu(model):
            return _launches(model(mx.array([[1]]), cache))
    finally:
        model.layers = all_layers


def _launches(output: mx.array) -> int:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "graph.dot"
        mx.export_to_dot(str(path), output)
        names = re.findall(r'\[label ="(\w+)", shape=rectangle\]', path.read_text())
    return sum(count for name, count in Counter(names).items() if name not in VIEWS)


@contextmanager
def _as_on_a_gpu(model: Transformer) -> Iterator[None]:
    """Within this context the model builds the graph that it would build on a GPU.

    Each function of `mx.fast` is a single operation, there is one stream, and weights have the dtype of the
    activations. The results are meaningless: only the graph is used.
    """

    def single_operation(x: mx.array, *_: object, **__: object) -> mx.array:
        return mx.erf(x)

    def attention(q: mx.array, k: mx.array, v: mx.array, *_: object, **__: object) -> mx.array:
        outputs: list[mx.array] = mx.depends([mx.erf(q)], [k, v])
        return outputs[0]

    def blank(array: mx.array) -> mx.array:
        """A view of a single zero with the array's shape, which adds no kernel and takes no memory."""
        if not mx.issubdtype(array.dtype, mx.floating):
            return array
        return mx.as_strided(zero, array.shape, [0] * array.ndim)

    zero = mx.zeros((1,), model.dtype)
    mx.eval(zero)
    stand_ins = {"rope": single_operation, "rms_norm": single_operation, "scaled_dot_product_attention": attention}
    real, on_gpu, parameters = {name: getattr(mx.fast, name) for name in stand_ins}, device.on_gpu, model.parameters()
    try:
        setattr(device, "on_gpu", lambda: True)  # noqa: B010
        for name, function in stand_ins.items():
            setattr(mx.fast, name, function)
        blanks = tree_map(blank, parameters)
        model.update(blanks)
        yield
    finally:
        device.on_gpu = on_gpu
        for name, function in real.items():
            setattr(mx.fast, name, function)
        model.update(parameters)
