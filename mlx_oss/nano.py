"""nano, the bundled demonstration model: unpacks it, converts it like any other model, and caches the result.

The bundle is a checkpoint in the released Hugging Face layout, except that its embedding and unembedding contain only
the rows of tokens that occur in its training data, and a last row that is used for all other ids. `examples/nano/`
contains the code that made it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import time
from importlib import resources
from pathlib import Path

import numpy as np

from mlx_oss.errors import CheckpointError, ConversionError, MlxOssError
from mlx_oss.folders import cache_folder

BUNDLE = "nano.tar.xz"
ROWS = "rows.json"  # the id of each row, in order, except the last row
_WORK = ".nano-"  # the beginning of the name of a folder in which nano is created
_LEFT_OVER = 60  # seconds without a change after which such a folder is removed, unless a process holds its lock
# The tensors of which the bundle has only some rows.
WHOLE = ("model.embed_tokens.weight", "lm_head.weight")


def nano_folder() -> Path:
    """Returns the MLX folder of nano. The first call creates it in the cache folder (a few seconds, 0.1 GB).

    Each call compares the folder with its checksums (0.1 s) and creates it again if it is damaged, and removes what a
    call that was killed has left behind.

    Raises:
        CheckpointError: If the bundled file is missing.
        ConversionError: If there is no cache folder, or it cannot be written.
    """
    file = resources.files("mlx_oss") / "data" / BUNDLE
    try:
        bundle = file.read_bytes()
    except OSError:
        raise CheckpointError(f"{file} is missing: reinstall mlx-oss, or give the folder of a model") from None
    cache = cache_folder()
    if cache is None:
        raise ConversionError("there is no home folder to cache nano in: set MLX_OSS_CACHE to a folder")
    folder = cache / f"nano-{hashlib.sha256(bundle).hexdigest()[:12]}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_left_over(cache)
        if not _is_whole(folder):
            _make(folder)
    except (OSError, RuntimeError) as error:  # MLX raises RuntimeError if the disk is full
        reason = getattr(error, "strerror", None) or error
        raise ConversionError(
            f"{folder} cannot be written ({reason}): set MLX_OSS_CACHE to a folder with write access and free space"
        ) from None
    return folder


def _is_whole(folder: Path) -> bool:
    """True if every byte of the folder is as it was written."""
    from mlx_oss.convert import verify

    try:
        verify(folder)
    except MlxOssError:
        return False
    return True


def _make(folder: Path) -> None:
    """Creates the folder under a temporary name and renames it at the end, so several processes can do so at once."""
    from mlx_oss.convert import convert

    work = Path(tempfile.mkdtemp(prefix=_WORK, dir=folder.parent))
    lock = os.open(work, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        release = work / "release"
        release.mkdir()
        unpack(release)
        convert(release, work / "mlx")
        if os.path.lexists(folder) and not _is_whole(folder):
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                folder.rename(work / "damaged")
        try:
            (work / "mlx").rename(folder)
        except OSError:
            if not _is_whole(folder):  # if it is, another process has just created the same folder
                raise
    finally:
        os.close(lock)
        shutil.rmtree(work, ignore_errors=True)


def _remove_left_over(cache: Path) -> None:
    """Removes the folders of processes that were killed while they created nano."""
    for work in cache.glob(f"{_WORK}*"):
        with contextlib.suppress(OSError):  # it is being written, or is gone already
            lock = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.fstat(lock).st_mtime > _LEFT_OVER:
                    shutil.rmtree(work, ignore_errors=True)
            finally:
                os.close(lock)


def unpack(release: Path) -> None:
    """Unpacks the bundle into the folder `release`, as a complete checkpoint in the released layout."""
    with (resources.files("mlx_oss") / "data" / BUNDLE).open("rb") as file, tarfile.open(fileobj=file) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extractall(release, filter="data")
        else:  # Python before 3.11.4; safe, because the archive is part of this package
            archive.extractall(release)
    rows = json.loads((release / ROWS).read_text())
    (release / ROWS).unlink()
    vocab = json.loads((release / "config.json").read_text())["vocab_size"]
    row_of_id = np.full(vocab, len(rows))
    row_of_id[rows] = np.arange(len(rows))
    _expand(release / "model.safetensors", row_of_id)


def _expand(path: Path, row_of_id: np.ndarray) -> None:
    """Rewrites the tensors in WHOLE with one row for each id: row `row_of_id[id]` of the stored tensor."""
    from mlx_oss.backend.mlx_library import load_mlx

    load_mlx()
    import mlx.core as mx

    tensors = mx.load(str(path))
    assert isinstance(tensors, dict)
    index = mx.array(row_of_id)
    tensors |= {name: tensors[name][index] for name in WHOLE}
    mx.eval(tensors)
    path.unlink()
    mx.save_safetensors(str(path), tensors)
