"""Fixtures for all tests: tiny models with pairwise different dimensions, converted by the real converter."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_oss.backend import device
from mlx_oss.convert import convert
from tests.gpu_branch import sitecustomize as gpu_branch
from tests.shapes import SHAPES, dims, skew
from tests.synthetic import write_checkpoint


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--gpu-branch",
        choices=("float32", "bfloat16"),
        help="run the tests as on a GPU with activations of this dtype, although MLX may compute on its CPU backend",
    )


def pytest_configure(config: pytest.Config) -> None:
    if dtype := config.getoption("--gpu-branch"):
        gpu_branch.take(device, dtype)
        folders = [str(Path(gpu_branch.__file__).parent), os.environ.get("PYTHONPATH")]
        os.environ |= {gpu_branch.VARIABLE: dtype, "PYTHONPATH": os.pathsep.join(filter(None, folders))}


@pytest.fixture(scope="session", params=SHAPES)
def shape(request: pytest.FixtureRequest) -> str:
    """The name of one of SHAPES."""
    return request.param


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """release(shape, layout): the folder of a random checkpoint, which is written once."""
    made: dict[tuple[str, str], Path] = {}

    def get(shape: str = "tiny", layout: str = "hf") -> Path:
        if (shape, layout) not in made:
            folder = tmp_path_factory.mktemp("release") / layout
            made[shape, layout] = write_checkpoint(folder, SHAPES[shape], layout=layout)
        return made[shape, layout]

    return get


@pytest.fixture(scope="session")
def folder(release: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """folder(shape, layout): the same checkpoint as an MLX folder. Tests share it, so they must not change it."""
    made: dict[tuple[str, str], Path] = {}

    def get(shape: str = "tiny", layout: str = "hf") -> Path:
        if (shape, layout) not in made:
            target = tmp_path_factory.mktemp("mlx") / "model"
            convert(release(shape, layout), target)
            made[shape, layout] = target
        return made[shape, layout]

    return get


@pytest.fixture(scope="session")
def routed(tmp_path_factory) -> Callable[[str, str], Path]:
    """routed(shape, routing): an MLX folder. Tests share it, so they must not change it."""
    made: dict[tuple[str, str], Path] = {}

    def get(shape: str, routing: str = "random") -> Path:
        if (shape, routing) not in made:
            base = tmp_path_factory.mktemp("routed")
            convert(write_checkpoint(base / "release", dims(shape)), base / "model")
            if routing == "skewed":
                skew(base / "model")
            made[shape, routing] = base / "model"
        return made[shape, routing]

    return get
