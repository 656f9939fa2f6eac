"""Compares the memory that the planner predicts with what the operating system measures; measures offload speed.

    python -m tests.bench_memory FOLDER [--memory 6GiB] [--prompt 256] [--tokens 64] [--compare]

Each measurement runs in its own process. --compare also runs the same prompt with everything in memory, and compares
speed, tokens and the last logits. Both processes run at the same time and take turns, one token each, so that other
load on the machine affects both equally. --cold first drops the files of the folder from the page cache.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="folder of a converted model (default: nano)")
    parser.add_argument("--memory")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument(
        "--leak",
        action="store_true",
        help="instead, generate 10,000 tokens with the smallest budget and print what accumulates",
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder is None:
        from mlx_oss.nano import nano_folder

        args.folder = nano_folder()
    if args.leak:
        leak(args.folder)
        return
    if args.worker:
        work(args.folder, args.memory, args.prompt, args.tokens)
        return
    if args.cold:
        drop_from_page_cache(args.folder)
    memories = [args.memory, None] if args.compare else [args.memory]
    results = measure(args.folder, memories, args.prompt, args.tokens)
    for result in results:
        sys.stdout.write(json.dumps(result) + "\n")
    if args.compare:
        offloaded, resident = results
        same = all(offloaded[key] == resident[key] for key in ("ids", "logits"))
        ratios = {key: resident[key] / offloaded[key] for key in ("prefill", "decode")}
        sys.stdout.write(json.dumps({"same": same, "speed": ratios}) + "\n")


def measure(folder: Path, memories: list[str | None], prompt: int, tokens: int) -> list[dict[str, Any]]:
    """The final result of each budget. One process for each budget; they take turns."""
    workers = [start(folder, memory, prompt, tokens) for memory in memories]
    for worker in workers:
        answer(worker)  # loaded
    results: list[dict[str, Any]] = [{}] * len(workers)
    for _ in range(1 + tokens):
        for number, worker in enumerate(workers):
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
            results[number] = answer(worker)
    for worker in workers:
        worker.communicate()
    return results


def start(folder: Path, memory: str | None, prompt: int, tokens: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.bench_memory", str(folder), "--worker"]
    command += ["--prompt", str(prompt), "--tokens", str(tokens)] + (["--memory", memory] if memory else [])
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def answer(worker: subprocess.Popen[str]) -> dict[str, Any]:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"a process ended with status {worker.wait()}")
    return json.loads(line)


def work(folder: Path, memory: str | None, prompt: int, tokens: int) -> None:
    """Loads the model, then runs one step for each line of stdin: the prefill, then single tokens. Prints facts."""

    import mlx_oss

    context = prompt + tokens
    started = time.perf_counter()
    model, _ = mlx_oss.load(folder, memory=memory, context=context)
    plan: mlx_oss.Plan = model.plan
    import mlx.core as mx
    import numpy as np

    from mlx_oss.backend.process_memory import peak_memory_bytes
    from mlx_oss.offload.install import offload_stats

    facts: dict[str, Any] = {"load": time.perf_counter() - started, "slots": plan.slots, "chunk": plan.chunk}
    facts |= {"planned": plan.peak_bytes, "loaded": peak_memory_bytes()}
    tell(facts)
    ids = [(7919 * n + 1) % min(model.config.vocab_size, 199_998) for n in range(prompt)]
    cache, chosen, decode = model.make_cache(), [], 0.0
    for number in range(1 + tokens):
        sys.stdin.readline()
        started, before = time.perf_counter(), offload_stats(model.transformer)
        logits = model(mx.array([chosen[-1:]]), cache)[0, 0] if number else mlx_oss.prefill(model, ids, cache)
        chosen.append(int(mx.argmax(logits)))
        seconds = time.perf_counter() - started
        if number == 0:
            facts |= {"prefill": seconds, "prefill_reads": spent(offload_stats(model.transformer) - before)}
            after_prefill = offload_stats(model.transformer)
        else:
            decode += seconds
            facts |= {
                "decode": decode / number,
                "decode_reads": spent(offload_stats(model.transformer) - after_prefill),
            }
        facts["measured"] = peak_memory_bytes()
        facts["off"] = round(facts["planned"] / facts["measured"] - 1, 4)
        if number == tokens:
            facts |= {"ids": chosen, "logits": hashlib.sha256(np.array(logits).tobytes()).hexdigest()[:16]}
        tell(facts)


def leak(folder: Path, tokens: int = 10_000) -> None:
    """Prints resident MB, threads of the process, open files and objects after every 1,000 tokens."""
    import gc

    import mlx_oss

    context = 1100
    model = mlx_oss.load_model(
        folder, memory=mlx_oss.plan(folder, memory=1, context=context).least_bytes, context=context
    )
    for part in range(tokens // 1000):
        options = mlx_oss.SamplingOptions(seed=part, logprobs=False)
        for _ in mlx_oss.generate_step(model, [1, 2, 3 + part], options, max_tokens=1000):
            pass
        gc.collect()
        status = Path("/proc/self/status").read_text().splitlines()
        resident = next(int(line.split()[1]) // 1000 for line in status if line.startswith("VmRSS"))
        counts = [len(list(Path("/proc/self", name).iterdir())) for name in ("task", "fd")]
        tell(
            {
                "tokens": 1000 * (part + 1),
                "MB": resident,
                "threads": counts[0],
                "files": counts[1],
                "objects": len(gc.get_objects()),
            }
        )


def spent(reads: Any) -> dict[str, Any]:
    return {"hit_rate": round(reads.hit_rate, 3), "GB": round(reads.nbytes / 1e9, 2), "waited": round(reads.seconds, 2)}


def tell(facts: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def drop_from_page_cache(folder: Path) -> None:
    """Needs Linux."""
    for file in folder.glob("*.safetensors"):
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


if __name__ == "__main__":
    main()
