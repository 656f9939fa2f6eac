"""Measures the speed of the converter against `cp`, and its memory, on a checkpoint with layers like those of 120b.

    python -m tests.bench_convert [--layers 4 --experts 128 --vocab 201088] [--layout hf] [--profile bf16] [--work DIR]

The converter and `cp` run in turns, in several rounds. Rows are as long as the released ones. Needs twice the size of
the checkpoint on the disk. Each figure is the median over the rounds and covers a whole process, including the start of
Python. `warm` means with the source in the page cache, `cold` with the source dropped from it (Linux). `cp` leaves its
copy in the page cache; a conversion ends when everything is on the disk, as `cp+sync` does. Memory is the largest
resident set minus that of an interpreter with MLX loaded.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.synthetic import LAYOUTS, RELEASED_20B

Run = tuple[float, float, int]  # seconds, CPU seconds, largest resident set in bytes


def measured(command: Sequence[str]) -> Run:
    started = time.perf_counter()
    child = os.posix_spawn(command[0], list(command), os.environ)
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - started
    if status:
        sys.exit(f"{' '.join(command)} failed")
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit


def drop_from_cache(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def main() -> None:
    args = _arguments()
    program = (
        "import sys; from mlx_oss.convert import ConvertOptions, convert; "
        f"convert(*sys.argv[1:], ConvertOptions({args.profile!r}, shard_bytes={args.shard_bytes}))"
    )
    base = measured([sys.executable, "-c", "import mlx.core"])[2]
    with tempfile.TemporaryDirectory(dir=args.work) as temporary:
        source, target = Path(temporary, "release"), Path(temporary, "target")
        shape = {"num_hidden_layers": args.layers, "num_local_experts": args.experts, "vocab_size": args.vocab}
        _write(source, RELEASED_20B | shape, args.layout)
        nbytes = sum(path.stat().st_size for path in source.iterdir())
        commands = {
            "cp": ["/bin/cp", "-r", str(source), str(target)],
            "cp+sync": ["/bin/sh", "-c", 'cp -r "$0" "$1" && sync "$1"/*', str(source), str(target)],
            "convert": [sys.executable, "-c", program, str(source), str(target)],
        }
        sys.stdout.write(f"{nbytes / 1e9:.2f} GB in layout {args.layout}, profile {args.profile}\n")
        for state, prepare in (("warm", warm), ("cold", drop_from_cache)):
            runs: dict[str, list[Run]] = {name: [] for name in commands}
            for turn in range(args.rounds):
                for name in sorted(commands, reverse=bool(turn % 2)):
                    prepare(source)
                    runs[name].append(measured(commands[name]))
                    shutil.rmtree(target)
                    os.sync()
            _report(state, runs, base)


def _write(folder: Path, shape: dict[str, int], layout: str) -> None:
    """Runs in its own process, because Linux counts a parent's resident set for the children it starts, too."""
    program = (
        "from pathlib import Path; from tests.synthetic import write_checkpoint; "
        f"write_checkpoint(Path({str(folder)!r}), {shape}, layout={layout!r})"
    )
    measured([sys.executable, "-c", program])


def _report(state: str, runs: dict[str, list[Run]], base: int) -> None:
    for name, figures in runs.items():
        seconds, processor, memory = (statistics.median(column) for column in zip(*figures, strict=True))
        peak = f", {(memory - base) / 2**20:+.0f} MiB" if name == "convert" else ""
        every = " ".join(f"{run[0]:.2f}" for run in figures)
        sys.stdout.write(f"{state} {name:8} {seconds:.2f} s ({every}), processor {processor:.2f} s{peak}\n")
    for copy in ("cp", "cp+sync"):
        ratios = [copied[0] / converted[0] for copied, converted in zip(runs[copy], runs["convert"], strict=True)]
        sys.stdout.write(f"{state}: {statistics.median(ratios):.2f} of the speed of {copy}\n")
    sys.stdout.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench_convert")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--vocab", type=int, default=50_304)
    parser.add_argument("--layout", choices=LAYOUTS, default="hf")
    parser.add_argument("--profile", default="bf16")
    parser.add_argument("--shard-bytes", type=int, default=4_500_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", help="folder on the disk to measure")
    return parser.parse_args()


if __name__ == "__main__":
    main()
