"""Fixtures for all tests: tiny models with pairwise different dimensions, converted by the real converter."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlx_oss.backend import device
from mlx_oss.convert import convert
from tests.gpu_branch import sitecustomize as gpu_branch
from tests.hub import Hub
from tests.shapes import SHAPES, dims, skew
from tests.synthetic import write_checkpoint


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--gpu-branch",
        choices=("float32", "bfloat16"),
        help="run the tests as on a GPU with activations of this dtype, although MLX may compute on its CPU backend",
    )
    parser.addoption("--long", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        for item in items:
            if "long" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes minutes: --long"))


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # tests collect garbage often, and need not look at all modules each time


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


@pytest.fixture(scope="session")
def published(release, folder, tmp_path_factory) -> dict[str, Path]:
    """Repositories by name. Tests share their files, so they must not change them."""
    base = tmp_path_factory.mktemp("hub")
    both = base / "both"
    shutil.copytree(release("tiny", "hf_sharded"), both)
    shutil.copytree(release("tiny", "original"), both / "original")
    shutil.copytree(release("tiny", "metal"), both / "metal")
    (both / "README.md").write_text("# A model\n")
    only_original = base / "only"
    shutil.copytree(release("tiny", "original"), only_original / "original")
    no_weights = base / "gguf"
    no_weights.mkdir()
    (no_weights / "model.gguf").write_bytes(b"GGUF")
    return {
        "openai/gpt-oss-20b": both,
        "somebody/original": only_original,
        "somebody/fine-tune": release("tiny", "bf16"),
        "mlx-community/gpt-oss-20b-MXFP4": folder("tiny"),
        "somebody/gguf": no_weights,
    }


@pytest.fixture(scope="session")
def state_folders(tmp_path_factory) -> Iterator[Path]:
    """New folders. (`mktemp` for each test would list those of all others, to find a new number.)"""
    base = tmp_path_factory.mktemp("state")
    return (base / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def state_folder(monkeypatch, state_folders) -> Path:
    """The user's state folder, with conversations and the history: empty for each test."""
    folder = next(state_folders)
    folder.mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    return folder / "mlx-oss"


@pytest.fixture
def hub(published, monkeypatch, tmp_path) -> Iterator[Hub]:
    """The Hub, which the environment names; the user's caches are empty."""
    with Hub(dict(published)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("MLX_OSS_CACHE", str(tmp_path / "ours"))
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server
