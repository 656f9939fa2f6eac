"""Measures how the time and memory of a prefill grow with the length of the prompt, for the table in the README.

    python -m tests.bench_prefill [FOLDER]

The chunk size is fixed. Each length runs in its own process, so that its peak memory can be measured. Without FOLDER it
uses a random model with eight layers.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
CHUNK = 512
SHAPE = {
    "num_hidden_layers": 8,
    "num_local_experts": 16,
    "num_experts_per_tok": 4,
    "vocab_size": 4096,
    "hidden_size": 1024,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "sliding_window": 128,
}


def measure(folder: str, length: int) -> dict[str, float]:
    """Wall-clock seconds, processor seconds of all cores, bytes of the cache, peak bytes beyond the loaded model."""

    from mlx_oss.backend.process_memory import peak_memory_bytes
    from mlx_oss.generation.generate import prefill
    from mlx_oss.loader import load_model

    model = load_model(folder)
    vocab = model.config.vocab_size
    prefill(model, [1] * 64, model.make_cache())
    loaded, cache = peak_memory_bytes(), model.make_cache()
    started, worked = time.perf_counter(), time.process_time()
    prefill(model, [7919 * n % vocab for n in range(length)], cache, chunk=CHUNK)
    return {
        "seconds": time.perf_counter() - started,
        "worked": time.process_time() - worked,
        "cache": cache.nbytes,
        "peak": peak_memory_bytes() - loaded,
    }


def main(folder: str) -> None:
    for length in LENGTHS:
        command = [sys.executable, "-m", "tests.bench_prefill", folder, str(length)]
        done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        sys.stdout.write(
            f"{length:6} tokens: {done['seconds']:6.2f} s, {1e3 * done['worked'] / length:.2f} ms of cores a token, "
            f"caches {done['cache'] / 1e6:.0f} MB, peak beside {done['peak'] / 1e6:.0f} MB\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.stdout.write(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
    elif len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        from mlx_oss.convert import convert
        from tests.synthetic import write_checkpoint

        with tempfile.TemporaryDirectory() as work:
            convert(write_checkpoint(Path(work) / "release", SHAPE), Path(work) / "model")
            main(str(Path(work) / "model"))
