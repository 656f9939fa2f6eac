"""The bundled demonstration model: unpacked, converted by the real converter, and kept in the user's cache folder.

The bundle is a checkpoint in the released Hugging Face layout, except that its embedding and unembedding hold only the
rows of tokens that occur in its training, and one last row that stands for every other id. How it is made:
`examples/nano/`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tarfile
import tempfile
from importlib import resources
from pathlib import Path

import numpy as np

from mlx_oss.errors import CheckpointError, ConversionError

BUNDLE = "nano.tar.xz"
ROWS = "rows.json"  # the ids of the rows, in order, without the last one
WHOLE = ("model.embed_tokens.weight", "lm_head.weight")


def nano_folder() -> Path:
    """The MLX folder of nano; the first call makes it (a few seconds, 0.1 GB).

    It lies in MLX_OSS_CACHE, or else where the system keeps caches. Raises ConversionError if that cannot be written.
    """
    file = resources.files("mlx_oss") / "data" / BUNDLE
    try:
        bundle = file.read_bytes()
    except OSError:
        raise CheckpointError(f"{file} is missing: reinstall mlx-oss, or give the folder of a model") from None
    folder = _cache_home() / f"nano-{hashlib.sha256(bundle).hexdigest()[:12]}"
    try:
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            _make(folder)
    except (OSError, RuntimeError) as error:  # the second is MLX's where a disk is full
        reason, advice = getattr(error, "strerror", None) or error, "set MLX_OSS_CACHE to a folder that can"
        raise ConversionError(f"{folder} cannot be written ({reason}): {advice}") from None
    return folder


def _cache_home() -> Path:
    if chosen := os.environ.get("MLX_OSS_CACHE"):
        return Path(chosen)
    home, given = Path(os.path.expanduser("~")), Path(os.environ.get("XDG_CACHE_HOME", ""))
    if sys.platform == "darwin":
        caches = home / "Library" / "Caches"
    else:  # the XDG Base Directory Specification has relative ones ignored
        caches = given if given.is_absolute() else home / ".cache"
    if not caches.is_absolute():
        raise ConversionError("there is no home folder to keep nano in: set MLX_OSS_CACHE to a folder")
    return caches / "mlx-oss"


def _make(folder: Path) -> None:
    """Works beside `folder` and renames at the end, so that a second process at the same time does no harm."""
    from mlx_oss.convert import convert

    work = Path(tempfile.mkdtemp(prefix=".nano-", dir=folder.parent))
    try:
        release = work / "release"
        release.mkdir()
        unpack(release)
        convert(release, work / "mlx")
        try:
            (work / "mlx").rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, and made the same
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def unpack(release: Path) -> None:
    """Writes the bundle into the folder `release` as a complete checkpoint in the released layout."""
    with (resources.files("mlx_oss") / "data" / BUNDLE).open("rb") as file, tarfile.open(fileobj=file) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extractall(release, filter="data")
        else:  # Python 3.11 before 3.11.4; the archive is our own
            archive.extractall(release)
    rows = json.loads((release / ROWS).read_text())
    (release / ROWS).unlink()
    vocab = json.loads((release / "config.json").read_text())["vocab_size"]
    place = np.full(vocab, len(rows))
    place[rows] = np.arange(len(rows))
    _expand(release / "model.safetensors", place)


def _expand(path: Path, place: np.ndarray) -> None:
    """Gives WHOLE one row for each id: row place[id] of what the file holds."""
    import mlx.core as mx

    tensors = mx.load(str(path))
    assert isinstance(tensors, dict)
    index = mx.array(place)
    tensors |= {name: tensors[name][index] for name in WHOLE}
    mx.eval(tensors)
    path.unlink()
    mx.save_safetensors(str(path), tensors)
