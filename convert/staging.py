"""The hidden folder that a conversion writes into, and renames to the target when it is complete.

It is locked and can be resumed. A target NAME uses these folders, all beside it:

    .NAME.partial    being written: finished and unfinished shards, and a record of the finished ones (.conversion.json)
    .NAME.replaced   the old folder of that name, while the new one takes its place
    .NAME.deleted    the old folder, being deleted

A shard counts as finished when it is on the disk under its final name and listed in the record. The record belongs to
one plan: with another source, target or other options, the conversion starts from the beginning. Knows nothing of what
is written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_oss.errors import ConversionError
from mlx_oss.files import MANIFEST_BYTES, read_bytes
from mlx_oss.system_files import is_empty, is_system_file

_RECORD = ".conversion.json"
_NO_LOCKS = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@dataclass(frozen=True, slots=True)
class WrittenTensor:
    """The CRC-32 of a written tensor and, if its values are not those of the source, its relative error."""

    crc32: int
    error: float | None = None


class Staging:
    """The hidden folder of a conversion. Entering the context creates and locks it, and deletes what cannot be resumed.

    Entering raises ConversionError if another conversion holds the lock, or the folder cannot be written.

    Attributes:
        target: The folder to publish it as.
        folder: The hidden folder.
        plan_id: Changes with everything that the written bytes depend on.
        finished: The tensors of each finished shard, by shard name.
    """

    def __init__(self, target: Path, plan_id: str):
        self.target = target
        self.folder = _partial(target)
        self.plan_id = plan_id
        self.finished: dict[str, dict[str, WrittenTensor]] = self._read_record()

    def __enter__(self) -> Staging:
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock = _locked(self.folder)
            try:
                for path in self._unfinished():
                    path.unlink(missing_ok=True)  # on exFAT, macOS deletes `._NAME` together with NAME
            except OSError:
                os.close(self._lock)
                raise
        except BlockingIOError:
            raise ConversionError(
                f"{self.target} is being written by another conversion: wait for it to finish"
            ) from None
        except OSError as error:
            raise ConversionError(
                f"{self.folder} cannot be written ({error.strerror}): choose another target"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def path(self, shard: str) -> Path:
        """Path to write a shard to until it is finished."""
        return self.folder / f"{shard}.unfinished"

    def finish(self, shard: str, tensors: Mapping[str, WrittenTensor]) -> None:
        """Records that a shard is completely on the disk. From now on it is not written again."""
        self.path(shard).rename(self.folder / shard)
        self.finished[shard] = dict(tensors)
        shards = {name: {key: asdict(value) for key, value in each.items()} for name, each in self.finished.items()}
        unfinished = self.folder / f"{_RECORD}.unfinished"
        write_json(unfinished, {"plan": self.plan_id, "shards": shards})
        sync(unfinished)
        unfinished.rename(self.folder / _RECORD)
        sync(self.folder)

    @property
    def reclaimable_bytes(self) -> int:
        """Bytes on the disk that entering the context frees: unfinished shards, and everything of another plan."""
        try:
            return sum(path.stat().st_blocks * 512 for path in self._unfinished())
        except OSError:  # the folder does not exist, or another conversion is changing it
            return 0

    def publish(self) -> None:
        """Renames the hidden folder to the target.

        A folder that the target replaces is moved aside first, and deleted only after the new one is in place. If the
        process is killed in between, the old folder stays under its other name, and `restore_replaced` repairs that.

        Raises:
            OSError: If a folder cannot be renamed. The target is then as it was before.
        """
        for path in (*self.folder.iterdir(), self.folder):
            if not is_system_file(path.name):
                sync(path)
        replaced = _replaced(self.target)
        if self.target.is_dir() and any(self.target.iterdir()):
            self.target.rename(replaced)
        try:
            self.folder.rename(self.target)
        except OSError:
            if replaced.is_dir():
                replaced.rename(self.target)
            raise
        (self.target / _RECORD).unlink()
        sync(self.target.parent)
        if replaced.is_dir():
            _delete(replaced)

    def discard(self) -> None:
        """Deletes the hidden folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _unfinished(self) -> list[Path]:
        kept = {_RECORD, *self.finished} if self.finished else set()
        return [path for path in self.folder.iterdir() if path.name not in kept]

    def _read_record(self) -> dict[str, dict[str, WrittenTensor]]:
        try:
            record = json.loads(read_bytes(self.folder / _RECORD, MANIFEST_BYTES).decode())
            if record["plan"] != self.plan_id:
                return {}
            shards = record["shards"].items()
            return {
                shard: {name: WrittenTensor(**fields) for name, fields in tensors.items()}
                for shard, tensors in shards
                if (self.folder / shard).is_file()
            }
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return {}


