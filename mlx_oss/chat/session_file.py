"""The file of a saved session: safetensors, with the conversation as JSON in the header and the caches as tensors.

The text can be read even if the tensors are damaged. Checksums protect both. The file contains a fingerprint of the
model, because caches of another model would give wrong answers without an error. Knows nothing of turns and MLX.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from mlx_oss.chat.recovery import recover
from mlx_oss.chat.saved import DECODING_ERRORS, ImpossibleField, Saved, from_json, to_json
from mlx_oss.errors import CheckpointError, SessionError, quoted
from mlx_oss.files import SESSION_BYTES, check_regular, expanded, open_regular
from mlx_oss.generation.engine import PromptCache, SavedTensor
from mlx_oss.weights.safetensors import TensorInfo, read_header

FORMAT = "mlx_oss session 1"

_UNFINISHED = ".unfinished.safetensors"
_STALE = 60  # seconds after which the temporary file of a process that has ended is removed
_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}  # their names in safetensors
_NAMES = {stored: name for name, stored in _DTYPES.items()}
_SURROGATE = re.compile("[\ud800-\udfff]")  # bytes of a path that are not UTF-8


def write(path: str | Path, saved: Saved, tensors: Callable[[], Iterable[tuple[str, SavedTensor]]]) -> None:
    """Writes a temporary file and renames it, so that the file is always complete. Only the user may read it.

    Each call has a temporary file of its own, so several processes can write to one path; the last one counts. What a
    killed process has left behind is removed.

    Args:
        path: The file to write. `~` stands for the home folder.
        saved: Everything except the caches.
        tensors: `PromptCache.tensors` of the caches. It is called twice, so that one tensor at a time is in memory.

    Raises:
        SessionError: If the file cannot be written, or the conversation is too long for a file.
    """
    path = expanded(path)
    checksum, entries, end = _Checksum(), {}, 0
    for name, tensor in tensors():
        checksum.add(name, tensor)
        start, end = end, end + len(tensor.data)
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": tensor.shape, "data_offsets": [start, end]}
    text = to_json(replace(saved, caches=checksum.value))
    metadata = {"format": FORMAT, "text": text, "seal": _sha256(text.encode())}
    header = json.dumps({"__metadata__": metadata, **entries}).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > SESSION_BYTES:
        raise SessionError(
            f"{path} cannot be written: the text of the conversation takes {len(header):,} bytes, and a file holds "
            f"{SESSION_BYTES:,}; clear the conversation, or save it as text"
        )
    unfinished = path.parent / f"{_beginning(path)}{secrets.token_hex(8)}{_UNFINISHED}"
    try:
        _check_path(path)
        if os.path.lexists(path):
            check_regular(path, os.stat(path))
        _remove_stale(path)
        with _created(unfinished) as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for _, tensor in tensors():
                file.write(tensor.data)
            file.flush()
            os.fsync(file.fileno())
            unfinished.replace(path)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):  # the temporary file may not exist
            unfinished.unlink()
        reason = getattr(error, "strerror", None) or error
        raise SessionError(f"{path} cannot be written ({reason}): choose another path") from None


def _created(path: Path) -> BinaryIO:
    """A new file that only the user may read, locked as long as it is open."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(OSError):  # a file system without locks: then nothing stale is removed, either
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return open(descriptor, "wb")


def _beginning(path: Path) -> str:
    """How the names of the temporary files of this path begin: short enough that the whole name has 255 bytes."""
    return f".{path.name.encode(errors='replace')[:150].decode(errors='ignore')}."


