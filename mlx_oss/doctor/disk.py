"""Measures how fast a model's files are read from disk, and checks the folders in which mlx-oss keeps files.

Knows nothing of MLX.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from mlx_oss.config import ModelConfig
from mlx_oss.doctor.findings import Finding
from mlx_oss.errors import MlxOssError
from mlx_oss.folders import cache_folder, state_folder
from mlx_oss.memory.estimates import expert_bytes, format_bytes
from mlx_oss.weights.files import READERS
from mlx_oss.weights.hub.copies import name_of
from mlx_oss.weights.layouts.checkpoint import open_checkpoint
from mlx_oss.weights.names import is_expert

GROUP = "disk"
READ, MOST, SECONDS = 8 << 20, 1 << 30, 3.0  # bytes of one read, bytes of all, and the time after which none begins
_SPACE = 1_000_000_000  # bytes that should be free for nano and saved sessions


def check_model(folder: Path) -> Iterator[Finding]:
    """Reads parts of a model's files, and says what the speed means for experts on disk."""
    files = [path for path in sorted(folder.glob("*.safetensors")) if path.is_file() and path.stat().st_size >= READ]
    if not files:
        text = f"{name_of(folder)} has no weight file of 8 MB or more, so the disk was not measured."
        yield Finding(GROUP, "speed", "ok", text)
        return
    try:
        nbytes, seconds, single = read_speed(files)
    except OSError as error:
        text = f"The model's files cannot be read: {error}."
        yield Finding(GROUP, "speed", "problem", text, "Check the disk and who may read the files.")
        return
    speed = nbytes / seconds
    text = f"The model's files are read with {speed / 1e9:.1f} GB/s"
    with contextlib.suppress(MlxOssError):
        config = ModelConfig.from_file(folder / "config.json")
        used = config.num_hidden_layers * config.num_experts_per_tok
        wait = used * _expert_bytes(folder, config) / speed
        text += f": a token whose {used} experts were all on disk would wait {wait:.2g} s for them"
    details = {"bytes": nbytes, "bytes_per_second": round(speed), "read_seconds": single}
    yield Finding(GROUP, "speed", "ok", f"{text}.", "", details)


def _expert_bytes(folder: Path, config: ModelConfig) -> int:
    """Bytes of one expert of one layer in a folder, as the model holds it; of a release's if the folder is damaged."""
    try:
        tensors = open_checkpoint(folder).tensors
    except MlxOssError:
        return expert_bytes(config)
    experts = sum(tensor.nbytes for name, tensor in tensors.items() if is_expert(name))
    return experts // (config.num_hidden_layers * config.num_local_experts)


def read_speed(files: list[Path], most: int = MOST) -> tuple[int, float, float]:
    """Reads pieces of 8 MB at random places, several at a time as the experts on disk are read.

    Returns:
        Bytes that were read, the seconds that this took, and the median of the seconds of a single read.
    """
    chosen = random.Random(0)
    places = [(path, start) for path in files for start in range(0, path.stat().st_size - READ + 1, READ)]
    places = chosen.sample(places, min(len(places), most // READ))
    started = time.perf_counter()

    def read(place: tuple[Path, int]) -> float:
        begun = time.perf_counter()
        if begun - started > SECONDS:
            return 0.0
        _read_uncached(*place)
        return time.perf_counter() - begun

    with ThreadPoolExecutor(READERS) as threads:
        times = [each for each in threads.map(read, places) if each]
    return len(times) * READ, time.perf_counter() - started, median(times)


def _read_uncached(path: Path, start: int) -> None:
    """Reads from the disk rather than from the system's cache, as far as the system can be told to."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, start, READ, os.POSIX_FADV_DONTNEED)
        else:  # macOS; still, what is in its cache already comes from there
            import fcntl

            fcntl.fcntl(descriptor, getattr(fcntl, "F_NOCACHE", 48), 1)
        with mmap.mmap(-1, READ) as memory:  # begins at a page, as macOS needs for reading past its cache
            os.preadv(descriptor, [memory], start)
    finally:
        os.close(descriptor)


def check_folders() -> Iterator[Finding]:
    """Checks that the folders for the cache and for the chat history can be written and have space."""
    yield _folder("cache", cache_folder(), "Set MLX_OSS_CACHE to a folder with write access and free space.")
    yield _folder("history", state_folder(), "Without it, chats have no history of earlier questions.")


def _folder(name: str, folder: Path | None, remedy: str) -> Finding:
    if folder is None:
        return Finding(GROUP, name, "note", f"There is no home folder, so there is no folder for the {name}.", remedy)
    existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        return Finding(GROUP, name, "note", f"The folder for the {name} ({folder}) cannot be written.", remedy)
    free = shutil.disk_usage(existing).free
    details = {"free": free}
    if free < _SPACE:
        text = f"Only {format_bytes(free)} are free for the {name}."
        return Finding(GROUP, name, "note", text, remedy, details)
    text = f"The folder for the {name} can be written; {format_bytes(free)} are free."
    return Finding(GROUP, name, "ok", text, "", details)
