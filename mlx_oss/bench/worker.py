"""One measurement of one engine, in a process of its own: `python -m mlx_oss.bench.worker JSON`.

Because of the separate process, load time and peak memory are those of this engine only, and two engines are never in
memory at the same time. Prints the measured values as a JSON object. An error is printed as one line on stderr, and the
exit status is 2.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from itertools import chain, pairwise
from pathlib import Path
from statistics import median
from typing import Any

from mlx_oss.bench.engines import ENGINES, Arrivals, Engine, Ids, Options
from mlx_oss.errors import BenchmarkError, MlxOssError

# Tokens of the prompt, and tokens to generate, before the measurement: kernels are compiled and weights are read once.
WARM_UP = 4


def main(argument: str) -> int:
    """Measures what the JSON object `argument` requests, prints the sample and returns the exit status."""
    request = json.loads(argument)
    try:
        sample = measure(**request | {"folder": Path(request["folder"])})
    except (MlxOssError, ImportError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps(sample))
    return 0


def measure(
    engine: str,
    folder: Path,
    lengths: Sequence[int],
    tokens: int,
    options: Options,
    rows: Sequence[int] = (),
) -> dict[str, object]:
    """Loads a model, then for each prompt length prefills a prompt and greedily generates `tokens` tokens.

    Args:
        engine: Name of the engine, a key of ENGINES.
        folder: Folder of the model.
        lengths: Prompt lengths, in tokens. Empty: the model is loaded and nothing else.
        tokens: Tokens to generate for each prompt, at least 2.
        options: What the engine loads the model with.
        rows: Numbers of requests. For each of them, as many requests run at once instead of one after another; their
            prompts have the lengths in turn.

    Returns:
        The sample, with times in seconds and memory in bytes.
    """
    started = time.perf_counter()
    load = ENGINES[engine]()
    imported = time.perf_counter()
    loaded = load(folder, options)
    done = time.perf_counter()
    from mlx_oss.backend.process_memory import peak_memory_bytes

    loading: dict[str, object] = {"imports": imported - started, "load": done - imported}
    loading["loaded"] = peak_memory_bytes()
    if not lengths:
        return loading
    if rows:
        return {**loading, **_at_once(engine, loaded, lengths, tokens, rows), "resident": peak_memory_bytes()}
    sample = one_by_one(loaded, lengths, tokens)
    return {**loading, **sample, "resident": peak_memory_bytes(), **loaded.facts()}


def one_by_one(engine: Engine, lengths: Sequence[int], tokens: int, number: int = 0) -> dict[str, Any]:
    """The part of the sample that requests one after another give. `number`: as for a prompt."""
    first = _timed(engine.generate(_prompt(WARM_UP, number + 1), WARM_UP))[0]
    runs = {}
    for length in lengths:
        prefill, decode, ids = _timed(engine.generate(_prompt(length, number), tokens))
        runs[str(length)] = {"prefill": prefill, "decode": decode / (tokens - 1), "ids": ids}
    return {"first": first, "lengths": runs}


def _prompt(length: int, number: int = 0) -> list[int]:
    """Token ids spread over the vocabulary, the same in every run.

    No prompt begins as one of another length or number does: an engine may keep what it has read.
    """
    return [(7919 * (n + length + 1024 * number) + 1) % 199_998 for n in range(length)]


def _timed(ids: Ids) -> tuple[float, float, list[int]]:
    """Returns (seconds to the first id, seconds from the first id to the last, ids)."""
    started = time.perf_counter()
    generated = [next(ids)]
    first = time.perf_counter()
    generated.extend(ids)
    return first - started, time.perf_counter() - first, generated


def _at_once(name: str, engine: Engine, lengths: Sequence[int], tokens: int, rows: Sequence[int]) -> dict[str, object]:
    """The part of the sample that several requests at once give."""
    if engine.together is None:
        raise BenchmarkError(f"{name} is measured with one request at a time: compare without it")
    measured, number = {}, 0
    for count in rows:
        numbers = range(number + 1, number + 2 * count + 1)
        warm, cold = ([_prompt(WARM_UP, n) for n in numbers[:count]], numbers[count:])
        _timed_together(engine.together(warm, WARM_UP), count)
        prompts = [_prompt(lengths[row % len(lengths)], n) for row, n in enumerate(cold)]
        measured[str(count)] = _timed_together(engine.together(prompts, tokens), count)
        measured[str(count)]["prompt"] = sum(map(len, prompts))
        number += 2 * count
    device = engine.facts().get("device", "")
    return {"rows": measured, "device": device}


def _timed_together(arrivals: Arrivals, count: int) -> dict[str, object]:
    """The times of requests at once, from the (row, id) that arrive.

    They decode together from the moment that the last of them has its first token, until the first is finished: only
    then all of them are being computed.
    """
    started = time.perf_counter()
    times: list[list[float]] = [[] for _ in range(count)]
    ids: list[list[int]] = [[] for _ in range(count)]
    for row, token in arrivals:
        times[row].append(time.perf_counter())
        ids[row].append(token)
    begun, ended = max(row[0] for row in times), min(row[-1] for row in times)
    within = [[begun, *(moment for moment in row if begun < moment <= ended)] for row in times]
    generated = sum(map(len, within)) - count
    if generated < count:
        raise BenchmarkError("a request was finished before the last one began: let more tokens be generated")
    gaps = [b - a for a, b in chain.from_iterable(map(pairwise, within))]
    return {
        "prefill": begun - started,
        "decode": (ended - begun) / generated,
        "latency": median(gaps),
        "longest": max(gaps),
        "ids": ids,
    }


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
