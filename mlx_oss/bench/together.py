"""Measures a model that several machines compute together, in the processes that `mlx.launch` has started.

The model is loaded once: the machines would have to find each other again for each repetition. Gathers are measured
alone, so a token takes at least so long for them: in a token, each machine also waits for the slowest one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from mlx_oss.bench import Speed, check
from mlx_oss.bench.engines import device_in_words, engine_of
from mlx_oss.bench.worker import one_by_one
from mlx_oss.config import ModelConfig
from mlx_oss.distributed.leader import LeadingTransformer, Machines
from mlx_oss.errors import OptionError
from mlx_oss.generation import compute_thread
from mlx_oss.generation.local import LocalEngine
from mlx_oss.memory.machines import gathers_of

_GATHERS = 50  # of each size that are measured


@dataclass(frozen=True, slots=True)
class TogetherReport:
    """What several machines take for a model.

    Attributes:
        device: Name of the first machine's device.
        repeats: Number of repetitions.
        load: Seconds to find the other machines and to load the model.
        first: Seconds to the first token of the first machine, after a prompt of four tokens.
        loaded: Peak bytes of memory of each machine's process when the model was loaded, as `Result` has them.
        resident: Those in the end.
        gathers: How often a token makes the machines exchange what they have computed.
        gather: Seconds that all these gathers take if no machine waits for another.
        speeds: The medians for each prompt length.
        ids: The greedily generated ids of the first repetition, by prompt length.
    """

    device: str
    repeats: int
    load: float
    first: float
    loaded: tuple[int, ...]
    resident: tuple[int, ...]
    gathers: int
    gather: float
    speeds: tuple[Speed, ...]
    ids: dict[int, tuple[int, ...]]


def measure_together(
    load: Callable[[], LocalEngine],
    *,
    lengths: Sequence[int],
    tokens: int,
    repeats: int,
    progress: Callable[[str], None] | None = None,
) -> TogetherReport:
    """Measures the model that `load` loads; the first machine calls this, and the others follow.

    Args:
        load: Loads the model together with the other machines.
        lengths: Prompt lengths, in tokens.
        tokens: Tokens to generate for each prompt.
        repeats: Repetitions of each measurement.
        progress: Called with a short description of each measurement when it begins.

    Raises:
        OptionError: If an argument is out of range, or there is one machine only.
        MlxOssError: What `load` raises.
    """
    check(lengths, tokens, repeats)
    say = progress or (lambda _: None)
    say("loading")
    started = time.perf_counter()
    model = load()
    loading = time.perf_counter() - started
    if not isinstance(model.transformer, LeadingTransformer):
        raise OptionError("mlx.launch has started one process only: name at least two machines")
    machines, config = model.transformer.machines, model.config
    loaded = compute_thread.run(machines.memory_of_each)
    say("gathers")
    gather = gathers_in_all(machines, config)
    engine, samples = engine_of(model), list[dict[str, Any]]()
    for repeat in range(repeats):
        say(f"generating, {repeat + 1} of {repeats}")
        samples.append(one_by_one(engine, lengths, tokens, number=2 * repeat))
    speeds = []
    for key in map(str, lengths):
        of_all = [sample["lengths"][key] for sample in samples]
        speeds.append(Speed(int(key), *(median(run[what] for run in of_all) for what in ("prefill", "decode"))))
    return TogetherReport(
        device=device_in_words(),
        repeats=repeats,
        load=loading,
        first=samples[0]["first"],
        loaded=tuple(loaded),
        resident=tuple(compute_thread.run(machines.memory_of_each)),
        gathers=gathers_of(config),
        gather=gather,
        speeds=tuple(speeds),
        ids={int(key): tuple(run["ids"]) for key, run in samples[0]["lengths"].items()},
    )


def gathers_in_all(machines: Machines, config: ModelConfig) -> float:
    """Seconds of all gathers of a token: one of the logits, and the others as if each were of one hidden state."""

    def seconds(numbers: int) -> float:
        return compute_thread.run(lambda: machines.gather_seconds(numbers, _GATHERS))

    return (gathers_of(config) - 1) * seconds(config.hidden_size) + seconds(config.vocab_size)
