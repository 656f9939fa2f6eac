"""Hugging Face's layout, of the releases and of fine-tunes: gate and up are one tensor in which their rows alternate.

Everything outside the experts has its canonical name. The experts of a release are MXFP4: blocks of 16 bytes hold 32
values, and the same bytes are four words of MLX's packed weight. A fine-tune may have them in floats instead.
"""

from __future__ import annotations

from mlx_oss.config import ModelConfig
from mlx_oss.weights.layouts.description import Dense, Layout, Location
from mlx_oss.weights.mxfp4 import BLOCK
from mlx_oss.weights.names import Shape, is_expert

_SUFFIXES = {"weight": "_blocks", "scales": "_scales", "bias": "_bias"}
_WORD = 8  # values in a word of a packed weight


def locate(name: str, dtype: str | None, shape: Shape, config: ModelConfig) -> Location:
    """Where a canonical tensor is stored, as for `Layout.locate`."""
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
    experts, rows, columns = shape
    columns *= _WORD if suffix == "weight" else BLOCK
    return Location(tensor, (experts, columns, step * rows), None, first, step, change=Dense())


def _projection(path: str) -> tuple[str, int, int]:
    """(tensor that contains a projection, its first row there, distance between its rows): even rows are gate."""
    parent, _, projection = path.rpartition(".")
    if projection == "down_proj":
        return path, 0, 1
    return f"{parent}.gate_up_proj", ("gate_proj", "up_proj").index(projection), 2


HUGGING_FACE = Layout("Hugging Face", locate, dtype="BF16")
DENSE = Layout(
    "Hugging Face, experts not quantised",
    _locate_dense,
    dtype="BF16",
    must_convert="its experts are not quantised, and the model computes them in MXFP4",
)
