"""Measures how much the profiles for weights outside the experts change the logits of random weights, for the README.

    python -m tests.bench_profiles

Compares the logits and next-token distribution of each profile with those of the lossless folder. Random weights have
no structure that rounding could preserve or damage, so this shows the size of the rounding error and says nothing about
the quality of a real model.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import mlx.core as mx

from mlx_oss import load_model
from mlx_oss.convert import ConvertOptions, convert
from tests.synthetic import write_checkpoint

SHAPE = {
    "num_hidden_layers": 8,
    "num_local_experts": 16,
    "num_experts_per_tok": 4,
    "vocab_size": 4096,
    "hidden_size": 576,
    "intermediate_size": 512,
    "num_attention_heads": 12,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "sliding_window": 128,
}


def logits_of(folder: Path) -> mx.array:
    tokens = mx.random.randint(0, SHAPE["vocab_size"], (1, 256), key=mx.random.key(7))
    logits = load_model(folder, dtype="float32")(tokens)[0]
    mx.eval(logits)
    return logits


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        source = write_checkpoint(work / "release", SHAPE, layout="hf")
        exact = None
        for profile in ("bf16", "q8", "q4"):
            convert(source, work / profile, ConvertOptions(profile=profile))
            logits = logits_of(work / profile)
            exact = logits if exact is None else exact
            error = mx.linalg.norm(logits - exact) / mx.linalg.norm(exact)
            p, q = (x - mx.logsumexp(x, -1, keepdims=True) for x in (exact, logits))
            divergence = (mx.exp(p) * (p - q)).sum(-1).mean()
            sys.stdout.write(
                f"{profile}: relative error of logits {error.item():.2e}, KL {divergence.item():.2e} nats\n"
            )


if __name__ == "__main__":
    main()
