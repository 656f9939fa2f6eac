"""Changes several files of a folder, all or nothing, also if the process is killed or another program changes them.

Before anything is changed, a journal in the folder lists what will be. The new versions are written to temporary files
first. Then each file is put in its place with a rename that replaces nothing, or exchanged with the old version, and
the old version is looked at: if it is not the one that the change was made for, everything is undone. A process that
is killed leaves its journal, without a lock on it; the next transaction, or `recover`, undoes what it lists.

Undoing only removes what the transaction itself has written. If another program has changed a file after it was put in
its place, that file stays as it is, and the version from before the transaction is kept beside it, as NAME.saved.
Knows nothing of patches.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mlx_oss.errors import ToolError
from mlx_oss.tools.patch.anchored_paths import AnchoredFolder, AnchoredPath

PREFIX = ".mlx-oss-patch-"  # of the names of journals and temporary files
MAX_BYTES = 64 << 20  # of a file
_JOURNAL = re.compile(re.escape(PREFIX) + r"[0-9a-f]{16}\.journal")
_MAX_JOURNAL = 16 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Step:
    """The change of one path. A file that is moved takes two steps, one for the old path and one for the new.

    Attributes:
        path: The path, relative to the folder.
        before: The content before; None if there is no file yet.
        after: The content after; None if the file is deleted.
        mode_from: Path of the file that it gets its permissions from.
    """

    path: str
    before: bytes | None
    after: bytes | None
    mode_from: str


def write(root: Path, steps: Sequence[Step]) -> None:
    """Changes the files.

    Raises ToolError if a file is no longer what it was, or something cannot be written. Nothing is changed then; if
    that is not possible either, the message says so, and the next `recover` tries again.
    """
    path = steps[0].path
    try:
        with AnchoredFolder(root) as folder:
            folders = list(dict.fromkeys(missing for step in steps for missing in folder.missing_folders(step.path)))
            entries = [(step.path, _digest(step.before), _digest(step.after)) for step in steps]
            with _Journal.create(folder, json.dumps({"folders": folders, "steps": entries})) as journal:
                works: list[_Work] = []
                try:
                    for number, step in enumerate(steps):
                        path = step.path
                        works.append(_Work(folder, journal.stem, number, *entries[number], create=True))
                        if step.after is not None:
                            model = folder.resolve(step.mode_from).status
                            works[-1].new.write(step.after, None if model is None else stat.S_IMODE(model.st_mode))
                    journal.add("written")
                except BaseException:
                    _discard(folder, works, folders)
                    journal.remove()
                    raise
                try:
                    for step, work in zip(steps, works, strict=True):
                        path = step.path
                        work.apply()
                    for work in works:
                        work.check()  # another program may still have had the old version open
                except BaseException as error:
                    saved = _undo(folder, works, folders)
                    journal.remove()
                    if saved and isinstance(error, ToolError):
                        raise ToolError(f"{error}; older versions are kept as {', '.join(saved)}") from None
                    raise
                journal.add("done")
                _clean(works)
                journal.remove()
    except OSError as error:
        raise ToolError(f"nothing is changed: {path} cannot be written ({error.strerror})") from None


@contextlib.contextmanager
def locked(root: Path, wait: float) -> Iterator[bool]:
    """Keeps the transactions of other processes out of a folder. Where the file system has no locks, nothing does.

    Args:
        root: The folder.
        wait: How many seconds to wait for another process.

    Yields:
        False if another process has the lock and keeps it for longer than that.
    """
    try:
        opened = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # whatever comes next says why
        yield True
        return
    try:
        yield _lock(opened, time.monotonic() + wait)
    finally:
        os.close(opened)


def _lock(file: int, until: float) -> bool:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
        except OSError:
            return True
        else:
            return True


def recover(root: Path) -> None:
    """Undoes what a killed process has left half done in a folder, and removes what it has left over.

    To be called with the folder locked. What cannot be read or written stays for the next time.
    """
    with contextlib.suppress(OSError), AnchoredFolder(root) as folder:
        for name in filter(_JOURNAL.fullmatch, folder.names()):
            ignored = OSError, ToolError, ValueError, TypeError, KeyError, AttributeError, RecursionError
            with contextlib.suppress(*ignored), _Journal.open(folder, name) as journal:
                _finish(folder, journal)


def _finish(folder: AnchoredFolder, journal: _Journal) -> None:
    lines = journal.lines()
    if lines:  # otherwise it was killed before anything else was written
        plan = json.loads(lines[0])
        works = []
        for number, (path, before, after) in enumerate(plan["steps"]):
            if is_inside(path):
                with contextlib.suppress(FileNotFoundError):  # its folder was not created
                    works.append(_Work(folder, journal.stem, number, path, before, after))
        if lines[-1] == "done":
            _clean(works)
        elif lines[-1] == "written":
            _undo(folder, works, plan["folders"])
        else:
            _discard(folder, works, plan["folders"])
    journal.remove()


def is_inside(path: str) -> bool:
    """Whether a path is relative and leads down, and not to git's files or those of a transaction."""
    parts = PurePosixPath(path).parts
    plain = ["".join(letter for letter in part if letter not in _IGNORED).lower() for part in parts]
    return bool(parts) and not (
        path.startswith("/")
        or "\\" in path
        or "\0" in path
        or ".." in parts
        or any(part == ".git" or part.startswith(PREFIX) for part in plain)
    )


