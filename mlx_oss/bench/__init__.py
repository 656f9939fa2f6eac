"""Measures a model on this machine: load time, memory, prefill and decode speed, alone or compared with other engines.

    processes.py  the processes that measure, which take turns
    worker.py     one measurement of one engine, in a process of its own
    engines.py    how the worker runs each engine
    many.py       the benchmark of several requests at once
    together.py   the benchmark of several machines that compute one model
    kernels.py    counts the kernels and the bytes of weights of a decode step
    chips.py      memory bandwidth of Apple's chips
    gguf_file.py  a file of random weights for llama.cpp
    llama.py      runs it

Each repetition runs in a process of its own, the engines alternate, and each figure is the median of its repetitions,
so other load on the machine affects all engines alike. Loading is measured separately before everything else, and its
first round does not count: files that have not been used for minutes may have left the system's file cache, and the
first engine would have to read them from disk. `cli.bench` shows the results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mlx_oss.bench.chips import bandwidth
from mlx_oss.bench.processes import ENGINES, Samples, prepared
from mlx_oss.errors import OptionError

LENGTHS = (32, 128, 512)  # prompt lengths, in tokens
MOST_TOKENS = 1 << 20  # of a prompt or an answer; the releases' context has 131,072
LOADS = 5  # a model is loaded at least this many times: loading is quick, and its time varies


@dataclass(frozen=True, slots=True)
class Speed:
    """Speed with one prompt length.

    Attributes:
        length: Length of the prompt, in tokens.
        prefill: Seconds to the first token of the answer.
        decode: Seconds for each further token.
    """

    length: int
    prefill: float
    decode: float


@dataclass(frozen=True, slots=True)
class Result:
    """The medians of one engine.

    Attributes:
        engine: Name of the engine, one of ENGINES.
        imports: Seconds to import the engine's modules.
        load: Seconds to load the model after the imports.
        first: Seconds to the first token that the process generates, after a prompt of four tokens.
        loaded: Peak bytes of memory of a process that only loads the model. On a Mac this is the physical footprint,
            which Activity Monitor shows and which includes what the GPU uses, elsewhere the resident memory.
        resident: Peak bytes of memory of a process that also generates.
        speeds: Speed for each prompt length.
        ids: The greedily generated ids of the first repetition, by prompt length.
        weights: What the engine has run if not the folder: for llama.cpp, random weights. None if it was the folder.
    """

    engine: str
    imports: float
    load: float
    first: float
    loaded: int
    resident: int
    speeds: tuple[Speed, ...]
    ids: dict[int, tuple[int, ...]]
    weights: str | None = None


@dataclass(frozen=True, slots=True)
class OffloadFigures:
    """What experts on disk cost.

    Attributes:
        hit_rate: Fraction of the needed experts that were in memory.
        nbytes: Bytes read from disk per token of prompts and answers.
        seconds: Seconds of waiting for these reads per token.
    """

    hit_rate: float
    nbytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class BenchReport:
    """All results of a benchmark.

    Attributes:
        device: Name of the device.
        repeats: Number of repetitions.
        bytes_per_token: Bytes of weights that mlx-oss reads for a token; counted, not measured.
        kernels_per_layer: Kernels that mlx-oss launches per layer and token; counted, not measured.
        copied_buffers: How many buffers of keys and values were copied while tokens were generated, and how many there
            are. None should be: a step writes only what is new.
        reads: What experts on disk cost. None if everything is in memory.
        bandwidth: Memory bandwidth of the chip in GB/s. None if unknown.
        results: One result per engine, mlx-oss first.
    """

    device: str
    repeats: int
    bytes_per_token: int
    kernels_per_layer: float
    copied_buffers: tuple[int, int]
    reads: OffloadFigures | None
    bandwidth: int | None
    results: tuple[Result, ...]

    def bandwidth_share(self, speed: Speed) -> float | None:
        """Fraction of the chip's memory bandwidth that reading the weights once per token uses. None if unknown."""
        return self.bytes_per_token / speed.decode / (self.bandwidth * 1e9) if self.bandwidth else None


