"""The canonical tensors: the names and shapes that a config requires.

They are the tensors of an MLX folder. Every layout says where it stores them, the loader reads them, and the converter
writes them. The names are those of mlx-lm, so either project can read the other's folders. The shapes are those
of the values. A quantised module is stored in other shapes, which `stored_tensors` returns. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterator

from mlx_oss.config import MXFP4, ModelConfig, QuantizationSpec

Shape = tuple[int, ...]


def layer_prefix(layer: int) -> str:
    return f"model.layers.{layer}."


def modules(config: ModelConfig) -> Iterator[tuple[str, Shape, Shape | None]]:
    """Yields (path, weight shape, bias shape or None) for each module that has a `.weight`, in the order of use."""
    c = config
    q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    yield "model.embed_tokens", (c.vocab_size, c.hidden_size), None
    for layer in range(c.num_hidden_layers):
        p = layer_prefix(layer)
        yield p + "input_layernorm", (c.hidden_size,), None
        yield p + "self_attn.q_proj", (q, c.hidden_size), (q,)
        yield p + "self_attn.k_proj", (kv, c.hidden_size), (kv,)
        yield p + "self_attn.v_proj", (kv, c.hidden_size), (kv,)
        yield p + "self_attn.o_proj", (c.hidden_size, q), (c.hidden_size,)
        yield p + "post_attention_layernorm", (c.hidden_size,), None
        yield p + "mlp.router", (c.num_local_experts, c.hidden_size), (c.num_local_experts,)
        e, f = c.num_local_experts, c.intermediate_size
        yield p + "mlp.experts.gate_proj", (e, f, c.hidden_size), (e, f)
        yield p + "mlp.experts.up_proj", (e, f, c.hidden_size), (e, f)
        yield p + "mlp.experts.down_proj", (e, c.hidden_size, f), (e, c.hidden_size)
    yield "model.norm", (c.hidden_size,), None
    yield "lm_head", (c.vocab_size, c.hidden_size), None


def is_expert(path: str) -> bool:
    """True for modules of the experts and their tensors, by canonical path and by the model's."""
    return ".mlp.experts." in path


def row_axis(path: str) -> int:
    """The axis of the rows in the tensors of a module: 0, or 1 behind that of the experts."""
    return 1 if is_expert(path) else 0


def can_quantize(path: str) -> bool:
    """True for every module with a weight except norms, whose weights are vectors."""
    return not path.endswith("norm")


def stored_tensors(path: str, shape: Shape, bias: Shape | None, spec: QuantizationSpec | None) -> dict[str, Shape]:
    """Names and shapes of the tensors that a module is stored as.

    Without a `spec` that is `.weight`; with one, packed `.weight` (u32), `.scales` and, in affine mode, `.biases`.
    Either way `.bias` is added if the module has one.
    """
    if spec is None:
        tensors = {f"{path}.weight": shape}
    else:
        *rows, columns = shape
        groups = (*rows, columns // spec.group_size)
        tensors = {f"{path}.weight": (*rows, columns * spec.bits // 32), f"{path}.scales": groups}
        if spec.mode == "affine":
            tensors[f"{path}.biases"] = groups
    if bias is not None:
        tensors[f"{path}.bias"] = bias
    return tensors


def unpacked(words: int, spec: QuantizationSpec) -> int:
    """Number of values in a number of packed words."""
    return words * 32 // spec.bits


def plain_tensors(config: ModelConfig) -> dict[str, Shape]:
    """Names and shapes of the tensors outside of modules that have a weight: the attention sinks."""
    heads = config.num_attention_heads
    return {f"{layer_prefix(n)}self_attn.sinks": (heads,) for n in range(config.num_hidden_layers)}


def lossless_quantization() -> dict[str, object]:
    """The `quantization` entry of `config.json` for a folder with MXFP4 experts and everything else as released."""
    return {"group_size": MXFP4.group_size, "bits": MXFP4.bits, "mode": MXFP4.mode}
