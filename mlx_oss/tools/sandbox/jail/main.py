"""The jail: isolates a process, starts the program in it, and leaves the rest to the supervisor.

With namespaces (Linux) the program sees a file system of its own. The given files and folders are read-only there; only
the working directory, /tmp and /dev/shm can be written, and they are in memory. The program has no network, sees no
other processes, has no privileges, and its memory and number of processes are limited. Without namespaces only the
limits apply. In both cases a supervisor kills everything when the program ends, when it exceeds a limit, or when the
process that started the jail is gone.

The exit status is that of the program, except: TOO_MUCH_MEMORY, TOO_MANY_PROCESSES or UNWATCHED (ps failed) if the
supervisor killed it, and NO_JAIL, with the reason on a line of stdout, if the isolation is not available.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import NoReturn

from . import linux
from .cgroup import Cgroup
from .config import NO_JAIL, Config
from .namespaces import build_root, enter_namespaces
from .program import become_program, count_user_tasks
from .ps import UsageByPs
from .supervisor import supervise


def main(config_text: str) -> NoReturn:
    """Runs a program in a jail. `config_text` is a `Config` as JSON."""
    config: Config = json.loads(config_text)
    os.umask(0o022)
    group = Cgroup(*config["cgroup"]) if config["cgroup"] else None  # type: ignore[arg-type]
    for descriptor in (config["calls"], config["status"], *(group.descriptors if group else ())):
        os.set_inheritable(descriptor, False)
    if group and not group.can_be_entered():
        group.remove()
        group = None
    try:
        if config["namespaces"]:
            run_isolated(config, group)
        run_limited(config, group)
    except OSError as error:
        exit_without_jail(error)


def run_isolated(config: Config, group: Cgroup | None) -> NoReturn:
    """Raises OSError if the namespaces cannot be made."""
    uid = enter_namespaces()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    child = os.fork()  # process 1 of the new namespace
    if child:
        wait_for(config, child, group)
    linux.prctl(linux.PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    in_memory = ["/tmp", "/dev/shm", config["work"]]
    build_root(config["root"], config["visible"], in_memory, config["file_bytes"], uid)
    # The code can write where modules are searched for if, for example, Python is installed in /tmp.
    sys.meta_path.clear()
    work = open_work(config)
    supervise(config, start(config, uid, group), group, work, in_memory)


def run_limited(config: Config, group: Cgroup | None) -> NoReturn:
    """Raises OSError if ps does not work where it is needed."""
    if config["ps"]:
        UsageByPs(config["ps"], os.getpgrp(), config["ps_seconds"]).wait()
    elif sys.platform == "linux":
        linux.prctl(linux.CHILD_SUBREAPER, 1)  # orphans of the program become children of this process: none is lost
    work = open_work(config)
    supervise(config, start(config, None, group), group, work, None)


def start(config: Config, uid: int | None, group: Cgroup | None) -> int:
    """Starts the program and returns its process id. `uid` is its user in namespaces, None without them."""
    existing_tasks = 0 if uid is not None else count_user_tasks()
    if pid := os.fork():
        return pid
    try:
        become_program(config, uid, group, existing_tasks)
    except (OSError, ValueError) as error:
        exit_without_jail(error)


def open_work(config: Config) -> int:
    """Opens the working directory, for the starting process, before the program can put another in its place."""
    return os.open(config["work"], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def wait_for(config: Config, child: int, group: Cgroup | None) -> NoReturn:
    """Waits until process 1 of the namespace has ended, which SIGTERM brings about, and exits with its status."""
    os.close(config["requests"])
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) % 256
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if group:
        group.remove(seconds=2)
    os._exit(status)


def exit_without_jail(error: OSError | ValueError) -> NoReturn:
    """Writes the reason to stdout and exits with NO_JAIL."""
    reason, step = getattr(error, "strerror", None) or error, getattr(error, "filename", None) or "no jail"
    os.write(1, f"{reason} ({step})\n".encode())
    os._exit(NO_JAIL)
