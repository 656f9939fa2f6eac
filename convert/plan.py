"""What is written: every tensor of the MLX folder with the recipe for its bytes, every source tensor used exactly once.

Layouts differ in names and in how rows are joined; both are tables here. `mlx_oss.layout` says what the folder must
hold. Nothing is read but headers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from mlx_oss import layout
from mlx_oss.config import MXFP4, ModelConfig
from mlx_oss.errors import CheckpointError
from mlx_oss.layout import Shape
from mlx_oss.mxfp4 import BLOCK
from mlx_oss.tensorfile import ITEMSIZE, TensorInfo

from .recipes import EverySecond, Recipe, Scales, Span
from .source import OPENAI, Source

# Hugging Face's name -> OpenAI's, below `model.layers.N.` and `block.N.`; q, k and v are rows of one tensor there.
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

_Piece = TypeVar("_Piece", Span, EverySecond)


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor to write; dtype is safetensors' name."""

    name: str
    dtype: str
    shape: Shape
    recipe: Recipe

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


def plan(source: Source) -> list[list[Target]]:
    """Every tensor of the MLX folder in the order of use, in units that stay together in a shard: a layer, or a tensor
    outside the layers.

    Raises CheckpointError for a tensor that is missing, unknown, or of another shape or dtype than the config says.
    """
    taken = _Taken(source)
    units: dict[str, list[Target]] = {}
    for target in _targets(source.config, taken):
        layer = target.name.split(".")[2] if target.name.startswith("model.layers.") else target.name
        units.setdefault(layer, []).append(target)
    taken.check_all_used()
    return list(units.values())


def _targets(config: ModelConfig, taken: _Taken) -> Iterator[Target]:
    for path, shape, bias in layout.modules(config):
        if layout.is_expert(path):
            yield from _expert(path, shape, taken)
            continue
        yield _copy(f"{path}.weight", shape, taken)
        if bias is not None:
            yield _copy(f"{path}.bias", bias, taken)
    for name, shape in layout.plain_tensors(config).items():
        yield _copy(name, shape, taken)


def _copy(name: str, shape: Shape, taken: _Taken) -> Target:
    return Target(name, "BF16", shape, taken.whole(name, "BF16", shape))


def _expert(path: str, shape: Shape, taken: _Taken) -> Iterator[Target]:
    """One projection's weight, scales and bias; gate is every even row of the released gate_up, up every odd one."""
    experts, rows, columns = shape
    prefix, projection = path.rsplit(".", 1)
    groups = columns // BLOCK
    stored = layout.stored_tensors(path, shape, (experts, rows), MXFP4)
    for part, dtype, tail in (
        ("blocks", "U8", (groups, BLOCK // 2)),
        ("scales", "U8", (groups,)),
        ("bias", "BF16", ()),
    ):
        recipe: Span | EverySecond
        if projection == "down_proj":
            recipe = taken.whole(f"{prefix}.down_proj_{part}", dtype, (experts, rows, *tail))
        else:
            first = ("gate_proj", "up_proj").index(projection)
            recipe = taken.every_second(f"{prefix}.gate_up_proj_{part}", dtype, (experts, 2 * rows, *tail), first)
        name = f"{path}.{'weight' if part == 'blocks' else part}"
        if part == "scales":
            yield Target(name, dtype, stored[name], Scales(recipe))
        else:
            yield Target(name, "U32" if part == "blocks" else dtype, stored[name], recipe)


class _Taken:
    """Source tensors by their Hugging Face name, whatever the layout; remembers how much of each was taken."""

    def __init__(self, source: Source):
        self.source = source
        self.bytes_taken: Counter[str] = Counter()

    def whole(self, name: str, dtype: str, shape: Shape) -> Span:
        """A tensor's bytes; where the layout joins it with others, its rows among theirs."""
        found, start, full = self._locate(name, shape)
        tensor = self._checked(found, dtype, full)
        row = tensor.nbytes // full[0]
        return self._take(Span(tensor, start * row, (start + shape[0]) * row))

    def every_second(self, name: str, dtype: str, shape: Shape, first: int) -> EverySecond:
        """Rows first, first + 2, ... of a tensor (experts, rows, ...)."""
        found, _, _ = self._locate(name, shape)
        tensor = self._checked(found, dtype, shape)
        return self._take(EverySecond(tensor, first, tensor.nbytes // math.prod(shape[:2])))

    def check_all_used(self) -> None:
        for name, tensor in self.source.tensors.items():
            if name not in self.bytes_taken:
                raise CheckpointError(f"{tensor.file}: tensor {name} is unknown: no plain gpt-oss model has it")
            assert self.bytes_taken[name] == tensor.nbytes, f"{name}: {self.bytes_taken[name]=} of {tensor.nbytes}"

    def _take(self, recipe: _Piece) -> _Piece:
        self.bytes_taken[recipe.source.name] += recipe.nbytes
        return recipe

    def _locate(self, name: str, shape: Shape) -> tuple[str, int, Shape]:
        """(name in the source, first row there, shape there) of the tensor with this Hugging Face name and shape."""
        if self.source.layout != OPENAI:
            return name, 0, shape
        if name in _OPENAI_TOP:
            return _OPENAI_TOP[name], 0, shape
        _, _, layer, rest = name.split(".", 3)
        found = f"block.{layer}.{_OPENAI_LAYER[rest]}"
        if ".qkv." not in found:
            return found, 0, shape
        rows = [heads * self.source.config.head_dim for heads in self.source.config.qkv_heads]
        before = "qkv".index(rest.removeprefix("self_attn.")[0])
        return found, sum(rows[:before]), (sum(rows), *shape[1:])

    def _checked(self, name: str, dtype: str, shape: Shape) -> TensorInfo:
        tensor = self.source.tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"{self.source.folder}: tensor {name} is missing: fetch the checkpoint again")
        if tensor.shape != shape:
            raise CheckpointError(
                f"{tensor.file}: tensor {name} has shape {tensor.shape}, config.json asks for {shape}: "
                "are both of one model?"
            )
        if tensor.dtype != dtype:
            raise CheckpointError(
                f"{tensor.file}: tensor {name} is {tensor.dtype}, expected {dtype}: give a released checkpoint"
            )
        return tensor