def measure(
    folder: str | Path,
    *,
    lengths: Sequence[int] = LENGTHS,
    tokens: int = 32,
    repeats: int = 5,
    dtype: str = "auto",
    memory: str | None = None,
    wire: bool | None = None,
    compare: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> BenchReport:
    """Measures a model.

    Args:
        folder: Folder of the model.
        lengths: Prompt lengths, in tokens.
        tokens: Tokens to generate for each prompt.
        repeats: Repetitions of each measurement. Loading is repeated at least LOADS times.
        dtype: Dtype of mlx-oss's activations.
        memory: Memory limit of mlx-oss, as for `mlx_oss.load`.
        wire: Whether mlx-oss wires its weights, as for `mlx_oss.load`.
        compare: Engines to compare mlx-oss with; they must be installed. "mlx-lm" is mlx-lm unchanged. "mlx-lm-float32"
            is mlx-lm with float32 activations and OpenAI's rotary frequencies, so that it generates the same tokens as
            mlx-oss in float32. "llama.cpp" runs random weights of the same shapes and types, from a file that is
            written for it and removed in the end.
        progress: Called with a short description of each measurement when it begins.

    Returns:
        The medians of all engines.

    Raises:
        OptionError: If an argument is out of range.
        BenchmarkError: If an engine cannot load or run the model, or there is no room for llama.cpp's file.
        ConfigError: If llama.cpp is asked for, and the folder's config cannot be read.
        CheckpointError: If llama.cpp is asked for, and the folder's files cannot be read.
    """
    check(lengths, tokens, repeats, compare)
    ours: dict[str, Any] = {"dtype": dtype, "memory": memory, "wire": wire}
    with prepared(folder, compare, ours, max(lengths) + tokens, progress) as processes:
        loads = processes.alternating("loading", 1 + max(repeats, LOADS), lengths=[], tokens=tokens)
        samples = processes.alternating("generating", repeats, lengths=list(lengths), tokens=tokens)
    return _report(loads, samples, processes.weights, sum(lengths) + len(lengths) * tokens)


def _report(loads: Samples, samples: Samples, weights: Mapping[str, str], tokens: int) -> BenchReport:
    """The report of what was measured; a sample of mlx-oss has computed `tokens` tokens."""
    ours = samples["mlx-oss"][0]
    return BenchReport(
        device=ours["device"],
        repeats=len(samples["mlx-oss"]),
        bytes_per_token=ours["bytes_per_token"],
        kernels_per_layer=ours["kernels_per_layer"],
        copied_buffers=(ours["copied_buffers"][0], ours["copied_buffers"][1]),
        reads=_reads([sample["reads"] for sample in samples["mlx-oss"]], tokens),
        bandwidth=bandwidth(ours["device"]),
        results=tuple(
            _result(engine, loads[engine][1:], measured, weights.get(engine)) for engine, measured in samples.items()
        ),
    )


def check(lengths: Sequence[int], tokens: int, repeats: int, compare: Sequence[str] = ()) -> None:
    """Raises OptionError if an argument is out of range."""
    if repeats < 1 or tokens < 2 or not lengths or min(lengths) < 1:
        raise OptionError("a benchmark needs at least 1 repetition, 2 generated tokens and prompts of at least 1 token")
    if max(*lengths, tokens) > MOST_TOKENS:
        raise OptionError(
            f"a benchmark measures prompts and answers of at most {MOST_TOKENS:,} tokens: use shorter ones"
        )
    if unknown := [engine for engine in compare if engine not in ENGINES[1:]]:
        supported = f"{', '.join(ENGINES[1:-1])} and {ENGINES[-1]}"
        raise OptionError(f"compare contains {unknown[0]!r}, but only {supported} are supported")


def _reads(samples: list[dict[str, float]], tokens: int) -> OffloadFigures | None:
    """The medians of all samples, or None if nothing was read from disk."""
    if not any(sample["nbytes"] for sample in samples):
        return None
    hit_rate, nbytes, seconds = (_median(samples, key) for key in ("hit_rate", "nbytes", "seconds"))
    return OffloadFigures(hit_rate, nbytes / tokens, seconds / tokens)


def _result(engine: str, loads: list[dict[str, Any]], samples: list[dict[str, Any]], weights: str | None) -> Result:
    runs: dict[str, list[dict[str, Any]]] = {
        key: [sample["lengths"][key] for sample in samples] for key in samples[0]["lengths"]
    }
    return Result(
        engine=engine,
        imports=_median(loads, "imports"),
        load=_median(loads, "load"),
        first=_median(samples, "first"),
        loaded=round(_median(loads, "loaded")),
        resident=round(_median(samples, "resident")),
        speeds=tuple(Speed(int(key), _median(run, "prefill"), _median(run, "decode")) for key, run in runs.items()),
        ids={int(key): tuple(run[0]["ids"]) for key, run in runs.items()},
        weights=weights,
    )


def _median(samples: list[dict[str, Any]], key: str) -> float:
    values: list[float] = [sample[key] for sample in samples]
    return median(values)