# Characters that the file system of older Macs ignores in names.
_IGNORED = {chr(code) for code in (*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF)}


class _Work:
    """One step while it is carried out. Everything that `undo` has to know is on the disk.

    Attributes:
        path: The path of the file.
        new: The temporary file with the new version, until it is in its place.
        old: The temporary file with the old version, once it is no longer in its place.
    """

    def __init__(
        self,
        folder: AnchoredFolder,
        stem: str,
        number: int,
        path: str,
        before: str | None,
        after: str | None,
        create: bool = False,
    ) -> None:
        self.path, self._before, self._after = path, before, after
        self._target = folder.resolve(path, create=create)
        self.new, self.old = (self._target.sibling(f"{stem}-{number}.{kind}") for kind in ("new", "old"))

    def apply(self) -> None:
        """Puts the new version in its place and the old one aside. Raises ToolError if it is not the one expected."""
        try:
            if self._before is None:
                self.new.rename_new(self._target)
                return
            if self._after is not None and self.new.exchange(self._target):
                self.new.rename_new(self.old)
                self.check()
                return
            self._target.rename_new(self.old)
            self.check()
            if self._after is not None:
                self.new.rename_new(self._target)
        except (FileExistsError, FileNotFoundError):
            raise self._changed() from None

    def check(self) -> None:
        """Raises ToolError if the old version is not the one expected."""
        if self._before is not None and _content(self.old) != self._before:
            raise self._changed()

    def undo(self) -> str | None:
        """Puts the old version back. Returns the name under which it was kept, if its place is taken by now."""
        if self.new.status is not None:
            if _content(self.new) != self._after:  # it is the old version: the exchange was the last that happened
                self.new.rename_new(self.old)
            else:
                was_in_place = self._before is not None or _same(self.new, self._target)
                self.new.unlink()
                if not was_in_place:  # what is in its place belongs to another program
                    return None
        if self.old.status is None:
            if self._before is None:
                self._remove_own()
            return None
        if _same(self.old, self._target):  # two names of one file: renaming it was the last that happened
            self.old.unlink()
            return None
        if self._after is not None and self._target.status is not None and self.old.exchange(self._target):
            if _content(self.old) == self._after:  # what was in its place is our own
                self.old.unlink()
                return None
            self.old.exchange(self._target)
        else:
            self._remove_own()
        return self._put_back()

    def clean(self) -> None:
        self.old.unlink()

    def _remove_own(self) -> None:
        """Removes the new version from its place, unless another program has changed or replaced it."""
        if self._after is None or _content(self._target) != self._after:
            return
        self._target.rename_new(self.new)
        if _content(self.new) == self._after:
            self.new.unlink()
        else:
            self.new.rename_new(self._target)

    def _put_back(self) -> str | None:
        name = PurePosixPath(self.path).name
        for kept in ("", f"{name}.saved", f"{name[:40]}.{secrets.token_hex(4)}.saved"):
            with contextlib.suppress(FileExistsError):
                self.old.rename_new(self._target.sibling(kept) if kept else self._target)
                return str(PurePosixPath(self.path).with_name(kept)) if kept else None
        return None

    def _changed(self) -> ToolError:
        return ToolError(f"nothing is changed: {self.path} has changed meanwhile, look at it again")


