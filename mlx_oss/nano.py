"""nano, the bundled demonstration model: unpacks it, converts it like any other model, and caches the result.

The bundle is a checkpoint in the released Hugging Face layout, except that its embedding and unembedding contain only
the rows of tokens that occur in its training data, and a last row that is used for all other ids. `examples/nano/`
contains the code that made it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import tempfile
from importlib import resources
from pathlib import Path

import numpy as np

from mlx_oss.errors import CheckpointError, ConversionError
from mlx_oss.folders import cache_folder

BUNDLE = "nano.tar.xz"
ROWS = "rows.json"  # the id of each row, in order, except the last row
# The tensors of which the bundle has only some rows.
WHOLE = ("model.embed_tokens.weight", "lm_head.weight")


def nano_folder() -> Path:
    """Returns the MLX folder of nano. The first call creates it in the cache folder (a few seconds, 0.1 GB).

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
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            _make(folder)
    except (OSError, RuntimeError) as error:  # MLX raises RuntimeError if the disk is full
        reason = getattr(error, "strerror", None) or error
        raise ConversionError(
            f"{folder} cannot be written ({reason}): set MLX_OSS_CACHE to a folder with write access and free space"
        ) from None
    return folder


def _make(folder: Path) -> None:
    """Creates the folder under a temporary name and renames it at the end, so several processes can do so at once."""
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
            if not folder.is_dir():  # if it is, another process has just created the same folder
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


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
