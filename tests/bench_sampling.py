"""What choosing a token costs, by option and by distribution: `python -m tests.bench_sampling [TOKENS]`.

Medians, in milliseconds for each token, of everything that a step does besides the model, for 201,088 logits.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_oss import SamplingOptions
from mlx_oss.backend.host_memory import keep_freed_memory
from mlx_oss.generation.generate import decode
from mlx_oss.generation.token_picker import TokenPicker
from mlx_oss.tokenizer import LAST_TEXT_ID, N_VOCAB

RNG = np.random.default_rng(0)
IDS = LAST_TEXT_ID + 1
DISTRIBUTIONS = {
    "peaked": RNG.normal(0, 2, N_VOCAB) + np.where(np.arange(N_VOCAB) % 50_000 == 7, 25, 0),
    "wide": RNG.normal(0, 3, N_VOCAB),
    "narrow": RNG.normal(0, 1e-3, N_VOCAB),
    "flat": np.zeros(N_VOCAB),
    "sorted": np.linspace(9, -9, N_VOCAB),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "temperature 1": {},
    "temperature 0.7": {"temperature": 0.7},
    "top_k 1": {"top_k": 1},
    "top_k 40": {"top_k": 40},
    "top_k 100,000": {"top_k": 100_000},
    "min_p 0.05": {"min_p": 0.05},
    "top_p 0.5": {"top_p": 0.5},
    "top_p 0.95": {"top_p": 0.95},
    "top_p 0.999": {"top_p": 0.999},
    "temperature 0.7, all three": {"temperature": 0.7, "top_k": 100_000, "min_p": 1e-4, "top_p": 0.95},
    "repetition penalty": {"repetition_penalty": 1.1},
    "300 biases": {"logit_bias": {7 * number: 1.0 for number in range(300)}},
    "log-probability": {"logprobs": True},
    "20 alternatives": {"logprobs": True, "top_logprobs": 20},
    "all of these": {
        **{"temperature": 0.7, "top_k": 100_000, "min_p": 1e-4, "top_p": 0.95, "repetition_penalty": 1.1},
        **{"logit_bias": {7 * number: 1.0 for number in range(300)}, "logprobs": True, "top_logprobs": 20},
    },
}
MASKS = {
    "a mask of 100 ids": RNG.permutation(IDS) < 100,
    "a mask of half the ids": RNG.random(IDS) < 0.5,
    "a mask of all but 100 ids": RNG.permutation(IDS) >= 100,
}


class Constant:
    """A model whose logits are always the same."""

    def __init__(self, logits: np.ndarray) -> None:
        self._logits = mx.array(logits.astype(np.float32)[None, None])
        mx.eval(self._logits)

    def logits(self, last: mx.array) -> mx.array:
        return self._logits

    def hidden(self, tokens: mx.array, cache: object) -> mx.array:
        return tokens[..., None].astype(mx.float32)


class Mask:
    """A constraint that always allows the same ids."""

    def __init__(self, mask: np.ndarray) -> None:
        self._mask = mask

    def allowed(self) -> np.ndarray:
        return self._mask

    def accept(self, token: int) -> None:
        pass


def milliseconds(distribution: np.ndarray, tokens: int, mask: np.ndarray | None = None, **options: Any) -> float:
    """Median time of a token."""
    model: Any = Constant(distribution)
    constraint = None if mask is None else Mask(mask)
    added = options.pop("added_ids", ())
    picker = TokenPicker(SamplingOptions(**{"logprobs": False, "seed": 0} | options), 0, [1], constraint, added)
    steps = decode(model, mx.zeros((1, 1, 1)), model, picker, limit=tokens + 1, stop_ids=())
    next(steps)
    times = []
    for _ in range(tokens):
        start = time.perf_counter()
        next(steps)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def main(tokens: int) -> None:
    keep_freed_memory()  # as `load` does
    print(f"{'ms':28}" + "".join(f"{name:>8}" for name in DISTRIBUTIONS))
    cases = OPTIONS | {name: {"mask": mask} for name, mask in MASKS.items()}
    for name, options in (cases | {"an added id": {"added_ids": (IDS + 1000,)}}).items():
        figures = (milliseconds(distribution, tokens, **options) for distribution in DISTRIBUTIONS.values())
        print(f"{name:28}" + "".join(f"{figure:8.2f}" for figure in figures), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
