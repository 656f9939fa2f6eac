"""One measurement of one engine, in a process of its own: `python -m mlx_oss.bench.worker JSON`.

Because of the separate process, load time and peak memory are those of this engine only, and two engines are never in
memory at the same time. Prints the measured values as a JSON object. An error is printed as one line on stderr, and the
exit status is 2.
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
# generate(prompt, number of tokens to generate), and a function that returns further facts for the sample
Engine = tuple[Callable[[list[int], int], Ids], Callable[[], dict[str, object]]]
Options = dict[str, Any]  # keyword arguments of mlx_oss.load_model; for llama.cpp its file and its context
Load = Callable[[Path, Options], Engine]
# Tokens of the prompt, and tokens to generate, before the measurement: kernels are compiled and weights are read once.
WARM_UP = 4


def main(argument: str) -> int:
    """Measures what the JSON object `argument` requests, prints the sample and returns the exit status."""
    from mlx_oss.errors import MlxOssError

    request = json.loads(argument)
    engine, folder = request["engine"], Path(request["folder"])
    try:
        sample = measure(engine, folder, request["lengths"], request["tokens"], request["options"])
    except (MlxOssError, ImportError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps(sample))
    return 0


def measure(engine: str, folder: Path, lengths: list[int], tokens: int, options: Options) -> dict[str, object]:
    """Loads a model, then for each prompt length prefills a prompt and greedily generates `tokens` tokens.

    Args:
        engine: Name of the engine, a key of ENGINES.
        folder: Folder of the model.
        lengths: Prompt lengths, in tokens. Empty: the model is loaded and nothing else.
        tokens: Tokens to generate for each prompt, at least 2.
        options: What the engine loads the model with.

    Returns:
        The sample, with times in seconds and memory in bytes.
    """
    started = time.perf_counter()
    load = ENGINES[engine]()
    imported = time.perf_counter()
    generate, facts = load(folder, options)
    done = time.perf_counter()
    from mlx_oss.backend.process_memory import peak_memory_bytes

    loading: dict[str, object] = {"imports": imported - started, "load": done - imported}
    loading["loaded"] = peak_memory_bytes()
    if not lengths:
        return loading
    first = _timed(generate(_prompt(WARM_UP, shift=1), WARM_UP))[0]
    runs = {}
    for length in lengths:
        prefill, decode, ids = _timed(generate(_prompt(length), tokens))
        runs[str(length)] = {"prefill": prefill, "decode": decode / (tokens - 1), "ids": ids}
    return {**loading, "first": first, "resident": peak_memory_bytes(), "lengths": runs, **facts()}


def _prompt(length: int, shift: int = 0) -> list[int]:
    """Token ids spread over the vocabulary, the same in every run."""
    return [(7919 * (n + shift) + 1) % 199_998 for n in range(length)]


def _timed(ids: Ids) -> tuple[float, float, list[int]]:
    """Returns (seconds to the first id, seconds from the first id to the last, ids)."""
    started = time.perf_counter()
    generated = [next(ids)]
    first = time.perf_counter()
    generated.extend(ids)
    return first - started, time.perf_counter() - first, generated


def _ours() -> Load:
    from mlx_oss.backend.mlx_library import load_mlx

    load_mlx()  # before the imports below
    from mlx_oss.backend import native
    from mlx_oss.backend.device import device_name
    from mlx_oss.bench.kernels import bytes_per_token, copied_buffers, kernels_per_layer
    from mlx_oss.errors import OptionError
    from mlx_oss.generation.engine import Request
    from mlx_oss.generation.options import SamplingOptions
    from mlx_oss.loader import load_model
    from mlx_oss.offload.install import offload_stats

    def load(folder: Path, options: Options) -> Engine:
        model = load_model(folder, **options)
        vocabulary = model.config.vocab_size

        def generate(prompt: list[int], tokens: int) -> Ids:
            if len(prompt) + tokens > model.context:
                raise OptionError(
                    f"a prompt of {len(prompt)} tokens and {tokens} generated tokens do not fit into the context of "
                    f"{model.context}: use shorter prompts"
                )
            greedy = SamplingOptions(temperature=0, logprobs=False)
            prompt = [token % vocabulary for token in prompt]
            return (step.token for step in model.submit(Request(prompt, greedy, tokens)))

        def facts() -> dict[str, object]:
            reads = offload_stats(model.transformer)
            return {
                "reads": {"hit_rate": reads.hit_rate, **asdict(reads)},
                "device": device_name() + (f" with {native.vectors()}" if native.computes(None) else ""),
                "bytes_per_token": bytes_per_token(model.transformer),
                "kernels_per_layer": kernels_per_layer(model.transformer),
                "copied_buffers": copied_buffers(model.transformer),
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


def _llama_cpp() -> Load:
    from mlx_oss.bench.llama import Llama

    def load(folder: Path, options: Options) -> Engine:
        return Llama(Path(options["gguf"]), options["context"]).generate, dict

    return load


def _compute_as_ours(model: Any, folder: Path) -> None:
    """Changes mlx-lm's model to float32 activations and OpenAI's frequencies; mlx-lm rounds YaRN's correction range."""
    import mlx.core as mx

    from mlx_oss.config import ModelConfig
    from mlx_oss.model.rope import inverse_frequencies

    c = ModelConfig.from_file(folder / "config.json")
    periods = mx.array((1 / inverse_frequencies(c.head_dim, c.rope_theta, c.rope_scaling)).astype("float32"))
    model.set_dtype(mx.float32)
    for layer in model.layers:
        layer.self_attn.rope._freqs = periods
    mx.eval(model.parameters())


# Each function imports its engine and returns a function that loads a model.
ENGINES: dict[str, Callable[[], Load]] = {
    "mlx-oss": _ours,
    "mlx-lm": _mlx_lm,
    "mlx-lm-float32": partial(_mlx_lm, as_ours=True),
    "llama.cpp": _llama_cpp,
}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
