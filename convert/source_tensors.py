"""Finds and checks the tensors of a source by their Hugging Face names, whatever the layout; each is used exactly once.

Knows the names of both OpenAI layouts. Which target tensors are made from the source tensors is decided in `jobs`.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TypeVar

from mlx_oss.convert.quantized import DenseExperts
from mlx_oss.convert.source import METAL, OPENAI, Source
from mlx_oss.convert.transforms import ROUNDED, Deinterleave, Rounded, Rows, TensorTransform
from mlx_oss.errors import CheckpointError
from mlx_oss.weights.names import Shape
from mlx_oss.weights.safetensors import TensorInfo

# Hugging Face's name below `model.layers.N.` -> OpenAI's below `block.N.`, where q, k and v are rows of one tensor.
_OPENAI_LAYER = {
    "input_layernorm.weight": "attn.norm.scale",
    "self_attn.q_proj.weight": "attn.qkv.weight",
    "self_attn.k_proj.weight": "attn.qkv.weight",
    "self_attn.v_proj.weight": "attn.qkv.weight",
    "self_attn.q_proj.bias": "attn.qkv.bias",
    "self_attn.k_proj.bias": "attn.qkv.bias",
    "self_attn.v_proj.bias": "attn.qkv.bias",
    "self_attn.o_proj.weight": "attn.out.weight",
    "self_attn.o_proj.bias": "attn.out.bias",
    "self_attn.sinks": "attn.sinks",
    "post_attention_layernorm.weight": "mlp.norm.scale",
    "mlp.router.weight": "mlp.gate.weight",
    "mlp.router.bias": "mlp.gate.bias",
    "mlp.experts.gate_up_proj_blocks": "mlp.mlp1_weight.blocks",
    "mlp.experts.gate_up_proj_scales": "mlp.mlp1_weight.scales",
    "mlp.experts.gate_up_proj_bias": "mlp.mlp1_bias",
    "mlp.experts.down_proj_blocks": "mlp.mlp2_weight.blocks",
    "mlp.experts.down_proj_scales": "mlp.mlp2_weight.scales",
    "mlp.experts.down_proj_bias": "mlp.mlp2_bias",
}
_OPENAI_TOP = {
    "model.embed_tokens.weight": "embedding.weight",
    "model.norm.weight": "norm.scale",
    "lm_head.weight": "unembedding.weight",
}

_Use = TypeVar("_Use", Rows, Deinterleave, DenseExperts)


class SourceTensors:
    """Makes transforms that read the source's tensors, and counts how many bytes of each tensor they use.

    Names and shapes in the methods are those of Hugging Face's layout. Each method raises CheckpointError if the tensor
    is missing or has another shape or dtype.
    """

    def __init__(self, source: Source):
        self.source = source
        self._used: Counter[str] = Counter()

    def whole(self, name: str, dtype: str, shape: Shape) -> TensorTransform:
        """Reads all of a tensor."""
        return self.rows(name, dtype, shape)

    def rows(self, name: str, dtype: str, shape: Shape) -> Rows:
        """Reads all of a tensor as stored; if the layout joins q, k and v in one tensor, only the rows of this one."""
        source_name, first_row, full = self._locate(name, shape)
        tensor = self._checked(source_name, dtype, full)
        start = first_row * (tensor.nbytes // full[0])
        row_bytes = tensor.nbytes // math.prod(full[:-1]) if len(full) > 1 else tensor.nbytes
        return self._use(Rows(tensor, row_bytes, start, start + tensor.nbytes // full[0] * shape[0]))

    def deinterleaved(self, name: str, dtype: str, shape: Shape) -> TensorTransform:
        """Reads a tensor (experts, rows, ...) in one pass and splits it into its even and its odd rows."""
        source_name, _, _ = self._locate(name, shape)
        tensor = self._checked(source_name, dtype, shape)
        return self._use(Deinterleave(tensor, tensor.nbytes // math.prod(shape[:2])))

    def dense(self, name: str, shape: Shape, num_weights: int) -> DenseExperts:
        """Reads a fine-tune's experts (experts, columns, rows), whose rows belong to `num_weights` weights in turn."""
        return self._use(DenseExperts(self._checked(name, "BF16", shape), num_weights))

    def check_all_used(self) -> None:
        """Raises CheckpointError for a tensor that no transform uses."""
        for name, tensor in self.source.tensors.items():
            if name not in self._used:
                raise CheckpointError(
                    f"{tensor.file}: tensor {name} is unknown: use a plain gpt-oss model, which has none of that name"
                )
            nbytes = _as_bfloat16(tensor).nbytes if tensor.dtype in ROUNDED else tensor.nbytes
            assert self._used[name] == nbytes, f"{name}: {self._used[name]=} of {nbytes}"

    def _use(self, transform: _Use) -> _Use:
        self._used[transform.source.name] += transform.nbytes
        return transform

    def _locate(self, name: str, shape: Shape) -> tuple[str, int, Shape]:
        """(name in the source, first row in that tensor, shape of that tensor) for a Hugging Face name and shape."""
        if self.source.layout not in (OPENAI, METAL):
            return name, 0, shape
        if name in _OPENAI_TOP:
            return _OPENAI_TOP[name], 0, shape
        _, _, layer, rest = name.split(".", 3)
        source_name = f"block.{layer}.{_OPENAI_LAYER[rest]}"
        if ".qkv." not in source_name:
            return source_name, 0, shape
        rows = [heads * self.source.config.head_dim for heads in self.source.config.qkv_heads]
        position = "qkv".index(rest.removeprefix("self_attn.")[0])
        return source_name, sum(rows[:position]), (sum(rows), *shape[1:])

    def _checked(self, name: str, dtype: str, shape: Shape) -> TensorInfo:
        tensor = self.source.tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"{self.source.folder}: tensor {name} is missing: download the checkpoint again")
        if tensor.shape != shape:
            raise CheckpointError(
                f"{tensor.file}: tensor {name} has shape {tensor.shape}, but config.json requires {shape}: check that "
                "both files belong to the same model"
            )
        if dtype == "BF16" and tensor.dtype in ROUNDED:
            return _as_bfloat16(tensor)
        if tensor.dtype != dtype:
            raise CheckpointError(
                f"{tensor.file}: tensor {name} has dtype {tensor.dtype}, expected {dtype}: use a released checkpoint "
                "or a fine-tune in bfloat16, float16 or float32"
            )
        return tensor


def _as_bfloat16(tensor: TensorInfo) -> Rounded:
    return Rounded(tensor.name, tensor.file, "BF16", tensor.shape, tensor.start, tensor.end, tensor.dtype)
