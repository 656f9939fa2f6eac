"""The profile for sandbox-exec on macOS, in the profile language of sandbox-exec. Not tested on a Mac.

Of the rules for an operation, the last that matches decides. A rule that names an operation exactly comes before all
rules with a wildcard (https://github.com/GreyhavenHQ/greywall/pull/20), so rules that overlap use the same name here.
Knows nothing of processes and limits.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import sys
from collections.abc import Iterable, Iterator
from unicodedata import normalize

from mlx_oss.errors import ToolError

# The names of multiprocessing's semaphores begin with "/mp-". Shared memory would be counted for no process.
_PROFILE = """\
(version 1)
(deny default)
(allow process-exec process-fork)
(allow signal process-info* (target same-sandbox))
(allow sysctl-read)
(allow ipc-posix-sem (ipc-posix-name-prefix "/mp-"))
(allow ipc-posix-shm-read* (ipc-posix-name "apple.shm.notification_center"))
(allow mach-lookup
  (global-name "com.apple.system.logger")
  (global-name "com.apple.system.notification_center")
  (global-name "com.apple.system.opendirectoryd.libinfo"))
(allow file-read*)
(deny file-read* (regex #"^/dev/tty") {closed})
(allow file-read-metadata {steps})
(allow file-read* {open})
(allow file-write* {work} (literal "/dev/null") (literal "/dev/zero"))
"""

# Homes, other volumes, temporary folders, and the place where the system shows many folders of / a second time.
_CLOSED = (
    "/Users",
    "/private/var/root",
    "/Volumes",
    "/Network",
    "/private/tmp",
    "/private/var/tmp",
    "/private/var/folders",
    "/System/Volumes/Data",
)
_MOST_LINKS = 40  # that are followed on the way to one path


def profile(work: str, visible: Iterable[str], executable: str = sys.executable) -> str:
    """Returns the profile text, with these rules for files.

    Files can be written only below `work`, apart from /dev/null and /dev/zero. Homes, other volumes and temporary
    folders are closed: in them, only `work` and the `visible` folders can be read. Of the folders and links that lead
    to `work`, to a visible folder and to the `executable`, the metadata can be read, so that links can be followed. Of
    other paths there, only whether they exist can be found out: the error says it.

    Raises:
        ToolError: If a folder cannot be named in a profile, or a folder that has to be closed lies in a visible one.
    """
    visible = list(visible)
    homes = [os.path.expanduser("~")]
    with contextlib.suppress(KeyError):  # a user without an entry
        homes.append(pwd.getpwuid(os.getuid()).pw_dir)
    closed = {*_CLOSED, *map(_real, [*homes, os.path.dirname(_real(work))])}
    if "/" in closed:
        raise ToolError(
            "the home or the temporary folder is /, which cannot be closed to the code: set HOME and TMPDIR"
        )
    opened = {_real(path) for path in [work, *visible]}
    for folder in opened:
        if inside := sorted(path for path in closed if _lies_in(path, folder)):
            raise ToolError(
                f"{folder} holds Python, so the code has to read it, but {inside[0]}, which lies in it, has to be "
                "closed to the code: use a Python in a folder of its own, such as one of uv, or another TMPDIR"
            )
    steps = {step for path in [work, *visible, executable] for step in _steps(path)}
    return _PROFILE.format(
        closed=_filters("subpath", closed),
        steps=_filters("literal", {step for step in steps if any(_lies_in(step, path) for path in closed)}),
        open=_filters("subpath", opened),
        work=_filters("subpath", [_real(work)]),
    )


def _filters(kind: str, paths: Iterable[str]) -> str:
    """Filters for these paths.

    They name the composed and the decomposed form of letters with accents: the file systems of macOS take them for the
    same name, and the kernel compares bytes.
    """
    names = {form for path in paths for form in (path, normalize("NFC", path), normalize("NFD", path))}
    return " ".join(f"({kind} {_string(name)})" for name in sorted(names))


def _string(text: str) -> str:
    r"""A string of the profile language. It knows no \u, so only quotes and backslashes are escaped."""
    escaped = _checked(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _checked(path: str) -> str:
    """The path, if it is text without control characters."""
    if any(ord(character) < 32 or 0xD800 <= ord(character) < 0xE000 for character in path):
        raise ToolError(
            f"the profile for sandbox-exec cannot name {path!a}, which has control characters or is not UTF-8: "
            "rename it, or use another home folder (HOME), temporary folder (TMPDIR) or Python"
        )
    return path


def _real(path: str) -> str:
    """The absolute path without links, as the kernel names it: also in upper and lower case."""
    path = os.path.realpath(_checked(path))
    get_path = getattr(fcntl, "F_GETPATH", None)  # only on macOS
    if get_path is not None:
        with contextlib.suppress(OSError):  # no such folder, or one that cannot be read
            descriptor = os.open(path, os.O_RDONLY)
            try:
                path = os.fsdecode(fcntl.fcntl(descriptor, get_path, bytes(1024)).partition(b"\0")[0])
            finally:
                os.close(descriptor)
    return path


def _steps(path: str) -> Iterator[str]:
    """The folders and links that the system passes on the way to a path, and the path itself."""
    at, rest, links = "/", os.path.abspath(_checked(path)).split("/")[::-1], 0
    while rest and links <= _MOST_LINKS:
        name = rest.pop()
        if name == "..":
            at = os.path.dirname(at)
        elif name not in ("", "."):
            step = os.path.join(at, name)
            yield step
            try:
                target = os.readlink(step)
            except OSError:  # not a link
                at = _real(step)
            else:
                links += 1
                at = "/" if target.startswith("/") else at
                rest += target.split("/")[::-1]


def _lies_in(path: str, folder: str) -> bool:
    """Whether a path is this folder or lies in it."""
    return f"{path}/".startswith(f"{folder}/")
