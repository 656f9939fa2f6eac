"""Compares a model that several processes compute together with the same model in one process.

    python -m tests.bench_machines FOLDER [--machines 2] [--rounds 3] [--prompt 64] [--tokens 40] [--context 2048]

Each process has one core of its own, so that a process stands for a machine (Linux only). Both take turns. Prints the
time of a token, the ratio, what gathers take of it, and the memory of each process besides its part of the weights.
The processes are started without `mlx.launch`, which keeps more than one core busy while it waits.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from statistics import median
from typing import Any

from tests.distributed.machines import ended, start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--machines", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        sys.stdout.write(json.dumps(measured(args)))
        return
    sizes = (1, args.machines)
    found: dict[int, list[dict[str, Any]]] = {size: [] for size in sizes}
    for _ in range(args.rounds):
        for size in sizes:
            found[size].append(run(size))
    assert len({tuple(sample["ids"]) for samples in found.values() for sample in samples}) == 1, "other tokens"
    alone, together = (median(sample["decode"] for sample in found[size]) for size in sizes)
    prefills = [median(sample["prefill"] for sample in found[size]) for size in sizes]
    gathers = median(sample["gather"] for sample in found[args.machines])
    report = f"a token: {1000 * alone:.1f} ms in one process, {1000 * together:.1f} in {args.machines}: "
    report += f"{together / alone:.2f} of it; gathers take {1000 * gathers:.2f} ms without waiting, "
    report += f"{gathers / together:.1%}\nthe prompt: {prefills[0]:.2f} s, {prefills[1]:.2f} s\n"
    last = found[args.machines][-1]
    for number, (loaded, resident) in enumerate(zip(last["loaded"], last["resident"], strict=True)):
        report += f"process {number}: {megabytes(last['weights'])} MB of weights, {megabytes(loaded)} MB loaded, "
        report += f"{megabytes(resident)} MB at the end\n"
    sys.stdout.write(report)


def megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.0f}"


def run(size: int) -> dict[str, Any]:
    """What the first of so many processes has measured."""
    results = ended(start(size, "-m", "tests.bench_machines", *sys.argv[1:], "--worker"), timeout=3600)
    for status, _, err in results:
        assert status == 0, err
    sample: dict[str, Any] = json.loads(results[0][1])
    return sample


def measured(args: argparse.Namespace) -> dict[str, Any]:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["MLX_RANK"]) % len(cores)]})
    import mlx_oss
    from mlx_oss.backend.process_memory import peak_memory_bytes
    from mlx_oss.bench.engines import engine_of
    from mlx_oss.bench.together import gathers_in_all
    from mlx_oss.bench.worker import one_by_one
    from mlx_oss.distributed import group
    from mlx_oss.distributed.leader import LeadingTransformer
    from mlx_oss.generation import compute_thread

    model, _ = mlx_oss.load(args.folder, dtype="float32", context=args.context, group=group())
    assert model.plan is not None
    sample: dict[str, Any] = {"weights": sum(model.plan.weights.values())}
    transformer = model.transformer
    if isinstance(transformer, LeadingTransformer):
        sample["gather"] = gathers_in_all(transformer.machines, model.config)

    def memory() -> list[int]:
        if isinstance(transformer, LeadingTransformer):
            return compute_thread.run(transformer.machines.memory_of_each)
        return [peak_memory_bytes()]

    sample["loaded"] = memory()
    run = one_by_one(engine_of(model), [args.prompt], args.tokens)["lengths"][str(args.prompt)]
    return sample | run | {"resident": memory()}


if __name__ == "__main__":
    main()
