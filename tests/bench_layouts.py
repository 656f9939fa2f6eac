"""Compares a release loaded as it is with the folder that it is converted to: loading, reading a prompt, decoding.

    python -m tests.bench_layouts [--layers 6] [--layout hf] [--rounds 5] [--tokens 16]

Writes a random model in the shapes of gpt-oss-20b into a temporary folder (5 GB with six layers, twice). Loading is
measured in processes of its own, in turn. Then one process holds both models, and they take turns token by token, so
other load on the machine affects both equally. Prints medians, and the median of the ratios of neighbouring
measurements; above 1, the release is slower.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import mlx_oss
from tests.synthetic import LAYOUTS, RELEASED_20B, write_checkpoint

PROMPT = 32  # tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--layout", choices=LAYOUTS, default="hf")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--worker", metavar="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        load(args.worker)
        return
    from mlx_oss.convert import convert

    with tempfile.TemporaryDirectory() as work:
        released, converted = Path(work) / args.layout, Path(work) / "mlx"
        dims = RELEASED_20B | {"num_hidden_layers": args.layers}
        write_checkpoint(released, dims, layout=args.layout, deviation=0.02)
        convert(released, converted)
        loaded = [[load_apart(folder) for folder in (converted, released)] for _ in range(args.rounds + 1)][1:]
        show("loading", [[each["seconds"] for each in pair] for pair in loaded])
        show("memory in MB", [[each["memory"] / 1e6 for each in pair] for pair in loaded])
        compare([converted, released], args.rounds, args.tokens)


def load(folder: str) -> None:
    load_model = mlx_oss.load_model  # also imports MLX
    start = time.perf_counter()
    model = load_model(folder, memory="1TB")
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    facts = {"seconds": seconds, "memory": memory, "weights": model.plan.weight_bytes}
    sys.stdout.write(json.dumps(facts) + "\n")


def load_apart(folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench_layouts", "--worker", str(folder)]
    facts: dict[str, float] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return facts


def compare(folders: Sequence[Path], rounds: int, tokens: int) -> None:
    """Both models in this process, in turn; the first of each pair changes from round to round."""
    models = [mlx_oss.load_model(folder, memory="1TB") for folder in folders]
    import mlx.core as mx

    def timed(call: Callable[[], mx.array]) -> tuple[float, mx.array]:
        start = time.perf_counter()
        result = call()
        mx.eval(result)
        return time.perf_counter() - start, result

    def pair(prompts: Sequence[mx.array], turn: int) -> list[tuple[float, mx.array]]:
        results = [(0.0, mx.array(0))] * 2
        for which in (turn % 2, 1 - turn % 2):
            results[which] = timed(lambda which=which: models[which](prompts[which], caches[which])[:, -1])  # type: ignore[misc]
        assert mx.array_equal(results[0][1], results[1][1]), "the logits differ"
        return results

    prefills, decodes = [], []
    prompt = mx.random.randint(0, models[0].config.vocab_size, (1, PROMPT), key=mx.random.key(1))
    for turn in range(rounds + 1):
        caches = [model.make_cache() for model in models]
        prefills.append(pair([prompt] * 2, turn))
    last = prefills[-1]
    for turn in range(tokens + 1):
        last = pair([mx.argmax(logits, -1)[None] for _, logits in last], turn)
        decodes.append(last)
    show(f"reading {PROMPT} tokens", [[seconds for seconds, _ in each] for each in prefills[1:]])
    show("decoding a token", [[seconds for seconds, _ in each] for each in decodes[1:]])


def show(what: str, pairs: Sequence[Sequence[float]]) -> None:
    converted, released = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(released / converted for converted, released in pairs)
    sys.stdout.write(f"{what}: converted {converted:.3f}, as released {released:.3f}, ratio {ratio:.3f}\n")


if __name__ == "__main__":
    main()
