"""Reads and checks safetensors headers: what a file or a folder of shards contains, before any weights are read.

The format is documented in huggingface/safetensors: a little-endian u64 header length, a JSON header, the data. Does
not read tensors: the loader and the converter do, and rely on the check here that the file is complete. Knows nothing
of models.

The library `safetensors` is not used here. It does not report byte ranges, it cannot read bfloat16 into NumPy or MLX
arrays (version 0.8.0), and it writes a file from whole tensors, while the converter writes in pieces. Tests use it as
an independent reader and writer.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mlx_oss.errors import CheckpointError, WrongFolderError, quoted
from mlx_oss.files import HEADER_BYTES, INDEX_BYTES, open_regular, read_bytes

ITEMSIZE = {"U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4, "I64": 8, "F64": 8}
ITEMSIZE |= {"BOOL": 1, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1}
ITEMSIZE |= {"C64": 8}
_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}  # dtypes whose values are smaller than a byte; a shape counts the values
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_MOST_AXES = 8  # of a tensor of any layout
_REPOSITORY = re.compile(r"[\w-]+/[\w.-]+", re.ASCII)  # of Hugging Face's hub
_MOST_TENSORS = 100_000  # of a model; the releases have less than 1,000, and 1,000 layers 35,000
LFS_POINTER = b"version https://git-lfs"
MLX_ADAPTER = "adapters.safetensors"
ADAPTERS = ("adapter_model.safetensors", MLX_ADAPTER)  # of PEFT and of mlx-lm
# `0000100_adapters` is a checkpoint of mlx-lm's training.
_ADAPTER = re.compile(r"(\d+_)?adapters\.safetensors|adapter_model.*\.(safetensors|bin)")


# What helps if a tensor holds what no model has, such as NaN.
OTHER_VALUES = "download it again or, if the model was saved like this, use an earlier checkpoint of it"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor is stored, and how.

    Attributes:
        name: Name of the tensor.
        file: The file that contains it.
        dtype: Its dtype as safetensors names it, for example "BF16".
        shape: Its shape.
        start: Offset of its first byte in the file.
        end: Offset after its last byte.
    """

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.start


def read_header(path: Path, limit: int = HEADER_BYTES) -> dict[str, TensorInfo]:
    """Every tensor of one safetensors file by name, in the order of their bytes.

    Args:
        path: The file.
        limit: Bytes that its header may have.

    Raises:
        CheckpointError: If the file is a Git LFS pointer, cannot be read, is truncated or too long, or its header is
            not safetensors or too large; if byte ranges overlap or leave gaps; if the size of a tensor does not match
            its shape and dtype.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(len(LFS_POINTER))
            if head.startswith(LFS_POINTER):
                raise CheckpointError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in its folder")
            length = int.from_bytes(head[:8], "little")
            if len(head) < 8 or length > size - 8:
                raise CheckpointError(f"{path} is truncated or not a safetensors file: download or save it again")
            if length > limit:
                raise CheckpointError(
                    f"{path} has a header of {length:,} bytes, but a model needs less than {limit:,}: download or save "
                    "it again"
                )
            file.seek(8)
            raw = json.loads(file.read(length).decode())  # bytes could also be UTF-16, which the format excludes
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}): check its permissions, or download it again"
        ) from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path} has a damaged safetensors header: download or save it again") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} has a damaged safetensors header: download or save it again")
    raw.pop("__metadata__", None)
    _check_count(path, len(raw))
    tensors = [_tensor(path, name, entry, 8 + length) for name, entry in raw.items()]
    tensors.sort(key=lambda t: (t.start, t.end))
    position = 8 + length
    for tensor in tensors:
        if tensor.start != position:
            raise CheckpointError(
                f"{path}: tensor {tensor.name} does not start where the one before it ends: download or save it again"
            )
        position = tensor.end
    if position != size:
        state = "truncated" if size < position else "too long"
        raise CheckpointError(
            f"{path} is {state}: it has {size:,} bytes, its header describes {position:,}: download or save it again"
        )
    return {tensor.name: tensor for tensor in tensors}


def _check_count(path: Path, count: int) -> None:
    if count > _MOST_TENSORS:
        raise CheckpointError(
            f"{path} has more than {_MOST_TENSORS:,} tensors, more than a model has: download it again"
        )


def _tensor(path: Path, name: str, entry: object, base: int) -> TensorInfo:
    try:
        dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]  # type: ignore[index]
        good = len(shape) <= _MOST_AXES and all(type(n) is int and 0 <= n < 2**63 for n in (*shape, start, end))
        if good and isinstance(dtype, str) and dtype not in ITEMSIZE and dtype not in _BITS:
            raise CheckpointError(
                f"{path}: tensor {name} has the unknown dtype {quoted(dtype)}: save the model in bfloat16"
            )
        bits = _BITS[dtype] if dtype in _BITS else 8 * ITEMSIZE[dtype]
        good = good and 8 * (end - start) == math.prod(shape) * bits
    except (TypeError, KeyError, ValueError):
        good = False
    if not good:
        raise CheckpointError(f"{path}: tensor {name} has a damaged header entry: download or save it again")
    return TensorInfo(name, path, dtype, shape, base + start, base + end)


def weight_files(folder: Path, pattern: str = "*.safetensors") -> list[str]:
    """Names of the safetensors files in a folder, or of others, without hidden ones, such as the `._NAME` of macOS."""
    return sorted(path.name for path in folder.glob(pattern) if not path.name.startswith("."))


def is_adapter(name: str) -> bool:
    """True for the name of a weight file under which mlx-lm or PEFT saves a LoRA adapter."""
    return _ADAPTER.fullmatch(name) is not None


def check_folder(folder: Path) -> None:
    """Raises CheckpointError if the path is not a folder that can be read."""
    if not os.path.isdir(folder):  # Path.is_dir can raise PermissionError, os.path.isdir never does
        if os.path.isfile(folder) and os.path.isfile(folder.parent / "config.json"):
            raise WrongFolderError(f"{folder} is a file of a model: give its folder, {folder.parent}")
        state = (
            "is not a folder, or is not accessible"
            if os.path.lexists(folder)
            else "does not exist, or is not accessible"
        )
        if os.path.islink(folder) and not os.path.exists(folder):
            state = f"is a link to {quoted(os.readlink(folder))}, which is not there"
        hint = "; GGUF files are not supported" if folder.suffix == ".gguf" else ""
        if _REPOSITORY.fullmatch(str(folder)) and not os.path.lexists(folder):
            hint = f"; to download it: `mlx-oss pull {folder}`"
        raise WrongFolderError(f"{folder} {state}: give the folder that holds config.json and *.safetensors{hint}")
    if not os.access(folder, os.R_OK | os.X_OK):  # else it would look empty
        raise WrongFolderError(f"{folder} cannot be read (permission denied): change its permissions")


def read_folder(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of the model in a folder, by name. `chosen_files` says which files hold it.

    Raises:
        CheckpointError: If the folder or a shard is missing, a shard or the index is damaged, a tensor occurs twice, or
            the index disagrees with the shards.
    """
    check_folder(folder)
    files, index = _chosen(folder)
    if not files:
        raise WrongFolderError(f"{folder} contains no *.safetensors file of a model: give the folder of a model")
    tensors: dict[str, TensorInfo] = {}
    for name in files:
        path = folder / name
        if not os.path.lexists(path):
            raise CheckpointError(f"{path} is missing, although {INDEX} names it: download it")
        for tensor in read_header(path).values():
            if tensor.name in tensors:
                raise CheckpointError(
                    f"{folder}: tensor {tensor.name} is in {tensors[tensor.name].file.name} and in {name}: remove the "
                    "file that does not belong"
                )
            tensors[tensor.name] = tensor
        _check_count(folder, len(tensors))
    if index is not None:
        _check_index(folder, index, tensors)
    return tensors


