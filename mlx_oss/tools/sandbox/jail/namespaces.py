"""Gives this process namespaces and a file system of its own. Needs Linux 5.12 or later.

Knows nothing of the program that will run there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from . import linux
from .program import NOBODY, switch_user

_SYSTEM_FOLDERS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")  # links into /usr on most systems
_DEVICES = ("null", "full", "random", "urandom")  # not "zero": a shared mapping of it is memory of no file


def enter_namespaces() -> int:
    """Moves this process into new namespaces and returns the user id that the program is to run as.

    Root needs no user namespace. Other users, and root in a container that may not unshare, get one.
    """
    spaces = linux.NEWNS | linux.NEWUTS | linux.NEWIPC | linux.NEWPID | linux.NEWNET
    unused_uid = 1_900_000_000 + os.getpid()  # no other process has it, so RLIMIT_NPROC counts only the program's tasks
    if os.geteuid() == 0:
        try:
            linux.unshare(spaces)
            return unused_uid
        except PermissionError:  # root in a container
            switch_user(NOBODY)
            linux.prctl(linux.DUMPABLE, 1)  # switching cleared it, and without it uid_map cannot be written
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(spaces | linux.NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    return uid


def build_root(root: str, visible: Sequence[str], writable: Sequence[str], file_bytes: int, uid: int) -> None:
    """Builds a root file system and enters it.

    Args:
        root: An empty folder, where it is built.
        visible: Files, links and folders that can be read in it, beside those of the system.
        writable: Folders in memory, empty so far.
        file_bytes: Size of each of them.
        uid: The user they belong to.
    """
    linux.make_mounts_private()
    linux.mount("tmpfs", root, "tmpfs", linux.NOSUID, "mode=0755,size=4m")
    for path in writable:
        os.makedirs(root + path)
        options = f"uid={uid},mode=0700,size={file_bytes},nr_inodes=100000"
        linux.mount("tmpfs", root + path, "tmpfs", linux.NOSUID | linux.NODEV, options)
    for path in [*visible, *filter(os.path.isdir, _SYSTEM_FOLDERS)]:
        _show(path, root)
    for path in [*(f"/dev/{name}" for name in _DEVICES), "/etc/ld.so.cache", "/etc/localtime"]:
        if os.path.exists(path):
            _show(path, root, follow_link=True)
    os.symlink("/proc/self/fd", root + "/dev/fd")
    os.mkdir(root + "/proc")
    linux.set_read_only(root)
    linux.mount("proc", root + "/proc", "proc", linux.NOSUID | linux.NODEV | linux.NOEXEC, "subset=pid")
    linux.enter_root(root)


def _show(path: str, root: str, follow_link: bool = False) -> None:
    os.makedirs(os.path.dirname(root + path), exist_ok=True)
    if os.path.islink(path) and not follow_link:
        os.symlink(os.readlink(path), root + path)
        return
    if os.path.isdir(path):
        os.makedirs(root + path, exist_ok=True)
    else:
        open(root + path, "x").close()
    linux.bind_read_only(path, root + path)