class _Journal:
    """The list of what a transaction changes, locked as long as its process lives.

    Attributes:
        stem: How the names of the transaction's temporary files begin.
    """

    def __init__(self, path: AnchoredPath, name: str, file: int) -> None:
        self._path, self._file, self.stem = path, file, name.removesuffix(".journal")

    @classmethod
    def create(cls, folder: AnchoredFolder, plan: str) -> _Journal:
        name = f"{PREFIX}{secrets.token_hex(8)}.journal"
        path = folder.resolve(name)
        journal = cls(path, name, path.open(os.O_RDWR | os.O_CREAT | os.O_EXCL))
        try:
            fcntl.flock(journal._file, fcntl.LOCK_EX)
            journal.add(plan)
            if path.status is None:  # another process took it for one that was left behind, before it was locked
                raise OSError(errno.EAGAIN, "another patch is being applied", name)
        except BaseException:
            journal.remove()
            os.close(journal._file)
            raise
        return journal

    @classmethod
    def open(cls, folder: AnchoredFolder, name: str) -> _Journal:
        """Raises OSError if it belongs to a process that is alive, or is no file."""
        path = folder.resolve(name)
        journal = cls(path, name, path.open(os.O_RDWR))
        try:
            if not stat.S_ISREG(os.fstat(journal._file).st_mode):
                raise OSError(errno.EINVAL, "it is no file", name)
            fcntl.flock(journal._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(journal._file)
            raise
        return journal

    def __enter__(self) -> _Journal:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def add(self, line: str) -> None:
        content = f"{line}\n".encode()
        while content:
            content = content[os.write(self._file, content) :]

    def lines(self) -> list[str]:
        """The complete lines."""
        content = os.pread(self._file, _MAX_JOURNAL, 0).decode("utf-8", "replace")
        return content[: content.rfind("\n") + 1].splitlines()

    def remove(self) -> None:
        self._path.unlink()


def _undo(folder: AnchoredFolder, works: Sequence[_Work], folders: Sequence[str]) -> list[str]:
    """Undoes the steps that were carried out. Returns the names under which old versions are kept.

    Raises ToolError if a step cannot be undone; the others are.
    """
    saved, failed = [], ""
    for work in reversed(works):
        try:
            if (kept := work.undo()) is not None:
                saved.append(kept)
        except OSError as error:
            failed = f"{work.path} cannot be put back ({error.strerror})"
    if failed:
        raise ToolError(f"the patch is half applied, since {failed}: the next patch tries again to undo it")
    _remove_folders(folder, folders)
    return saved


def _discard(folder: AnchoredFolder, works: Sequence[_Work], folders: Sequence[str]) -> None:
    """Removes what was written before any file was changed."""
    for work in works:
        work.new.unlink()
    _remove_folders(folder, folders)


def _remove_folders(folder: AnchoredFolder, folders: Sequence[str]) -> None:
    for path in reversed(folders):
        if is_inside(path):
            with contextlib.suppress(OSError):
                folder.resolve(path).rmdir()


def _clean(works: Sequence[_Work]) -> None:
    for work in works:
        with contextlib.suppress(OSError):  # the change is made, even if an old version cannot be deleted
            work.clean()


def _digest(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def _content(path: AnchoredPath) -> str | None:
    """The digest of a file; None if there is none, or something else by that name."""
    try:
        return _digest(path.read(MAX_BYTES))
    except OSError:
        return None


def _same(one: AnchoredPath, other: AnchoredPath) -> bool:
    first, second = one.status, other.status
    return first is not None and second is not None and os.path.samestat(first, second)
