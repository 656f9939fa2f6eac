"""Hugging Face's layout, of the releases and of fine-tunes. Everything outside the experts has its canonical name.

The experts of a release are MXFP4: blocks of 16 bytes hold 32 values, and the same bytes are four words of MLX's packed
weight. A fine-tune may have them in floats instead, and each expert in tensors of its own. So every tensor of a layer
is looked for in four places, where N is the number of an expert:

    experts.gate_up_proj_blocks, ..._scales, ..._bias   MXFP4; rows of gate and up alternate
    experts.gate_up_proj                                floats, transposed; columns of gate and up alternate
    experts.gate_up_projs.N.weight, ....N.bias          floats, a layer for each expert; rows of gate and up alternate
    experts.N.gate_proj.weight, experts.N.gate_proj.bias   floats, two layers for each expert
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from mlx_oss.config import ModelConfig
from mlx_oss.weights.layouts.description import Dense, Layout, Location
from mlx_oss.weights.mxfp4 import BLOCK
from mlx_oss.weights.names import Shape, is_expert

NAME = "Hugging Face"
_SUFFIXES = {"weight": "_blocks", "scales": "_scales", "bias": "_bias"}
_WORD = 8  # values in a word of a packed weight


def locate(name: str, dtype: str | None, shape: Shape, config: ModelConfig) -> Location:
    """Where a release stores a canonical tensor, as for `Layout.locate`."""
    if not is_expert(name):
        return Location(name, shape, dtype)
    path, _, suffix = name.rpartition(".")
    tensor, first, step = _projection(path)
    experts, rows, *columns = shape
    if suffix == "weight":
        columns = [columns[0] * _WORD // BLOCK, BLOCK // 2]
    stored_dtype = None if suffix == "bias" else "U8"
    return Location(tensor + _SUFFIXES[suffix], (experts, step * rows, *columns), stored_dtype, first, step)


def _locate_dense(name: str, dtype: str | None, shape: Shape, config: ModelConfig) -> Location:
    path, _, suffix = name.rpartition(".")
    if not is_expert(name) or suffix == "bias":
        return locate(name, dtype, shape, config)
    tensor, first, step = _projection(path)
    experts, rows, columns = shape[0], shape[1], _columns(suffix, shape)
    return Location(tensor, (experts, *columns, step * rows), None, first, step, change=Dense())


def _locate_layers(name: str, dtype: str | None, shape: Shape, config: ModelConfig) -> Location:
    path, _, suffix = name.rpartition(".")
    tensor, first, step = _projection(path)
    stored = (step * shape[1], *_columns(suffix, shape))
    return _of_each_expert(f"{tensor}s.{{}}", suffix, stored, first, step)


def _locate_projections(name: str, dtype: str | None, shape: Shape, config: ModelConfig) -> Location:
    path, _, suffix = name.rpartition(".")
    parent, _, projection = path.rpartition(".")
    return _of_each_expert(f"{parent}.{{}}.{projection}", suffix, (shape[1], *_columns(suffix, shape)))


def _of_each_expert(module: str, suffix: str, shape: Shape, first: int = 0, step: int = 1) -> Location:
    stored, change = ("bias", None) if suffix == "bias" else ("weight", Dense(transposed=False))
    return Location(f"{module}.{stored}", shape, None, first, step, by_expert=True, change=change)


def _columns(suffix: str, shape: Shape) -> Shape:
    """The columns of the floats that a canonical tensor of this shape is made of; none for a bias."""
    return () if suffix == "bias" else (shape[2] * (_WORD if suffix == "weight" else BLOCK),)


def _projection(path: str) -> tuple[str, int, int]:
    """(tensor that contains a projection, its first row there, distance between its rows): even rows are gate."""
    parent, _, projection = path.rpartition(".")
    if projection == "down_proj":
        return path, 0, 1
    return f"{parent}.gate_up_proj", ("gate_proj", "up_proj").index(projection), 2


_Locate = Callable[[str, str | None, Shape, ModelConfig], Location]
_PLACES: tuple[_Locate, ...] = (locate, _locate_dense, _locate_layers, _locate_projections)
HUGGING_FACE = Layout(NAME, locate, dtype="BF16")


def layout_of(names: Collection[str]) -> Layout:
    """Hugging Face's layout with the experts as the tensors of a folder have them, which may differ between layers."""
    if not any(".experts." in name and not name.endswith(("_blocks", "_scales", "_bias")) for name in names):
        return HUGGING_FACE
    some = any(name.endswith("_blocks") for name in names)
    return Layout(
        f"{NAME}, {'some ' if some else ''}experts not quantised",
        partial(_located, names),
        dtype="BF16",
        must_convert=f"{'some of ' if some else ''}its experts are not quantised, and in another order than in memory",
    )


def _located(names: Collection[str], name: str, dtype: str | None, shape: Shape, config: ModelConfig) -> Location:
    """Where a canonical tensor is stored. If it is in none of the places, where a release stores it."""
    if not is_expert(name):
        return locate(name, dtype, shape, config)
    places = [place(name, dtype, shape, config) for place in _PLACES]
    found = [place for place in places if place.name_of(0) in names]
    return found[0] if found else places[0]
