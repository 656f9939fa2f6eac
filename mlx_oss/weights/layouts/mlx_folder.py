"""MLX folders: every canonical tensor is stored under its own name, as it is."""

from __future__ import annotations

from mlx_oss.config import ModelConfig
from mlx_oss.weights.layouts.description import Layout, Location
from mlx_oss.weights.names import Shape


def _locate(name: str, dtype: str | None, shape: Shape, config: ModelConfig) -> Location:
    return Location(name, shape, dtype)


MLX = Layout("MLX", _locate)
