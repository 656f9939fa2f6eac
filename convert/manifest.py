"""The manifest `conversion.json`: what an MLX folder was converted from, and checksums that cover every byte of it.

It holds the CRC-32 of each tensor, and the sha256 of the header of each weight file, of each other file, and of the
manifest itself. It contains no times and no paths, so the same conversion always writes the same manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlx_oss.convert.staging import WrittenTensor
from mlx_oss.errors import CheckpointError, quoted
from mlx_oss.files import COMPANION_BYTES, HEADER_BYTES, MANIFEST_BYTES, can_exist, open_regular, read_bytes
from mlx_oss.weights.layouts.checkpoint import Checkpoint

NAME = "conversion.json"
FORMAT = 3


def write(
    folder: Path,
    source: Checkpoint,
    shards: Mapping[str, Mapping[str, WrittenTensor]],
    other_files: Iterable[str],
    adapter: Iterable[Path] = (),
) -> None:
    """Writes the manifest into a folder that is otherwise complete.

    Args:
        folder: The MLX folder.
        source: The checkpoint it was made from.
        shards: The tensors of each shard, by shard name.
        other_files: Names of all other files in the folder.
        adapter: The files of the adapter that was added to the source; none if there was no adapter.
    """
    added = {path.name: path.stat().st_size for path in adapter}
    sizes = {tensor.file.name: tensor.file.stat().st_size for tensor in source.file_tensors.values()}
    tensors = {name: written for shard in shards.values() for name, written in shard.items()}
    (folder / NAME).write_bytes(
        _sealed(
            {
                "format": FORMAT,
                "source": {"layout": source.layout.name, "files": dict(sorted(sizes.items()))},
                **({"adapter": dict(sorted(added.items()))} if added else {}),
                "relative_errors": {n: tensors[n].error for n in sorted(tensors) if tensors[n].error is not None},
                "files": {name: _sha256(_whole(folder / name)) for name in sorted(other_files)},
                "headers": {name: _sha256(_header(folder / name)) for name in sorted(shards)},
                "crc32": {name: f"{tensors[name].crc32:08x}" for name in sorted(tensors)},
            }
        )
    )


def read(folder: Path) -> dict[str, Any] | None:
    """The parsed manifest; None if the folder has none (other programs write MLX folders too).

    Raises:
        CheckpointError: If the manifest is not byte for byte as it was written, or has another format.
    """
    path = folder / NAME
    if not os.path.lexists(path):
        return None
    try:
        written = read_bytes(path, MANIFEST_BYTES)
        parsed: dict[str, Any] = json.loads(written)
        if parsed["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has format {quoted(parsed['format'])}, but this version reads format {FORMAT}: convert again"
            )
        if _sealed({key: value for key, value in parsed.items() if key != "seal"}) != written:
            raise ValueError
        for kind in ("headers", "files", "crc32"):  # anybody can compute the seal
            if not all(isinstance(checksum, str) for checksum in parsed[kind].values()):
                raise ValueError
        if not all(Path(name).name == name and can_exist(name) for name in (*parsed["headers"], *parsed["files"])):
            raise CheckpointError(f"{path} names files outside its folder: convert again")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): convert again") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{path} is damaged: convert again") from None
    return parsed


def check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Checks all bytes of the folder except those of tensors.

    Raises:
        CheckpointError: If a file differs from the manifest or is missing; names the first one.
    """
    for kind, read_part in (("headers", _header), ("files", _whole)):
        for name, checksum in manifest[kind].items():
            path = folder / name
            try:
                actual = _sha256(read_part(path))
            except OSError:
                raise CheckpointError(f"{path} is missing or cannot be read: convert again") from None
            if actual != checksum:
                what = f"the header of {path}" if kind == "headers" else str(path)
                raise CheckpointError(f"{what} does not match {NAME}: convert again")


def _sealed(content: Mapping[str, Any]) -> bytes:
    """The bytes of the manifest: the content and, as its last entry, the checksum of its text."""
    seal = _sha256(json.dumps(content, indent=2).encode())
    return (json.dumps({**content, "seal": seal}, indent=2) + "\n").encode()


def _header(path: Path) -> bytes:
    """The bytes of a safetensors file before the data."""
    with open_regular(path) as file:
        length = file.read(8)
        return length + file.read(min(int.from_bytes(length, "little"), HEADER_BYTES))


def _whole(path: Path) -> bytes:
    return read_bytes(path, COMPANION_BYTES)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
