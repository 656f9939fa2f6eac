"""Fixtures shared by all tests: tiny models in pairwise distinct dimensions, converted by the real converter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_oss.convert import convert
from tests.synthetic import TINY, write_checkpoint

# Four shapes; in each, all dimensions that could be taken for one another differ.
SHAPES = {
    "tiny": TINY,
    "one kv head": TINY
    | {"num_hidden_layers": 4, "num_local_experts": 8, "num_experts_per_tok": 4, "vocab_size": 517, "hidden_size": 64}
    | {
        "intermediate_size": 128,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 24,
        "sliding_window": 17,
    },
    "head size as released": TINY
    | {"num_hidden_layers": 2, "num_local_experts": 6, "num_experts_per_tok": 2, "vocab_size": 389, "hidden_size": 160}
    | {
        "intermediate_size": 96,
        "num_attention_heads": 10,
        "num_key_value_heads": 5,
        "head_dim": 64,
        "sliding_window": 128,
    },
    "every expert": TINY
    | {"num_hidden_layers": 3, "num_local_experts": 4, "num_experts_per_tok": 4, "vocab_size": 271, "hidden_size": 224}
    | {
        "intermediate_size": 32,
        "num_attention_heads": 14,
        "num_key_value_heads": 7,
        "head_dim": 16,
        "sliding_window": 9,
    },
}


@pytest.fixture(scope="session", params=SHAPES)
def shape(request: pytest.FixtureRequest) -> str:
    """The name of one of SHAPES."""
    return request.param


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """release(shape, layout): the folder of a random checkpoint, written once."""
    made: dict[tuple[str, str], Path] = {}

    def get(shape: str = "tiny", layout: str = "hf") -> Path:
        if (shape, layout) not in made:
            folder = tmp_path_factory.mktemp("release") / layout
            made[shape, layout] = write_checkpoint(folder, SHAPES[shape], layout=layout)
        return made[shape, layout]

    return get


@pytest.fixture(scope="session")
def folder(release: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """folder(shape, layout): the same checkpoint as an MLX folder. Not to be changed: others read it."""
    made: dict[tuple[str, str], Path] = {}

    def get(shape: str = "tiny", layout: str = "hf") -> Path:
        if (shape, layout) not in made:
            target = tmp_path_factory.mktemp("mlx") / "model"
            convert(release(shape, layout), target)
            made[shape, layout] = target
        return made[shape, layout]

    return get
