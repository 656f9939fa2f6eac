"""The way of a fine-tuner: our folder, trained with mlx_lm.lora, fused with mlx_lm.fuse, opened here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_oss
from mlx_oss.convert import convert
from mlx_oss.model.rope import inverse_frequencies
from tests.convert.test_metal import WHOLE
from tests.synthetic import write_checkpoint

pytestmark = pytest.mark.parity
pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra `parity`)")

SMALL = WHOLE | {"hidden_size": 64, "intermediate_size": 64}


def run(folder: Path, command: str, *arguments: str) -> None:
    """Runs a command of mlx-lm in a folder."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mlx_lm", command, "--model", "ours", "--adapter-path", "adapter", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with `ours`, made of OpenAI's layout, the `adapter` that was trained on it, and both `fused`."""
    base = tmp_path_factory.mktemp("round-trip")
    convert(write_checkpoint(base / "release", SMALL, layout="original"), base / "ours")
    (base / "data").mkdir()
    for name in ("train", "valid"):
        lines = (json.dumps({"text": f"The number is {number}."}) for number in range(4))
        (base / "data" / f"{name}.jsonl").write_text("\n".join(lines))
    training = "--train --data data --iters 2 --batch-size 1 --num-layers 2 --val-batches 1 --learning-rate 1e-2"
    run(base, "lora", *training.split())
    run(base, "fuse", "--save-path", "fused")
    return base


def test_the_fused_folder_opens_here_and_computes_as_in_mlx_lm(trained):
    """With our rotary frequencies in both, because mlx-lm rounds YaRN's range."""
    from mlx_lm.utils import load_model

    tokens = mx.array(np.random.default_rng(3).integers(0, 199_998, (1, 20)))
    fused, ours = (mlx_oss.load_model(trained / name, dtype="float32") for name in ("fused", "ours"))
    theirs, _ = load_model(trained / "fused")
    theirs.set_dtype(mx.float32)
    c = fused.transformer.config
    for layer in theirs.layers:
        layer.self_attn.rope._freqs = mx.array(
            (1 / inverse_frequencies(c.head_dim, c.rope_theta, c.rope_scaling)).astype("float32")
        )
    logits = fused(tokens)
    assert mx.abs(logits - theirs(tokens)).max().item() < 1e-4
    assert mx.abs(logits - ours(tokens)).max().item() > 1e-2  # it was trained


def test_the_fused_folder_answers_in_a_chat(trained):
    session = mlx_oss.ChatSession(*mlx_oss.load(trained / "fused"), max_tokens=5)
    assert session.ask("Hello").usage.generated_tokens == 5


def test_the_experts_were_trained_too(trained):
    names = mx.load(str(trained / "adapter" / "adapters.safetensors"))
    assert any("mlp.experts" in name for name in names) and any("self_attn" in name for name in names)
