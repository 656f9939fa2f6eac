"""Measures a model folder on this machine: load time, memory, prefill and decode speed, alone or beside mlx-lm.

Knows how to run measurements and take medians; what is measured is in `worker`, how it is shown in `cli.bench`. Every
repetition is a process of its own, engines take turns, and each figure is the median of its repetitions: what else the
machine does then falls on all alike. Loading is repeated by itself, first of all, and the first round does not count:
what has not been touched for minutes leaves the system's cache of files, and whoever came next would pay for that.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mlx_oss.bench.chips import bandwidth
from mlx_oss.errors import BenchmarkError, OptionError

ENGINES = ("mlx-oss", "mlx-lm", "mlx-lm-float32")
LENGTHS = (32, 128, 512)  # tokens of prompt
LOADS = 5  # at least so many times a model is loaded: that is quick, and uneven


@dataclass(frozen=True, slots=True)
class Speed:
    """At one length of prompt: tokens, seconds to the first token of the answer, and seconds for each after it."""

    length: int
    prefill: float
    decode: float


@dataclass(frozen=True, slots=True)
class Result:
    """One engine's medians.

    imports    seconds that the engine's modules take to import
    load       seconds from there until the model can be called
    first      seconds to the first token ever, of a prompt of four tokens
    loaded     peak resident bytes of a process that has loaded (operating system)
    resident   and at the end of one that has written
    ids        by length of prompt the greedy ids, of the first repetition
    """

    engine: str
    imports: float
    load: float
    first: float
    loaded: int
    resident: int
    speeds: tuple[Speed, ...]
    ids: dict[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class OffloadFigures:
    """Experts on disk: how many of those needed were in memory, and for each token of prompts and answers the bytes
    read and the seconds waited for them.
    """

    hit_rate: float
    nbytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class BenchReport:
    """Everything measured. `bytes_per_token` and `kernels_per_layer` are mlx-oss's, counted and not timed; `reads` is
    None where everything is in memory; `bandwidth` is that of the chip in GB/s, None if unknown.
    """

    device: str
    repeats: int
    bytes_per_token: int
    kernels_per_layer: float
    reads: OffloadFigures | None
    bandwidth: int | None
    results: tuple[Result, ...]

    def bandwidth_share(self, speed: Speed) -> float | None:
        """Of the chip's bandwidth, what reading the weights once a token makes use of."""
        return self.bytes_per_token / speed.decode / (self.bandwidth * 1e9) if self.bandwidth else None


def measure(
    folder: str | Path,
    *,
    lengths: Sequence[int] = LENGTHS,
    tokens: int = 32,
    repeats: int = 5,
    dtype: str = "auto",
    memory: str | None = None,
    compare: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> BenchReport:
    """Measures a converted model.

    lengths  of prompts, in tokens; tokens  of each answer; repeats  of everything, loading at least LOADS times
    dtype    of mlx-oss's activations
    memory   what mlx-oss may take, as for `mlx_oss.load`
    compare  measured in turn with mlx-oss: "mlx-lm" as it comes; "mlx-lm-float32", which has its activations in float32
             and OpenAI's rotary frequencies, so that it writes what mlx-oss writes in float32. It must be installed.
    progress is told in a few words what is being measured

    Raises OptionError for an argument out of range, BenchmarkError if an engine cannot load or run the model.
    """
    if repeats < 1 or tokens < 2 or not lengths or min(lengths) < 1:
        raise OptionError("a benchmark needs at least 1 repetition, 2 tokens of answer and 1 of prompt")
    if unknown := [engine for engine in compare if engine not in ENGINES[1:]]:
        raise OptionError(f"compare has {unknown[0]!r}: mlx-oss can be compared with {' and '.join(ENGINES[1:])}")
    engines = ENGINES[:1] + tuple(engine for engine in ENGINES[1:] if engine in compare)

    def by_turns(what: str, rounds: int, lengths: Sequence[int]) -> dict[str, list[dict[str, Any]]]:
        samples: dict[str, list[dict[str, Any]]] = {engine: [] for engine in engines}
        for repeat in range(rounds):
            for engine, taken in samples.items():
                if progress is not None:
                    progress(f"{engine}, {what}, {repeat + 1} of {rounds}")
                asked = {"folder": str(folder), "lengths": list(lengths), "tokens": tokens, "engine": engine}
                options = {"dtype": dtype, "memory": memory} if engine == "mlx-oss" else {}
                taken.append(_run({**asked, "options": options}))
        return samples

    loads = by_turns("loading", 1 + max(repeats, LOADS), ())
    samples = by_turns("writing", repeats, lengths)
    ours = samples["mlx-oss"][0]
    return BenchReport(
        device=ours["device"],
        repeats=repeats,
        bytes_per_token=ours["bytes_per_token"],
        kernels_per_layer=ours["kernels_per_layer"],
        reads=_reads([sample["reads"] for sample in samples["mlx-oss"]], (sum(lengths) + len(lengths) * tokens)),
        bandwidth=bandwidth(ours["device"]),
        results=tuple(_result(engine, loads[engine][1:], taken) for engine, taken in samples.items()),
    )


def _reads(samples: list[dict[str, float]], tokens: int) -> OffloadFigures | None:
    """Medians; None where nothing was read."""
    if not any(sample["nbytes"] for sample in samples):
        return None
    hit_rate, nbytes, seconds = (_median(samples, key) for key in ("hit_rate", "nbytes", "seconds"))
    return OffloadFigures(hit_rate, nbytes / tokens, seconds / tokens)


def _run(asked: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "mlx_oss.bench.worker", json.dumps(asked)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    engine, said = asked["engine"], done.stderr.strip().splitlines() or ["it said nothing"]
    if done.returncode < 0:
        raise BenchmarkError(
            f"{engine} was ended by signal {-done.returncode} with {asked['folder']}: probably out of memory"
        )
    raise BenchmarkError(f"{engine} cannot run {asked['folder']}: {said[-1]}")


def _result(engine: str, loads: list[dict[str, Any]], samples: list[dict[str, Any]]) -> Result:
    runs: dict[str, list[dict[str, Any]]] = {
        key: [each["lengths"][key] for each in samples] for key in samples[0]["lengths"]
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
    )


def _median(samples: list[dict[str, Any]], key: str) -> float:
    return median(sample[key] for sample in samples)
