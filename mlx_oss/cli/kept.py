"""Conversations that are kept for the user: text only, in a folder that only the user can read, a bounded number.

A conversation has a file of its own, which is replaced as a whole after each answer. While a program writes to it, it
holds a lock, so two programs never write to the same one. Knows nothing of what is typed and printed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_oss.errors import OptionError, SessionError, quoted
from mlx_oss.files import can_exist, expanded
from mlx_oss.folders import state_folder

if TYPE_CHECKING:
    from mlx_oss.chat.saved import Saved
    from mlx_oss.chat.session import ChatSession

MOST, MOST_BYTES = 200, 128 << 20  # conversations that are kept, and bytes of all of them
VARIABLE = "MLX_OSS_HISTORY"
_ENDING = ".session"
_NAME = re.compile(r"\d{4}-\d\d-\d\d-\d{4}(-\d+)?")


def folder() -> Path | None:
    """The folder of the conversations, whether it exists or not. None if the user has no home folder."""
    state = state_folder()
    return None if state is None else state / "conversations"


def is_wanted(no_history: bool) -> bool:
    """Whether the user lets questions and conversations be kept."""
    return not no_history and os.environ.get(VARIABLE) != "0"


@dataclass(frozen=True, slots=True)
class Kept:
    """A conversation that is kept.

    Attributes:
        name: Its name: the time when it began, such as 2026-11-30-1405.
        path: Its file.
        changed: When it was last written, in seconds since 1970.
        nbytes: Bytes of the file.
    """

    name: str
    path: Path
    changed: float
    nbytes: int

    def read(self) -> Saved:
        """What is in the file, also if it is damaged. Raises SessionError if nothing can be read."""
        from mlx_oss.chat import session_file

        return session_file.read(self.path, damaged=True)


def all_kept() -> list[Kept]:
    """All conversations, the last one first. Files that are not called like one are left out."""
    found, home = [], folder()
    with contextlib.suppress(OSError):
        for entry in os.scandir(home) if home is not None else ():
            name = entry.name.removesuffix(_ENDING)
            if entry.name != name and _NAME.fullmatch(name):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    found.append(Kept(name, Path(entry.path), status.st_mtime, status.st_size))
    return sorted(found, key=lambda kept: (kept.changed, kept.name), reverse=True)


def last() -> Kept:
    """The conversation that was written last. Raises OptionError if there is none."""
    kept = all_kept()
    if not kept:
        raise OptionError("no conversation is kept yet: begin one with `mlx-oss chat`")
    return kept[0]


def find(name: str) -> Kept | Path:
    """What a name means: a kept conversation, also by the beginning of its name, or else a file.

    Raises:
        OptionError: If it is neither, or several conversations begin like this.
    """
    known = all_kept()
    if exact := [kept for kept in known if kept.name == name]:
        return exact[0]
    if can_exist(name) and os.path.lexists(expanded(name)):
        return expanded(name)
    begun = [kept for kept in known if kept.name.startswith(name)]
    if len(begun) == 1:
        return begun[0]
    if begun:
        names = ", ".join(kept.name for kept in begun[:3]) + (" ..." if len(begun) > 3 else "")
        raise OptionError(f"{len(begun)} conversations begin like {name}: {names}; type more of the name")
    raise OptionError(f"{quoted(name)} is neither a file nor a kept conversation: /sessions lists those")


class Keeper:
    """Writes one conversation after another, each into a file of its own.

    Attributes:
        name: The name of the conversation that is written; None before its first answer.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._lock = -1

    def keep(self, session: ChatSession) -> None:
        """Writes the conversation as it is now; a conversation without turns is forgotten.

        Raises:
            SessionError: If it cannot be written.
        """
        home = folder()
        if home is None:
            raise SessionError("there is no home folder, so conversations are not kept: --no-history says so")
        if not session.turns:
            if self.name is not None:
                with contextlib.suppress(OSError):
                    (home / f"{self.name}{_ENDING}").unlink()
            return
        try:
            for place in (home.parent, home):  # `mode` is only for the last folder of a path
                place.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.chmod(home, 0o700)
            if self.name is None:
                self._begin(home)
        except OSError as error:
            raise SessionError(
                f"{home} cannot be written ({error.strerror}), so this conversation is not kept: check the folder, or "
                "use --no-history"
            ) from None
        session.save(home / f"{self.name}{_ENDING}", text_only=True)
        self._forget_oldest()

    def go_on(self, kept: Kept) -> bool:
        """Lets the next answers be written into the file of a conversation. False if another program writes to it."""
        self.end()
        lock = None
        with contextlib.suppress(OSError):
            lock = _locked(kept.path.parent, kept.name)
        if lock is None:
            return False
        self.name, self._lock = kept.name, lock
        return True

    def end(self) -> None:
        """Lets go of the conversation: the next answer begins another one."""
        home = folder()
        if self.name is not None and home is not None:
            with contextlib.suppress(OSError):
                _lock_file(home, self.name).unlink()
            with contextlib.suppress(OSError):
                os.close(self._lock)
        self.name, self._lock = None, -1

    def _begin(self, home: Path) -> None:
        for name in _new_names():
            if not (home / f"{name}{_ENDING}").exists() and (lock := _locked(home, name)) is not None:
                if not (home / f"{name}{_ENDING}").exists():  # another program may have just ended
                    self.name, self._lock = name, lock
                    return
                os.close(lock)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(home))

    def _forget_oldest(self) -> None:
        """Removes the oldest conversations if there are too many, except those that are locked, such as this one."""
        number = nbytes = 0
        for kept in all_kept():
            if number < MOST and nbytes + kept.nbytes <= MOST_BYTES:
                number, nbytes = number + 1, nbytes + kept.nbytes
                continue
            with contextlib.suppress(OSError):
                if (lock := _locked(kept.path.parent, kept.name)) is not None:
                    kept.path.unlink()
                    _lock_file(kept.path.parent, kept.name).unlink()
                    os.close(lock)


def _new_names() -> Iterator[str]:
    began = time.strftime("%Y-%m-%d-%H%M")
    yield began
    for number in range(2, 1000):
        yield f"{began}-{number}"


def _lock_file(home: Path, name: str) -> Path:
    return home / f".{name}.lock"


def _locked(home: Path, name: str) -> int | None:
    """Locks a conversation. Returns a file descriptor that holds the lock, or None if another program holds it.

    Raises:
        OSError: If the folder cannot be written, or its file system has no locks.
    """
    path = _lock_file(home, name)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:  # whoever held it has just removed it: try again
            pass
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
