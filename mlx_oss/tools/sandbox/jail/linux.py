"""System calls of Linux that Python has no functions for. Each raises OSError, with the call as its file name.

Knows nothing of what they are used for.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

# Flags for `unshare`, for `mount`, and options of `prctl`.
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
NOSUID, NODEV, NOEXEC = 2, 4, 8
PDEATHSIG, DUMPABLE, CHILD_SUBREAPER, NO_NEW_PRIVS = 1, 4, 36, 38
_SECCOMP, _SECCOMP_FILTER, _CAPBSET_DROP = 22, 2, 24
_BIND, _REC, _PRIVATE, _DETACH = 0x1000, 0x4000, 0x40000, 2
_HERE, _RECURSIVE = -100, 0x8000  # AT_FDCWD, AT_RECURSIVE
_READ_ONLY_NOSUID = 1 | 2  # MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID
_MOUNT_SETATTR = 442  # on every architecture
# Numbers of pivot_root and keyctl on the machines that `seccomp.py` has a filter for; without one there is no jail.
_NUMBERS = {"x86_64": (155, 250), "aarch64": (41, 219), "riscv64": (41, 219)}
_JOIN_SESSION_KEYRING = 1  # of keyctl


def prctl(option: int, value: int) -> None:
    _check(_libc().prctl(option, int(value), 0, 0, 0), "prctl")


def drop_capabilities() -> None:
    """Lets no program that this process becomes have any capability."""
    for capability in range(64):  # more than there are
        _libc().prctl(_CAPBSET_DROP, capability, 0, 0, 0)


def unshare(flags: int) -> None:
    """Moves this process into new namespaces."""
    _check(_libc().unshare(flags), "unshare")


def make_mounts_private() -> None:
    """Lets no later mount of this namespace show up in others."""
    mount("none", "/", None, _REC | _PRIVATE)


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    texts = [None if text is None else text.encode() for text in (source, target, kind, options)]
    _check(_libc().mount(*texts[:3], ctypes.c_ulong(flags), texts[3]), f"mount {target}")


def bind_read_only(path: str, target: str) -> None:
    """Shows a file or folder, with everything mounted below it, in another place, read-only."""
    mount(path, target, None, _BIND | _REC)
    set_read_only(target, _RECURSIVE)


def set_read_only(path: str, flags: int = 0) -> None:
    """Makes a mount read-only, and its set-user-id bits without effect."""
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY_NOSUID, 0, 0, 0)
    result = _libc().syscall(_MOUNT_SETATTR, _HERE, path.encode(), flags, attributes, ctypes.c_size_t(32))
    _check(result, f"mount_setattr {path}")


def enter_root(root: str) -> None:
    """Makes a folder the root, and detaches the old one."""
    os.chdir(root)
    _check(_libc().syscall(_number(0), b".", b"."), "pivot_root")
    _check(_libc().umount2(b".", _DETACH), "umount")
    os.chdir("/")


def join_new_keyring() -> None:
    """Gives this process a session keyring of its own: that of the user may hold tickets and passwords."""
    result = _libc().syscall(_number(1), _JOIN_SESSION_KEYRING, None)
    number = ctypes.get_errno()
    if result < 0 and number not in (errno.ENOSYS, errno.EPERM):  # there are no keys, or a container's filter
        raise OSError(number, os.strerror(number), "keyctl")


def install_filter(instructions: bytes) -> None:
    """Installs a seccomp filter for this process and its children. The kernel refuses an empty one."""
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    program = struct.pack("HP", len(instructions) // 8, ctypes.addressof(buffer))  # struct sock_fprog
    _check(_libc().prctl(_SECCOMP, _SECCOMP_FILTER, program, 0, 0), "seccomp")


def _number(which: int) -> int:
    return _NUMBERS.get(os.uname().machine, (-1, -1))[which]


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
