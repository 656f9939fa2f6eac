"""`conversion.json`: what an MLX folder was converted from, and checksums that cover every byte of it.

The CRC-32 of each tensor, and sha256 of the header of each weight file, of each other file, and of the manifest itself.
The same conversion writes the same manifest: no times, no paths.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlx_oss.convert.source import Source
from mlx_oss.convert.staging import WrittenTensor
from mlx_oss.errors import CheckpointError

NAME = "conversion.json"
FORMAT = 3


def write(
    folder: Path, source: Source, shards: Mapping[str, Mapping[str, WrittenTensor]], others: Iterable[str]
) -> None:
    """Into a folder that is complete but for the manifest; `shards` holds what is known of each one's tensors, `others`
    are the names of all other files.
    """
    sizes = {tensor.file.name: tensor.file.stat().st_size for tensor in source.tensors.values()}
    known = {name: written for shard in shards.values() for name, written in shard.items()}
    (folder / NAME).write_bytes(
        _sealed(
            {
                "format": FORMAT,
                "source": {"layout": source.layout, "files": dict(sorted(sizes.items()))},
                "relative_errors": {n: known[n].error for n in sorted(known) if known[n].error is not None},
                "files": {name: _sha256((folder / name).read_bytes()) for name in sorted(others)},
                "headers": {name: _sha256(_header(folder / name)) for name in sorted(shards)},
                "crc32": {name: f"{known[name].crc32:08x}" for name in sorted(known)},
            }
        )
    )


def read(folder: Path) -> dict[str, Any] | None:
    """The parsed manifest; None where the folder has none (others write MLX folders too).

    Raises CheckpointError for one that is not byte for byte as it was written, or of another format.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        written = path.read_bytes()
        parsed = json.loads(written)
        if parsed["format"] != FORMAT:
            raise CheckpointError(f"{path} is of format {parsed['format']!r}, {FORMAT} is known: convert again")
        if _sealed({key: value for key, value in parsed.items() if key != "seal"}) != written:
            raise ValueError
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{path} is damaged: convert again") from None
    return parsed


def check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """All but the tensors' bytes is as it was written. Raises CheckpointError naming the first file that is not."""
    for kind, content in (("headers", _header), ("files", Path.read_bytes)):
        for name, checksum in manifest[kind].items():
            path = folder / name
            try:
                found = _sha256(content(path))
            except OSError:
                raise CheckpointError(f"{path} is missing or cannot be read: convert again") from None
            if found != checksum:
                what = f"the header of {path}" if kind == "headers" else str(path)
                raise CheckpointError(f"{what} is not as {NAME} says: convert again")


def _sealed(content: Mapping[str, Any]) -> bytes:
    """The manifest's bytes: the content and, last, the checksum of its text."""
    seal = _sha256(json.dumps(content, indent=2).encode())
    return (json.dumps({**content, "seal": seal}, indent=2) + "\n").encode()


def _header(path: Path) -> bytes:
    """A safetensors file up to its data."""
    with path.open("rb") as file:
        length = file.read(8)
        return length + file.read(min(int.from_bytes(length, "little"), path.stat().st_size))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
