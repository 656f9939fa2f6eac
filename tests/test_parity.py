"""Against what others compute: transformers in float32 for the mathematics, mlx-lm for the folder format."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss import load_model
from tests import reference
from tests.conftest import SHAPES
from tests.reference import Tensors, read_release

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def hugging_face_model(folder: Path, tensors: Tensors):
    """transformers' model in float32 on a checkpoint's dequantised tensors; its experts are stored transposed."""
    raw = json.loads((folder / "config.json").read_text())
    for key in ("quantization_config", "pad_token_id", "eos_token_id"):
        raw.pop(key)
    config = transformers.GptOssConfig(**raw, attn_implementation="eager")
    model = transformers.GptOssForCausalLM(config).float().eval()
    transposed = ("experts.gate_up_proj", "experts.down_proj")
    state = {n: torch.tensor(a.swapaxes(1, 2) if n.endswith(transposed) else a) for n, a in tensors.items()}
    model.load_state_dict(state, strict=True)
    return model


def tokens_of(shape: str, count: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, SHAPES[shape]["vocab_size"], (1, count))


def test_logits_equal_transformers_over_300_positions(shape, release, folder):
    tokens = tokens_of(shape, 300)
    with torch.no_grad():
        expected = hugging_face_model(release(shape), read_release(release(shape)))(torch.tensor(tokens)).logits
    for layout in ("hf", "original"):
        ours = load_model(folder(shape, layout), dtype="float32")(mx.array(tokens))
        assert np.abs(np.array(ours) - expected.numpy()).max() < 1e-4


def test_logits_equal_transformers_at_position_100000(shape, release, folder, monkeypatch):
    """Equal to what the rounding of the angle allows, measured on the float64 reference.

    An angle a = position * frequency carries, in float32, a relative error of 2^-24 for the product and of at most
    3 * 2^-24 for the frequency (whose reciprocal is stored, and its reciprocal taken): 2^-22 a in all, on either side.
    The allowed difference is twice the largest of eight draws of how logits move when every angle is off by that much.
    """
    first, tokens = 100_000, tokens_of(shape, 40)
    tensors = read_release(release(shape))
    with torch.no_grad():
        positions = torch.arange(first, first + tokens.shape[1])[None]
        theirs = hugging_face_model(release(shape), tensors)(torch.tensor(tokens), position_ids=positions).logits
    rope = mx.fast.rope
    monkeypatch.setattr(mx.fast, "rope", lambda x, d, *, offset, **k: rope(x, d, offset=offset + first, **k))
    model = load_model(folder(shape), dtype="float32")
    ours = np.array(model(mx.array(tokens)))
    exact = reference.logits(model.config, tensors, tokens[0], first)
    rng = np.random.default_rng(11)
    moved = [
        reference.logits(
            model.config, tensors, tokens[0], first, lambda a: a * (1 + 2**-22 * rng.choice((-1, 1), a.shape))
        )
        for _ in range(8)
    ]
    allowed = 2 * max(np.abs(logits - exact).max() for logits in moved)
    assert np.abs(ours - exact).max() < allowed
    assert np.abs(ours - theirs.numpy()).max() < 2 * allowed
