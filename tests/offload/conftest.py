"""Models whose experts stay on disk, at every budget and with every kind of routing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_oss.convert import convert
from tests.conftest import SHAPES
from tests.synthetic import TINY, write_checkpoint

# As many experts as the releases have.
MANY = {
    "32 experts": TINY | {"num_hidden_layers": 2, "num_local_experts": 32, "num_experts_per_tok": 4},
    "128 experts": TINY
    | {"num_hidden_layers": 2, "num_local_experts": 128, "num_experts_per_tok": 4, "hidden_size": 64}
    | {"intermediate_size": 32, "vocab_size": 310},
}
ROUTINGS = ("random", "skewed")


def dims(shape: str) -> dict[str, int]:
    return (SHAPES | MANY)[shape]


def skew(folder: Path) -> None:
    """Every second layer sends nearly all tokens to the same experts, the others to two groups of them."""
    file = folder / "model-00001-of-00001.safetensors"
    tensors = mx.load(str(file))
    assert isinstance(tensors, dict)
    for name in [name for name in tensors if name.endswith("router.bias")]:
        experts = tensors[name].shape[0]
        step = 1 if ".0." in name else 2
        tensors[name] = mx.where(mx.arange(experts) % step == 0, 8.0 - mx.arange(experts), 0).astype(mx.bfloat16)
    mx.eval(tensors)
    mx.save_safetensors(str(file), tensors)


@pytest.fixture(scope="session")
def routed(tmp_path_factory) -> Callable[[str, str], Path]:
    """routed(shape, routing): an MLX folder. Not to be changed: others read it."""
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


@pytest.fixture
def copied(routed, tmp_path) -> Path:
    """A folder of its own, to be damaged."""
    return Path(shutil.copytree(routed("32 experts"), tmp_path / "model"))


def weights_file(folder: Path) -> Path:
    """The file that holds the experts."""
    (name,) = set(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"].values())
    return folder / name
