"""What runs on each machine for `mlx-oss hosts check`: `python -m mlx_oss.hosts.worker JOB ...`.

    facts [MODEL]         what this machine is, and which files of a model it has
    gather                how long it takes until all machines have what each of them had
    together MODEL FILE   the logits of a short prompt, computed by all machines; the first one writes them to a file
    alone MODEL FILE      the same by this machine alone, compared with the file, which is removed

The answer is a line of JSON. The system ends a job that takes too long, even while MLX waits for another machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import signal
import sys
import time
from dataclasses import astuple
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from mlx_oss.distributed.launched import fail
from mlx_oss.errors import EngineError, MlxOssError, OptionError
from mlx_oss.files import COMPANION_BYTES, HEADER_BYTES, MANIFEST_BYTES, open_regular, read_bytes
from mlx_oss.hosts.reach import ANSWER
from mlx_oss.terminal import one_line, say
from mlx_oss.version import __version__

SECONDS = {"facts": 60, "gather": 60, "together": 600, "alone": 600}  # limits of the jobs
_PROMPT = "The capital of France is the city of Paris."
_CONTEXT = 256  # tokens: the prompt is short
_FEW, _MANY = 2880, 1 << 19  # numbers of a small gather, as after each matrix, and of a large one


def facts(model: str | None = None) -> dict[str, Any]:
    """What this machine is, and which files of a model it has."""
    from mlx_oss.hosts.interfaces import of_this_machine

    found: dict[str, Any] = {
        "versions": {"Python": platform.python_version(), "mlx": version("mlx"), "mlx-oss": __version__},
        "addresses": [astuple(each) for each in of_this_machine()],
    }
    return found if model is None else {**found, "model": files_of(model)}


def files_of(model: str) -> dict[str, Any] | None:
    """Says in a few letters what a model's files are, without reading the weights; None if it is not on this disk."""
    from mlx_oss.models import local_copy
    from mlx_oss.weights.layouts.checkpoint import open_model
    from mlx_oss.weights.sharded import identity

    if (folder := local_copy(model)) is None:
        return None
    checkpoint = open_model(folder)
    weights = sorted({tensor.file for tensor in checkpoint.file_tensors.values()})
    files = {path.name: [path.stat().st_size, _digest(_header(path))] for path in weights}
    manifest = folder / "conversion.json"
    return {
        "folder": str(folder),
        "identity": identity(checkpoint),
        "config.json": _digest(read_bytes(folder / "config.json", COMPANION_BYTES)),
        "conversion.json": _digest(read_bytes(manifest, MANIFEST_BYTES)) if manifest.exists() else None,
        "files": files,
    }


def _header(path: Path) -> bytes:
    with open_regular(path) as file:
        length = file.read(8)
        return length + file.read(min(int.from_bytes(length, "little"), HEADER_BYTES))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def gather() -> dict[str, Any]:
    """Seconds of a small gather, and bytes a second of a large one, as this machine sees them."""
    import mlx.core as mx

    from mlx_oss.distributed import launched

    group = _group()

    def seconds(count: int, times: int) -> float:
        numbers, measured = mx.zeros((1, count)), []
        for _ in range(times):
            mx.eval(numbers)
            started = time.perf_counter()
            mx.eval(mx.distributed.all_gather(numbers, group=group))
            measured.append(time.perf_counter() - started)
        return median(measured[times // 2 :])  # the first ones take far longer

    latency, whole = seconds(_FEW, 200), seconds(_MANY, 12)
    launched.part()
    received = 4 * _MANY * (group.size() - 1)
    return {"machines": group.size(), "seconds": latency, "bytes_per_second": received / whole}


def _group() -> Any:
    from mlx_oss.distributed import group

    if (found := group()) is None:
        raise EngineError("mlx.launch has started one process only: name at least two machines")
    return found


def together(model: str, file: str) -> dict[str, Any]:
    """Logits by all machines. Only the first one returns."""
    import numpy as np

    logits = _logits(model, _group())
    with open(file, "xb") as written:
        np.save(written, logits)
    return {"finite": bool(np.isfinite(logits).all())}


def alone(model: str, file: str) -> dict[str, Any]:
    """Logits by this machine alone, and how far those of all machines are from them."""
    import numpy as np

    try:
        others = np.load(file, allow_pickle=False)
    finally:
        Path(file).unlink(missing_ok=True)
    try:
        own = _logits(model, None)
    except OptionError as error:
        return {"too small": str(error)}
    return {"same": own.tobytes() == others.tobytes(), "furthest": float(abs(own - others).max())}


def _logits(model: str, group: Any) -> Any:
    import mlx.core as mx
    import numpy as np

    from mlx_oss.loader import load
    from mlx_oss.models import local_copy

    if (folder := local_copy(model)) is None:
        raise OptionError(f"{model} is not on this disk: run `mlx-oss pull {model}`")
    engine, tokenizer = load(folder, context=_CONTEXT, group=group)
    logits = engine(mx.array([tokenizer.encode(_PROMPT)]))
    return np.array(logits.astype(mx.float32))


def main(arguments: list[str]) -> int:
    """Does a job, and writes its answer."""
    job, *rest = arguments
    signal.alarm(SECONDS[job])
    jobs = {"facts": facts, "gather": gather, "together": together, "alone": alone}
    try:
        answer = jobs[job](*rest)  # type: ignore[operator]
    except MlxOssError as error:
        fail(str(error))
        answer = {"error": str(error)}
        say(one_line(f"error: {error}"))  # also of the machines whose answer nobody reads
    if os.environ.get("MLX_RANK", "0") == "0":
        sys.stdout.write(json.dumps({ANSWER: answer}) + "\n")
        sys.stdout.flush()
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
