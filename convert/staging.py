"""The hidden folder a conversion writes into, beside its target: locked, resumable, published by renaming.

A shard counts as finished once it is on the disk under its name and in the record; the record belongs to one plan, so
another source, target or choice of options starts anew. Knows nothing of what is written.
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

_RECORD = ".conversion.json"
_NO_LOCKS = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@dataclass(frozen=True, slots=True)
class WrittenTensor:
    """What is known of a written tensor: its CRC-32 and, if it was quantised, its relative error."""

    crc32: int
    error: float | None = None


class Staging:
    """Use as a context; `finished` holds what is known of each finished shard's tensors by shard name."""

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
                    path.unlink()
            except OSError:
                os.close(self._lock)
                raise
        except BlockingIOError:
            raise ConversionError(f"{self.target} is being written by another conversion: wait for it") from None
        except OSError as error:
            raise ConversionError(f"{self.folder} cannot be written ({error.strerror}): give another target") from None
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def path(self, shard: str) -> Path:
        """Where to write an unfinished shard."""
        return self.folder / f"{shard}.unfinished"

    def finish(self, shard: str, tensors: Mapping[str, WrittenTensor]) -> None:
        """The shard is completely on the disk: from now on it is not written again."""
        self.path(shard).rename(self.folder / shard)
        self.finished[shard] = dict(tensors)
        shards = {name: {key: asdict(value) for key, value in each.items()} for name, each in self.finished.items()}
        unfinished = self.folder / f"{_RECORD}.unfinished"
        write_json(unfinished, {"plan": self.plan_id, "shards": shards})
        sync(unfinished)
        unfinished.rename(self.folder / _RECORD)
        sync(self.folder)

    @property
    def droppable(self) -> int:
        """Bytes on the disk that entering the context sets free: shards that were not finished, or of another plan."""
        try:
            return sum(path.stat().st_blocks * 512 for path in self._unfinished())
        except OSError:  # there is none, or another conversion is at work on it
            return 0

    def publish(self) -> None:
        """Renames the folder to its name; what was there before goes only once the new one is in place. A kill in
        between leaves the old one under another name, see `put_back`. Raises OSError where that cannot be; the target
        is as it was then.
        """
        for path in (*self.folder.iterdir(), self.folder):
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
        shutil.rmtree(self.folder, ignore_errors=True)

    def _unfinished(self) -> list[Path]:
        kept = {_RECORD, *self.finished} if self.finished else set()
        return [path for path in self.folder.iterdir() if path.name not in kept]

    def _read_record(self) -> dict[str, dict[str, WrittenTensor]]:
        try:
            record = json.loads((self.folder / _RECORD).read_text(encoding="utf-8"))
            if record["plan"] != self.plan_id:
                return {}
            shards = record["shards"].items()
            return {
                shard: {name: WrittenTensor(**known) for name, known in tensors.items()}
                for shard, tensors in shards
                if (self.folder / shard).is_file()
            }
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return {}


def put_back(target: Path) -> None:
    """Repairs what a kill during `publish` may have left: an old folder that was moved aside before the new one had
    its place goes back, with a warning; one that is replaced already is deleted. While the new one is unpublished, its
    hidden folder is there, so neither goes for something else that has taken the name since.

    Raises ConversionError where the name is taken.
    """
    replaced, staging, deleted = _replaced(target), _partial(target), _deleted(target)
    shutil.rmtree(deleted, ignore_errors=True)
    if target.is_dir():
        (target / _RECORD).unlink(missing_ok=True)  # it was killed just after it had its name
    if not replaced.is_dir():
        return
    try:
        if staging.is_dir():
            os.close(_locked(staging))
        if target.exists() and not staging.is_dir():
            _delete(replaced)
        elif target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise ConversionError(
                f"{target} is taken, and {replaced} holds what a killed conversion was replacing: move one of them"
            )
        else:
            replaced.rename(target)
            warnings.warn(f"{target} is put back: a conversion was killed while it replaced the folder", stacklevel=3)
    except BlockingIOError:  # it is being replaced just now
        return
    except OSError as error:
        raise ConversionError(f"{replaced} cannot be moved back to {target} ({error.strerror}): move it") from None


def _locked(folder: Path) -> int:
    """A descriptor that locks the folder until it is closed; some file systems of networks have no locks for folders,
    which is told. Raises BlockingIOError if another process has it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            warnings.warn(f"{folder} cannot be locked: let no second conversion write there meanwhile", stacklevel=3)
            return descriptor
        os.close(descriptor)
        raise
    return descriptor


def hidden_names(target: Path) -> tuple[str, ...]:
    """The names beside a target that its conversion uses."""
    return tuple(path(target).name for path in (_partial, _replaced, _deleted))


def _partial(target: Path) -> Path:
    return target.parent / f".{target.name}.partial"


def _replaced(target: Path) -> Path:
    return target.parent / f".{target.name}.replaced"


def _deleted(target: Path) -> Path:
    return target.parent / f".{target.name}.deleted"


def _delete(replaced: Path) -> None:
    """Under another name first, so that what a kill leaves of it is not taken for a whole folder."""
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
    """Returns when what was written is on the disk; macOS's fsync leaves it in the disk's own cache (its fsync(2))."""
    with contextlib.suppress(OSError):  # a file system that does not know it
        if hasattr(fcntl, "F_FULLFSYNC"):
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)