def restore_replaced(target: Path) -> None:
    """Repairs what a kill during `Staging.publish` may have left behind.

    If the old folder was moved aside but the new one was not yet renamed to the target, the old one is moved back, with
    a warning. If the new one is in place, the old one is deleted. The hidden folder of the new one exists only in the
    first case, so the cases can be distinguished even if something else has been created under the target's name.

    Raises:
        ConversionError: If the old folder should be moved back, but the target's name is taken or renaming fails.
    """
    replaced, staging, deleted = _replaced(target), _partial(target), _deleted(target)
    shutil.rmtree(deleted, ignore_errors=True)
    if target.is_dir():
        (target / _RECORD).unlink(missing_ok=True)  # a conversion was killed just after renaming the folder
    if not replaced.is_dir():
        return
    try:
        if staging.is_dir():
            os.close(_locked(staging))
        if target.exists() and not staging.is_dir():
            _delete(replaced)
        elif target.exists() and not is_empty(target):
            raise ConversionError(
                f"{target} exists, and {replaced} holds the folder that a killed conversion was replacing: move one "
                "of them"
            )
        else:
            for path in target.iterdir() if target.exists() else ():  # only what a system has added
                path.unlink(missing_ok=True)
            replaced.rename(target)
            warnings.warn(f"{target} is restored: a conversion was killed while it replaced the folder", stacklevel=3)
    except BlockingIOError:  # another conversion is replacing it right now
        return
    except OSError as error:
        raise ConversionError(
            f"{replaced} cannot be moved back to {target} ({error.strerror}): move it yourself"
        ) from None


def _locked(folder: Path) -> int:
    """Locks a folder and returns the file descriptor that holds the lock until it is closed.

    Some network file systems cannot lock folders; then a warning is issued and the descriptor holds no lock. Raises
    BlockingIOError if another process holds the lock.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            warnings.warn(f"{folder} cannot be locked: do not start another conversion to this target", stacklevel=3)
            return descriptor
        os.close(descriptor)
        raise
    return descriptor


def hidden_names(target: Path) -> tuple[str, ...]:
    """Names of the hidden folders that a conversion to `target` uses beside it."""
    return tuple(path(target).name for path in (_partial, _replaced, _deleted))


def _partial(target: Path) -> Path:
    return target.parent / f".{target.name}.partial"


def _replaced(target: Path) -> Path:
    return target.parent / f".{target.name}.replaced"


def _deleted(target: Path) -> Path:
    return target.parent / f".{target.name}.deleted"


def _delete(replaced: Path) -> None:
    """Renames a folder, then deletes it. So what a kill leaves of it is not mistaken for a whole folder."""
    deleted = replaced.with_suffix(".deleted")
    replaced.rename(deleted)
    shutil.rmtree(deleted, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def sync(path: Path) -> None:
    """Flushes a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)


def flush(descriptor: int) -> None:
    """Waits until written data is on the disk. On macOS fsync alone leaves it in the drive's cache (see fsync(2))."""
    with contextlib.suppress(OSError):  # a file system without F_FULLFSYNC
        if hasattr(fcntl, "F_FULLFSYNC"):
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)
