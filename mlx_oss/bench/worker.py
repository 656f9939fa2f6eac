"""One measurement of one engine, in a process of its own: `python -m mlx_oss.bench.worker JSON`.

A process each, so that load time and peak memory are the engine's alone, and two engines never share a machine's
memory. Prints a Sample as JSON; an error as one line on stderr, with exit status 2.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

Ids = Iterator[int]
# generate(prompt, tokens of answer), and what else is known
Engine = tuple[Callable[[list[int], int], Ids], Callable[[], dict[str, object]]]
Options = dict[str, Any]  # of mlx_oss.load_model
Load = Callable[[Path, Options], Engine]
WARM_UP = 4  # tokens of prompt and of answer before the clock starts: kernels are built, weights are read once


def main(argument: str) -> int:
    from mlx_oss.errors import MlxOssError

    asked = json.loads(argument)
    try:
        sample = measure(asked["engine"], Path(asked["folder"]), asked["lengths"], asked["tokens"], asked["options"])
    except (MlxOssError, ImportError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps(sample))
    return 0


def measure(engine: str, folder: Path, lengths: list[int], tokens: int, options: Options) -> dict[str, object]:
    """Loads with the options, then for each length: prefills so many tokens and decodes `tokens` greedily. No lengths:
    loads alone. Times are in seconds.
    """
    started = time.perf_counter()
    load = ENGINES[engine]()
    imported = time.perf_counter()
    generate, facts = load(folder, options)
    done = time.perf_counter()
    from mlx_oss.backend.host_memory import peak_resident_bytes

    loading: dict[str, object] = {"imports": imported - started, "load": done - imported}
    loading["loaded"] = peak_resident_bytes()
    if not lengths:
        return loading
    first = _timed(generate(_prompt(WARM_UP, shift=1), WARM_UP))[0]
    runs = {}
    for length in lengths:
        prefill, decode, ids = _timed(generate(_prompt(length), tokens))
        runs[str(length)] = {"prefill": prefill, "decode": decode / (tokens - 1), "ids": ids}
    return {**loading, "first": first, "resident": peak_resident_bytes(), "lengths": runs, **facts()}


def _prompt(length: int, shift: int = 0) -> list[int]:
    """Ids spread over the vocabulary, the same in every run."""
    return [(7919 * (n + shift) + 1) % 199_998 for n in range(length)]


def _timed(ids: Ids) -> tuple[float, float, list[int]]:
    """Seconds to the first id and from there to the last; the ids."""
    started = time.perf_counter()
    made = [next(ids)]
    first = time.perf_counter()
    made.extend(ids)
    return first - started, time.perf_counter() - first, made


def _ours() -> Load:
    from mlx_oss.backend.blas import prefer_fast_blas

    blas = prefer_fast_blas()  # before the imports below, which load MLX
    from mlx_oss.backend.device import device_name
    from mlx_oss.bench.kernels import bytes_per_token, kernels_per_layer
    from mlx_oss.errors import OptionError
    from mlx_oss.generation.generate import generate_step
    from mlx_oss.generation.sampling import SamplingOptions
    from mlx_oss.loader import load_model
    from mlx_oss.offload import offload_stats

    def load(folder: Path, options: Options) -> Engine:
        model = load_model(folder, **options)
        vocabulary = model.config.vocab_size

        def generate(prompt: list[int], tokens: int) -> Ids:
            if len(prompt) + tokens > (most := model.context):
                raise OptionError(f"{len(prompt)} tokens and {tokens} of answer do not fit the context of {most}")
            greedy = SamplingOptions(temperature=0, logprobs=False)
            prompt = [token % vocabulary for token in prompt]
            return (step.token for step in generate_step(model, prompt, greedy, max_tokens=tokens))

        def facts() -> dict[str, object]:
            return {
                "reads": {"hit_rate": offload_stats(model).hit_rate, **asdict(offload_stats(model))},
                "device": device_name() + (f" with {Path(blas).name}" if blas else ""),
                "bytes_per_token": bytes_per_token(model),
                "kernels_per_layer": kernels_per_layer(model),
            }

        return generate, facts

    return load


def _mlx_lm(as_ours: bool = False) -> Load:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.utils import load_model

    def load(folder: Path, options: Options) -> Engine:
        model, config = load_model(folder)
        if as_ours:
            _compute_as_ours(model, folder)

        def generate(prompt: list[int], tokens: int) -> Ids:
            ids = mx.array([token % config["vocab_size"] for token in prompt])
            steps = generate_step(ids, model, max_tokens=tokens, sampler=lambda logprobs: mx.argmax(logprobs, -1))
            return (int(token) for token, _ in steps)

        return generate, dict

    return load


def _compute_as_ours(model: Any, folder: Path) -> None:
    """Gives mlx-lm's model float32 activations, and OpenAI's frequencies: it rounds YaRN's correction range."""
    import mlx.core as mx

    from mlx_oss.config import ModelConfig
    from mlx_oss.model.rope import inverse_frequencies

    c = ModelConfig.from_file(folder / "config.json")
    periods = mx.array((1 / inverse_frequencies(c.head_dim, c.rope_theta, c.rope_scaling)).astype("float32"))
    model.set_dtype(mx.float32)
    for layer in model.layers:
        layer.self_attn.rope._freqs = periods
    mx.eval(model.parameters())


# Each imports what it takes.
ENGINES: dict[str, Callable[[], Load]] = {
    "mlx-oss": _ours,
    "mlx-lm": _mlx_lm,
    "mlx-lm-float32": partial(_mlx_lm, as_ours=True),
}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