def _remove_stale(path: Path) -> None:
    """Removes temporary files of this path that no process writes any more."""
    beginning = _beginning(path)
    for entry in os.scandir(path.parent):
        middle = entry.name.removeprefix(beginning).removesuffix(_UNFINISHED)
        if entry.name != f"{beginning}{middle}{_UNFINISHED}" or not re.fullmatch("[0-9a-f]{16}", middle):
            continue
        # An error means that it is being written, or is gone already.
        with contextlib.suppress(OSError), open_regular(entry.path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(file.fileno()).st_mtime > _STALE:
                os.unlink(entry.path)


def read(path: str | Path, *, damaged: bool = False) -> Saved:
    """Reads everything except the caches.

    Args:
        path: The file. `~` stands for the home folder.
        damaged: Whether to recover the readable messages if the file is damaged.

    Raises:
        SessionError: If the file cannot be read, is not a saved session, or is damaged (if `damaged`: beyond recovery);
            or if it is whole, but a field has an impossible value.
    """
    path = expanded(path)
    try:
        _check_path(path)
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
            raw = file.read(min(length, SESSION_BYTES))
            more = file.read(SESSION_BYTES - len(raw)) if damaged else b""  # the damage may be in the length itself
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SessionError(f"{path} cannot be read ({reason}): check the path and its permissions") from None
    try:
        return _from_header(path, raw)
    except ImpossibleField:
        raise
    except SessionError:
        if not damaged:
            raise
        if (recovered := recover(raw + more)) is None:
            raise SessionError(
                f"{path} is not a saved session, or is damaged: no message in it can be read, so give another file"
            ) from None
        return recovered


def _check_path(path: Path) -> None:
    """Raises ValueError for a path that does not name a file, or not the same one everywhere."""
    if not path.name or "\0" in str(path) or _SURROGATE.search(str(path)):
        raise ValueError("not a valid file name")


def _from_header(path: Path, raw: bytes) -> Saved:
    try:
        metadata = json.loads(raw)["__metadata__"]
        text, seal, form = metadata["text"], metadata["seal"], metadata["format"]
        if form != FORMAT:
            raise SessionError(f"{path} has format {quoted(form)}, but this version reads {FORMAT!r}: update mlx-oss")
        if _sha256(text.encode()) != seal:
            raise SessionError(f"{path} is damaged: `text_only=True` recovers the readable part of the conversation")
        return from_json(text)
    except ImpossibleField as error:
        raise ImpossibleField(
            f"{path} was not written by mlx-oss, or by another version of it: {error}; give another file"
        ) from None
    except DECODING_ERRORS:
        raise SessionError(
            f"{path} is not a saved session, or is damaged: `text_only=True` recovers the readable messages"
        ) from None


def restore(path: str | Path, saved: Saved, cache: PromptCache, fingerprint: str) -> None:
    """Reads the caches into a prompt cache, one tensor at a time.

    Args:
        path: The file.
        saved: What `read` returned for it.
        cache: The prompt cache; it stays as it is if the caches cannot be read.
        fingerprint: Fingerprint of the engine that the caches must belong to.

    Raises:
        SessionError: If the caches are damaged or belong to another model.
    """
    if saved.model != fingerprint:
        raise SessionError(
            f"{path} was saved with another model or dtype, or by an earlier version: `text_only=True` loads its text"
        )
    try:
        with open_regular(expanded(path)) as file:
            tensors = read_header(expanded(path), SESSION_BYTES)
            described = {name: (_NAMES[info.dtype], info.shape) for name, info in tensors.items()}
            cache.check(len(saved.cached), described)
            cache.restore(saved.cached, _tensors(file, tensors, saved.caches))
    except (OSError, ValueError, LookupError, RuntimeError, CheckpointError):  # MLX raises RuntimeError for bad shapes
        raise SessionError(
            f"{path} has damaged caches: `text_only=True` recovers the conversation without them"
        ) from None


def _tensors(file: BinaryIO, tensors: Mapping[str, TensorInfo], expected: str) -> Iterator[tuple[str, SavedTensor]]:
    """The tensors of a file, sorted by name. Raises ValueError at the end if their checksum is not the expected one."""
    checksum = _Checksum()
    for name, info in sorted(tensors.items()):
        file.seek(info.start)
        tensor = SavedTensor(_NAMES[info.dtype], info.shape, file.read(info.nbytes))
        checksum.add(name, tensor)
        yield name, tensor
    if checksum.value != expected:
        raise ValueError("the checksum is wrong")


class _Checksum:
    """SHA-256 of the names, dtypes, shapes and values of tensors that are added sorted by name."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, name: str, tensor: SavedTensor) -> None:
        # As MLX writes dtypes, because the first version of the format did.
        self._hash.update(f"{name} mlx.core.{tensor.dtype} {tensor.shape}".encode())
        self._hash.update(tensor.data)

    @property
    def value(self) -> str:
        return self._hash.hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
