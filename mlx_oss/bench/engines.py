"""How `worker` runs each engine: ids in, ids out. An engine is imported when it is loaded. Knows nothing of times."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mlx_oss.generation.engine import Stream
    from mlx_oss.generation.local import LocalEngine

Ids = Iterator[int]
Arrivals = Iterator[tuple[int, int]]  # (number of the request, id), as the tokens arrive
Options = dict[str, Any]  # keyword arguments of mlx_oss.load_model; for llama.cpp its file and its context


class Engine(NamedTuple):
    """A loaded model.

    Attributes:
        generate: generate(prompt, number of tokens): the greedy answer.
        facts: Returns further facts for the sample.
        together: together(prompts, number of tokens): the greedy answers to all of them at once. None: the engine
            cannot do that.
    """

    generate: Callable[[list[int], int], Ids]
    facts: Callable[[], dict[str, object]]
    together: Callable[[list[list[int]], int], Arrivals] | None = None


Load = Callable[[Path, Options], Engine]


def _ours() -> Load:
    from mlx_oss.backend.mlx_library import load_mlx

    load_mlx()  # before the imports below
    from mlx_oss.bench.kernels import bytes_per_token, copied_buffers, kernels_per_layer
    from mlx_oss.loader import load_model
    from mlx_oss.offload.install import offload_stats

    def load(folder: Path, options: Options) -> Engine:
        model = load_model(folder, **options)

        def facts() -> dict[str, object]:
            reads = offload_stats(model.transformer)
            return {
                "reads": {"hit_rate": reads.hit_rate, **asdict(reads)},
                "device": device_in_words(),
                "bytes_per_token": bytes_per_token(model.transformer),
                "kernels_per_layer": kernels_per_layer(model.transformer),
                "copied_buffers": copied_buffers(model.transformer),
            }

        return engine_of(model, facts)

    return load


def engine_of(model: LocalEngine, facts: Callable[[], dict[str, object]] = dict) -> Engine:
    """How a model of ours is run."""
    from mlx_oss.errors import OptionError
    from mlx_oss.generation.engine import Request
    from mlx_oss.generation.options import SamplingOptions

    def submit(prompt: list[int], tokens: int) -> Stream:
        if len(prompt) + tokens > model.context:
            raise OptionError(
                f"a prompt of {len(prompt)} tokens and {tokens} generated tokens do not fit into the context of "
                f"{model.context}: use shorter prompts"
            )
        greedy = SamplingOptions(temperature=0, logprobs=False)
        prompt = [token % model.config.vocab_size for token in prompt]
        return model.submit(Request(prompt, greedy, tokens))

    def generate(prompt: list[int], tokens: int) -> Ids:
        return (step.token for step in submit(prompt, tokens))

    def together(prompts: list[list[int]], tokens: int) -> Arrivals:
        return _arrivals([submit(prompt, tokens) for prompt in prompts])

    return Engine(generate, facts, together)


def device_in_words() -> str:
    """What computes, such as "Apple M4 Max"."""
    from mlx_oss.backend import native
    from mlx_oss.backend.device import device_name

    return device_name() + (f" with {native.vectors()}" if native.computes(None) else "")


def _arrivals(streams: Sequence[Stream]) -> Arrivals:
    """The tokens of all streams, as they arrive. Each row waits with its second token until all have their first."""
    from mlx_oss.generation.engine import Step

    done: SimpleQueue[tuple[int, Future[Any]]] = SimpleQueue()

    def read(row: int) -> None:
        streams[row].read().add_done_callback(lambda future: done.put((row, future)))

    for row in range(len(streams)):
        read(row)
    begun: set[int] = set()
    ended = 0
    while ended < len(streams):
        row, future = done.get()
        item = future.result()
        if item is None:
            ended += 1
        elif isinstance(item, Step) and row not in begun:
            begun.add(row)
            yield row, item.token
            if len(begun) == len(streams):
                for each in range(len(streams)):
                    read(each)
        else:
            if isinstance(item, Step):
                yield row, item.token
            read(row)


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

        def together(prompts: list[list[int]], tokens: int) -> Arrivals:
            from mlx_lm.generate import BatchGenerator  # not before: older releases have none

            ids = [[token % config["vocab_size"] for token in prompt] for prompt in prompts]
            batch: Any = BatchGenerator(
                model, max_tokens=tokens, completion_batch_size=len(ids), prefill_batch_size=len(ids)
            )
            rows = {uid: row for row, uid in enumerate(batch.insert(ids))}
            running = set(rows)
            while running:
                for response in batch.next_generated():
                    yield rows[response.uid], int(response.token)
                    if response.finish_reason is not None:
                        running.remove(response.uid)
            batch.close()

        return Engine(generate, dict, together)

    return load


def _llama_cpp() -> Load:
    from mlx_oss.bench.llama import Llama

    def load(folder: Path, options: Options) -> Engine:
        return Engine(Llama(Path(options["gguf"]), options["context"]).generate, dict)

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
