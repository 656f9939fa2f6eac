"""Turns a process into the program: limited, and in namespaces as a user without privileges, behind a filter.

Knows nothing of how it is supervised.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import NoReturn

from . import linux
from .cgroup import Cgroup
from .config import Config

NOBODY = 65534
_NICE = 10
_WATCHED_ADDRESSES = 0.75  # address space of one process, of the memory for all, if no cgroup holds it


def become_program(config: Config, uid: int | None, group: Cgroup | None, existing_tasks: int) -> NoReturn:
    """Returns only by an exception.

    Args:
        config: The program and its limits.
        uid: The user to run as in namespaces; None means that there are no namespaces.
        group: The cgroup that holds the memory, if there is one.
        existing_tasks: Tasks of the same user, which RLIMIT_NPROC counts too.

    Raises:
        OSError, ValueError: If it cannot be limited or run.
    """
    if uid is None:
        os.setpgid(0, 0)
    if group:
        group.enter()
    elif not config["ps"]:
        os.nice(_NICE)  # the supervisor comes first when it has slept, however many processes want to run
    set_limits(config, group is not None, existing_tasks)
    if uid is not None:
        linux.drop_capabilities()
        if os.geteuid() != uid:
            switch_user(uid)
        linux.join_new_keyring()
    if sys.platform == "linux":
        linux.prctl(linux.NO_NEW_PRIVS, 1)
        if config["filter"] or uid is not None:  # in namespaces there is no program without one
            linux.install_filter(bytes.fromhex(config["filter"]))
    os.chdir(config["work"])
    os.execve(config["command"][0], config["command"], config["environment"])


def set_limits(config: Config, held: bool, existing_tasks: int) -> None:
    """Sets the resource limits of this process; `held` is whether a cgroup holds the memory."""
    limits = {
        "RLIMIT_FSIZE": config["file_bytes"],
        "RLIMIT_NPROC": config["processes"] + existing_tasks,
        "RLIMIT_NOFILE": 256,
        "RLIMIT_CORE": 0 if config["ps"] else 1,  # Linux passes a program for crashes all memory, but not if it is 1
    }
    if not config["ps"]:  # macOS does not enforce a limit of the address space, and may not start the program under one
        limits["RLIMIT_AS"] = int(config["memory_bytes"] * (1 if held else _WATCHED_ADDRESSES))
    for name, value in limits.items():
        try:
            hard = resource.getrlimit(getattr(resource, name))[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(getattr(resource, name), (value, value))
        except (ValueError, OSError):  # macOS does not support all of them
            pass


def switch_user(uid: int) -> None:
    """Leaves all groups and switches to this user, or to `nobody` if the id does not exist here."""
    if sys.platform != "linux":
        raise OSError("users can be switched only on Linux")
    os.setgroups([])
    try:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError:  # a container that maps few ids
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def count_user_tasks() -> int:
    """Number of tasks that the user runs already; 2000 where it is not known."""
    count = 0
    for name in filter(str.isdigit, os.listdir("/proc")) if os.path.isdir("/proc/self") else ():
        try:
            if os.stat(f"/proc/{name}").st_uid == os.getuid():
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            pass
    return count or 2000
