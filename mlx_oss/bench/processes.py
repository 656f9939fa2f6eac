"""The processes that measure: one for each repetition of each engine, in turn. Knows nothing of what they measure."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGABRT
from tempfile import TemporaryDirectory
from typing import Any

from mlx_oss.errors import BenchmarkError
from mlx_oss.files import expanded
from mlx_oss.python_process import command_of

ENGINES = ("mlx-oss", "mlx-lm", "mlx-lm-float32", "llama.cpp")
Samples = dict[str, list[dict[str, Any]]]  # what each engine's processes have printed


@dataclass(frozen=True, slots=True)
class Processes:
    """Measures engines in turn.

    Attributes:
        options: What each engine is loaded with, by its name.
        folder: Folder of the model.
        environment: The environment variables of the measuring processes.
        weights: What an engine runs if not the folder, by its name.
        say: Called with a short description of each measurement.
    """

    options: Mapping[str, dict[str, Any]]
    folder: Path
    environment: dict[str, str]
    weights: Mapping[str, str]
    say: Callable[[str], None]

    def alternating(self, task: str, rounds: int, **asked: object) -> Samples:
        """The samples of each engine. In each round every engine is measured once.

        Args:
            task: What the processes do, in a word, to tell the user.
            rounds: Number of rounds.
            asked: What the worker is asked for, besides the engine and its model.

        Raises:
            BenchmarkError: If an engine cannot load or run the model.
        """
        samples: Samples = {engine: [] for engine in self.options}
        for repeat in range(rounds):
            for engine, measured in samples.items():
                self.say(f"{engine}, {task}, {repeat + 1} of {rounds}")
                request = {"folder": str(self.folder), "engine": engine, "options": self.options[engine]} | asked
                measured.append(sample_of(request, self.environment))
        return samples


@contextmanager
def prepared(
    folder: str | Path,
    compare: Sequence[str],
    ours: dict[str, Any],
    context: int,
    progress: Callable[[str], None] | None,
) -> Iterator[Processes]:
    """Prepares what the engines need, and removes it in the end.

    Args:
        folder: Folder of the model.
        compare: The engines besides mlx-oss.
        ours: What mlx-oss is loaded with.
        context: Most tokens of a prompt and its answer.
        progress: Called with a short description of each measurement.

    Raises:
        BenchmarkError: If there is no room for llama.cpp's file.
        ConfigError: If llama.cpp is asked for, and the folder's config cannot be read.
        CheckpointError: If llama.cpp is asked for, and the folder's files cannot be read.
    """
    say = progress or (lambda _: None)
    options: dict[str, dict[str, Any]] = {engine: {} for engine in ENGINES if engine in compare}
    # On the CPU backend, MLX compiles what mlx-lm computes into the temporary folder, and loads what lies there.
    with TemporaryDirectory(prefix="mlx-oss-bench-") as private:
        weights = {}
        if "llama.cpp" in options:
            from mlx_oss.bench import gguf_file  # not before: each measuring process imports this package

            say("llama.cpp, writing a file of random weights")
            file = Path(private) / "random.gguf"
            weights["llama.cpp"] = gguf_file.make(file, expanded(folder))
            options["llama.cpp"] = {"gguf": str(file), "context": context}
        environment = os.environ | {"TMPDIR": private}
        yield Processes({"mlx-oss": ours} | options, expanded(folder), environment, weights, say)


def sample_of(request: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """Runs one measurement in a process of its own and returns its sample. Raises BenchmarkError if it fails."""
    command = command_of("mlx_oss.bench.worker", json.dumps(request))
    process = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
    if process.returncode == 0:
        sample: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
        return sample
    engine, errors = request["engine"], process.stderr.strip().splitlines() or ["it reported no reason"]
    if process.returncode == -SIGABRT:  # llama.cpp has found something that it does not expect
        raise BenchmarkError(f"{engine} gave up while it ran {request['folder']}: {errors[-1]}")
    if process.returncode < 0:
        signal = -process.returncode
        raise BenchmarkError(
            f"{engine} was killed by signal {signal} while it ran {request['folder']}: probably out of memory"
        )
    raise BenchmarkError(f"{engine} cannot run {request['folder']}: {errors[-1]}")
