"""Several requests at once: how many tokens a second an engine generates for all of them together.

The engines take turns as in `bench.measure`. All requests of a measurement are submitted at the same moment, and one
thread reads all of them. Reading ends with the first token of the last one; only then do the others go on, so that all
of them are computed together from there on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mlx_oss.bench import LENGTHS, MOST_TOKENS
from mlx_oss.bench.processes import prepared
from mlx_oss.errors import OptionError

ENGINES = ("mlx-oss", "mlx-lm", "mlx-lm-float32")  # those that can run several requests at once
MOST_ROWS = 256  # requests at once


@dataclass(frozen=True, slots=True)
class Rows:
    """What so many requests at once cost.

    Attributes:
        rows: How many they are.
        prompt: Tokens of all prompts together.
        prefill: Seconds until each of them has its first token.
        decode: Seconds for a further token of any of them: the time divided by the tokens of all requests.
        latency: Seconds from one token of a request to its next.
        longest: The longest of these.
        ids: The greedily generated ids of each request, in the first repetition.
    """

    rows: int
    prompt: int
    prefill: float
    decode: float
    latency: float
    longest: float
    ids: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class ManyReport:
    """The medians of all engines.

    Attributes:
        device: Name of the device.
        repeats: Number of repetitions.
        results: By the name of the engine, mlx-oss first, what each number of requests costs.
    """

    device: str
    repeats: int
    results: dict[str, tuple[Rows, ...]]


def measure_many(
    folder: str | Path,
    rows: Sequence[int],
    *,
    lengths: Sequence[int] = LENGTHS,
    tokens: int = 32,
    repeats: int = 5,
    dtype: str = "auto",
    memory: str | None = None,
    wire: bool | None = None,
    compare: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> ManyReport:
    """Measures several requests at once.

    Args:
        folder: Folder of the model.
        rows: Numbers of requests.
        lengths: Prompt lengths, in tokens. The requests of a measurement take them in turn.
        tokens: Tokens to generate for each request.
        repeats: Repetitions of each measurement.
        dtype: Dtype of mlx-oss's activations.
        memory: Memory limit of mlx-oss, as for `mlx_oss.load`.
        wire: Whether mlx-oss wires its weights, as for `mlx_oss.load`.
        compare: Engines to compare mlx-oss with; they must be installed. mlx-lm runs its `BatchGenerator`.
        progress: Called with a short description of each measurement when it begins.

    Raises:
        OptionError: If an argument is out of range.
        BenchmarkError: If an engine cannot load or run the model, or a request was finished before all had begun.
    """
    _check(rows, lengths, tokens, repeats, compare)
    ours: dict[str, Any] = {"dtype": dtype, "memory": memory, "wire": wire}
    asked: dict[str, Any] = {"lengths": list(lengths), "tokens": tokens, "rows": list(rows)}
    with prepared(folder, compare, ours, max(lengths) + tokens, progress) as processes:
        samples = processes.alternating("generating", repeats, **asked)
    results = {
        engine: tuple(_rows(count, [sample["rows"][str(count)] for sample in measured]) for count in rows)
        for engine, measured in samples.items()
    }
    return ManyReport(samples["mlx-oss"][0]["device"], repeats, results)


def _check(rows: Sequence[int], lengths: Sequence[int], tokens: int, repeats: int, compare: Sequence[str]) -> None:
    """Raises OptionError if an argument is out of range."""
    if not rows or not all(1 <= count <= MOST_ROWS for count in rows):
        raise OptionError(f"a benchmark measures from 1 to {MOST_ROWS} requests at once")
    if repeats < 1 or tokens < 3 or not lengths or min(lengths) < 1:
        raise OptionError(
            "a benchmark of requests at once needs at least 1 repetition, 3 generated tokens and prompts of at least 1 "
            "token"
        )
    if max(*lengths, tokens) > MOST_TOKENS:
        raise OptionError(
            f"a benchmark measures prompts and answers of at most {MOST_TOKENS:,} tokens: use shorter ones"
        )
    if unknown := [engine for engine in compare if engine not in ENGINES[1:]]:
        raise OptionError(
            f"{unknown[0]!r} cannot be compared with several requests at once: {' and '.join(ENGINES[1:])} can"
        )


def _rows(count: int, samples: list[dict[str, Any]]) -> Rows:
    """The medians of the samples of one engine."""
    times = {key: median(sample[key] for sample in samples) for key in ("prefill", "decode", "latency", "longest")}
    ids = tuple(tuple(row) for row in samples[0]["ids"])
    return Rows(rows=count, prompt=samples[0]["prompt"], ids=ids, **times)