def passed_over(folder: Path, files: Collection[str]) -> list[str]:
    """Names of the safetensors files in a folder that are not among `files`, and of an index that names none of them.

    Args:
        folder: The folder.
        files: Names of the files that the model is read from.
    """
    left = [name for name in weight_files(folder) if name not in files]
    index = _read_index(folder / INDEX)
    return left if index is None or set(index.values()) & set(files) else [*left, INDEX]


def chosen_files(found: Collection[str], indexed: Collection[str] | None) -> tuple[list[str], bool]:
    """Which of the safetensors files in a folder hold the model, and whether the index is in force.

    They are the files that the index names. Without an index: `model.safetensors`, else `model-*.safetensors`, else all
    that are no adapter and no optimizer's state. An index whose files are all gone counts as none where there are such
    files: a model that was saved over another one, in other files, leaves such an index behind.

    Args:
        found: The names of the safetensors files.
        indexed: The names in the index. None: there is no index.
    """
    numbered = [name for name in found if name.startswith("model-")]
    files = [SINGLE] if SINGLE in found else numbered
    if indexed is not None and (set(indexed) & set(found) or not files):
        return sorted(set(indexed)), True
    others = [name for name in found if not is_adapter(name) and not name.startswith("optimizer")]
    return sorted(files or others), False


def _chosen(folder: Path) -> tuple[list[str], dict[str, str] | None]:
    """Names of the files that hold the model, and the index if it is in force."""
    index = _read_index(folder / INDEX)
    files, in_force = chosen_files(weight_files(folder), None if index is None else index.values())
    return files, index if in_force else None


def _read_index(path: Path) -> dict[str, str] | None:
    if not os.path.lexists(path):
        return None
    try:
        weight_map: dict[str, str] = json.loads(read_bytes(path, INDEX_BYTES))["weight_map"]
        files = {Path(file).name == file for file in weight_map.values()}
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): download or save it again") from None
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path} is damaged: download or save it again") from None
    if files != {True}:
        raise CheckpointError(f"{path} names files outside its folder, or none: download or save it again")
    return weight_map


def _check_index(folder: Path, index: dict[str, str], tensors: dict[str, TensorInfo]) -> None:
    if missing := sorted(set(index) - set(tensors)):
        raise CheckpointError(
            f"{folder}: {INDEX} names tensor {missing[0]}, which {index[missing[0]]} does not contain: download or "
            "save both files again"
        )
    for name, tensor in tensors.items():
        if index.get(name) != tensor.file.name:
            named = index.get(name, "no file")
            raise CheckpointError(
                f"{folder}: tensor {name} is in {tensor.file.name}, but {INDEX} names {named} for it: download both "
                "again"
            )
