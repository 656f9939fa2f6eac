"""Isolates a program, starts it and supervises it.

`process.py` starts this file as a script of its own, so it imports only the standard library:

    python -I -S jail.py CONFIG     CONFIG is JSON, see `Config`

With namespaces (Linux 5.12 or later) the program sees a file system of its own. The given files and folders are
read-only there; only the working directory, /tmp and /dev/shm can be written, and they are in memory. The program has
no network, sees no other processes, has no privileges, and its memory and number of processes are limited. Without
namespaces only the limits apply. In both cases a supervisor kills everything when the program ends, when it exceeds a
limit, or when the process that started the jail is gone.

The program stops itself with SIGSTOP when it is ready for a call, and when a call has ended. The supervisor, its
parent, then says so through a pipe that the program does not have, and continues it when the next call begins. On
Linux, if anything else continues it, it is killed: between calls nothing of it runs. In namespaces, what it started is
killed when a call ends.

A cgroup holds the memory, if the starting process was able to make one. Otherwise, on Linux, the supervisor reads from
/proc what is used, more often the closer it comes to the limit; above the limit it stops all processes and counts
precisely. Elsewhere it has to start ps. It does so only while a call runs and once when a call ends.

The exit status is that of the program, except: TOO_MUCH_MEMORY, TOO_MANY_PROCESSES or UNWATCHED (ps failed) if the
supervisor killed it, and NO_JAIL, with the reason on a line of stdout, if the isolation is not available.
"""

import contextlib
import ctypes
import errno
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple, NoReturn, TypedDict

TOO_MUCH_MEMORY, TOO_MANY_PROCESSES, NO_JAIL, UNWATCHED = 90, 91, 92, 93
CALL_BEGINS = b"1"  # what the starting process writes to the pipe `calls`
CGROUP, WATCHED, DONE = b"cgroup\n", b"watched\n", b"done\n"  # lines for `status`: ready, by what memory is held; done

# Constants of Linux: clone flags, mount flags, umount flags, prctl options, system call numbers.
_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_BIND, _REC, _PRIVATE = 0x1000, 0x4000, 0x40000
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_DETACH = 2
_PDEATHSIG, _DUMPABLE, _SECCOMP, _CAPBSET_DROP, _CHILD_SUBREAPER, _NO_NEW_PRIVS = 1, 4, 22, 24, 36, 38
_MOUNT_SETATTR = 442  # on every architecture
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}
_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219}
_JOIN_SESSION_KEYRING = 1  # of keyctl
_NOBODY = 65534

_SYSTEM_FOLDERS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")  # links into /usr on most systems
_DEVICES = ("null", "full", "random", "urandom")  # not "zero": a shared mapping of it is memory of no file
_INTERVAL, _PS_INTERVAL = 0.05, 0.5  # seconds between two checks of the usage, in /proc and with ps, at most
_SHORTEST_INTERVAL = 0.002  # seconds between two checks when little room is left
_NICE = 10
_BYTES_PER_SECOND = 2e9  # that one core may take from the system
_WATCHED_ADDRESSES = 0.75  # address space of one process, of the memory for all, if no cgroup holds it
_PS_SECONDS = 20.0  # for ps to answer


class CgroupFiles(TypedDict):
    """A `cgroup.Cgroup`."""

    name: str
    parent: int
    entrance: int
    events: int


class Config(TypedDict):
    """What the starting process passes as JSON."""

    namespaces: bool  # whether to isolate the program; otherwise it is only limited
    root: str  # an empty folder, where the new file system is built
    work: str  # the working directory, as the program sees it
    visible: list[str]  # the files, links and folders that the program can read in its own file system
    command: list[str]
    environment: dict[str, str]
    filter: str  # the seccomp filter in hexadecimal; empty if there is none for this machine
    ps: str  # the ps command; empty on Linux, where /proc has the usage
    requests: int  # file descriptor of the pipe through which the program gets code
    calls: int  # file descriptor of a pipe that says when a call begins; closed when the starting process is gone
    status: int  # file descriptor of the pipe on which the supervisor says that a call has ended
    cgroup: CgroupFiles | None
    starter: int  # process id of the starting process
    memory_bytes: int
    file_bytes: int
    processes: int


class Process(NamedTuple):
    """A process in /proc: its parent, and its state as a letter."""

    parent: int
    state: str


def main(config: Config) -> NoReturn:
    os.umask(0o022)
    for descriptor in (config["calls"], config["status"], *_cgroup_descriptors(config)):
        os.set_inheritable(descriptor, False)
    if not can_enter_cgroup(config):
        remove_cgroup(config)
        config["cgroup"] = None
    if config["namespaces"]:
        try:
            uid = enter_namespaces()
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            child = os.fork()
            if child:
                wait_for(config, child)
            _prctl(_PDEATHSIG, signal.SIGKILL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            build_root(config, uid)
        except OSError as error:
            exit_without_jail(error)
        supervise(config, start_program(config, uid))
    if config["ps"]:
        try:
            usage(config, os.getpgrp())
        except OSError as error:
            exit_without_jail(error)
    elif sys.platform == "linux":
        _prctl(_CHILD_SUBREAPER, 1)  # orphans of the program become children of this process, so none is lost
    supervise(config, start_program(config, None))


def wait_for(config: Config, child: int) -> NoReturn:
    """Waits until process 1 of the namespace has ended, which SIGTERM brings about, and exits with its status."""
    os.close(config["requests"])
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) % 256
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    remove_cgroup(config)
    os._exit(status)


def can_enter_cgroup(config: Config) -> bool:
    """Tries the cgroup out in a child process."""
    if not config["cgroup"]:
        return False
    child = os.fork()
    if child == 0:
        try:
            enter_cgroup(config)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def enter_cgroup(config: Config) -> None:
    """Moves this process into the cgroup, if there is one."""
    if config["cgroup"]:
        os.write(config["cgroup"]["entrance"], b"0")


def remove_cgroup(config: Config) -> None:
    """Removes the cgroup as soon as the kernel has let go of its processes, which are dead."""
    deadline = time.monotonic() + 2
    while config["cgroup"] and time.monotonic() < deadline:
        try:
            os.rmdir(config["cgroup"]["name"], dir_fd=config["cgroup"]["parent"])
        except OSError as error:
            if error.errno != errno.EBUSY:
                return
            time.sleep(0.005)
        else:
            return


def killed_in_cgroup(config: Config) -> bool:
    """Whether the kernel has killed a process as the cgroup had no more memory."""
    if not config["cgroup"]:
        return False
    words = os.pread(config["cgroup"]["events"], 4096, 0).split()
    return b"oom_kill" in words and words[words.index(b"oom_kill") + 1] != b"0"


def _cgroup_descriptors(config: Config) -> list[int]:
    files = config["cgroup"]
    return [files["parent"], files["entrance"], files["events"]] if files else []


def enter_namespaces() -> int:
    """Moves this process into new namespaces and returns the user id that the program is to run as.

    Root needs no user namespace. Other users, and root in a container that may not unshare, get one.
    """
    spaces = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
    unused_uid = 1_900_000_000 + os.getpid()  # no other process has it, so RLIMIT_NPROC counts only the program's tasks
    if os.geteuid() == 0:
        try:
            _check(_libc().unshare(spaces), "unshare")
            return unused_uid
        except PermissionError:  # root in a container
            switch_user(_NOBODY)
            _prctl(_DUMPABLE, 1)  # switching cleared it, and without it /proc/self/uid_map cannot be written
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc().unshare(spaces | _NEWUSER), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    return uid


def build_root(config: Config, uid: int) -> None:
    """Builds a root file system from the visible folders and empty writable ones, and detaches the old root."""
    root, work = config["root"], config["work"]
    _mount("none", "/", None, _REC | _PRIVATE)
    _mount("tmpfs", root, "tmpfs", _NOSUID, "mode=0755,size=4m")
    for path in ("/tmp", "/dev/shm", work):
        os.makedirs(root + path)
        options = f"uid={uid},mode=0700,size={config['file_bytes']},nr_inodes=100000"
        _mount("tmpfs", root + path, "tmpfs", _NOSUID | _NODEV, options)
    for path in [*config["visible"], *(path for path in _SYSTEM_FOLDERS if os.path.isdir(path))]:
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), root + path)
        elif os.path.isdir(path):
            os.makedirs(root + path, exist_ok=True)
            _bind_read_only(path, root)
        else:
            open(root + path, "x").close()
            _bind_read_only(path, root)
    for path in [*(f"/dev/{name}" for name in _DEVICES), "/etc/ld.so.cache", "/etc/localtime"]:
        if os.path.exists(path):
            os.makedirs(os.path.dirname(root + path), exist_ok=True)
            open(root + path, "x").close()
            _bind_read_only(path, root)
    os.symlink("/proc/self/fd", root + "/dev/fd")
    os.mkdir(root + "/proc")
    _set_read_only(root, 0)
    _mount("proc", root + "/proc", "proc", _NOSUID | _NODEV | _NOEXEC, "subset=pid")
    os.chdir(root)
    _check(_libc().syscall(_PIVOT_ROOT.get(os.uname().machine, -1), b".", b"."), "pivot_root")
    _check(_libc().umount2(b".", _DETACH), "umount")
    os.chdir("/")


def start_program(config: Config, uid: int | None) -> int:
    """Starts the program, limited and without privileges, and returns its process id.

    `uid` is the user id to run as in namespaces; None means that there are no namespaces.
    """
    existing_tasks = 0 if uid is not None else count_user_tasks()
    program_pid = os.fork()
    if program_pid:
        return program_pid
    try:
        if uid is None:
            os.setpgid(0, 0)
        enter_cgroup(config)
        if not config["cgroup"] and not config["ps"]:
            os.nice(_NICE)  # the supervisor comes first when it has slept, however many processes want to run
        set_limits(config, existing_tasks)
        if uid is not None:
            for capability in range(64):
                _libc().prctl(_CAPBSET_DROP, capability, 0, 0, 0)
            if os.geteuid() != uid:
                switch_user(uid)
            join_new_keyring()
        if sys.platform == "linux":
            _prctl(_NO_NEW_PRIVS, 1)
            install_filter(bytes.fromhex(config["filter"]), uid is not None)
        os.chdir(config["work"])
        os.execve(config["command"][0], config["command"], config["environment"])
    except (OSError, ValueError) as error:
        exit_without_jail(error)


def install_filter(instructions: bytes, required: bool) -> None:
    """Installs the seccomp filter for this process and its children.

    Without instructions nothing is installed, unless `required`: the kernel then rejects the empty filter (OSError).
    """
    if instructions or required:
        buffer = ctypes.create_string_buffer(instructions, len(instructions))
        program = struct.pack("HP", len(instructions) // 8, ctypes.addressof(buffer))  # struct sock_fprog
        _check(_libc().prctl(_SECCOMP, 2, program, 0, 0), "seccomp")


def join_new_keyring() -> None:
    """Gives this process a session keyring of its own: that of the user may hold tickets and passwords."""
    result = _libc().syscall(_KEYCTL.get(os.uname().machine, -1), _JOIN_SESSION_KEYRING, None)
    if result < 0 and ctypes.get_errno() not in (
        errno.ENOSYS,
        errno.EPERM,
    ):  # there are no keys, or a container's filter
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "keyctl")


def switch_user(uid: int) -> None:
    """Leaves all groups and switches to this user, or to `nobody` if the id does not exist here."""
    if sys.platform != "linux":
        raise OSError("users can be switched only on Linux")
    os.setgroups([])
    try:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError:  # a container that maps few ids
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def set_limits(config: Config, existing_tasks: int) -> None:
    """Sets the resource limits of this process; `existing_tasks` of the same user count towards RLIMIT_NPROC too."""
    limits = {
        "RLIMIT_FSIZE": config["file_bytes"],
        "RLIMIT_NPROC": config["processes"] + existing_tasks,
        "RLIMIT_NOFILE": 256,
        "RLIMIT_CORE": 0,
    }
    if not config["ps"]:  # macOS does not enforce a limit of the address space, and may not start the program under one
        part = 1 if config["cgroup"] else _WATCHED_ADDRESSES
        limits["RLIMIT_AS"] = int(config["memory_bytes"] * part)
    for name, value in limits.items():
        try:
            hard = resource.getrlimit(getattr(resource, name))[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(getattr(resource, name), (value, value))
        except (ValueError, OSError):  # macOS does not support all of them
            pass


def supervise(config: Config, program_pid: int) -> NoReturn:
    """Waits until the program ends or has to be killed, then exits with the status."""
    os.close(config["requests"])
    if sys.platform == "linux":
        _prctl(_DUMPABLE, 0)  # otherwise the program could open this process's pipes in /proc, where it has its user
    woken, wake = os.pipe()  # a signal that a child has stopped or ended makes `woken` readable
    for descriptor in (woken, wake):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    if not config["namespaces"]:  # process 1 of a namespace gets no signals from inside that it does not handle
        signal.signal(signal.SIGTERM, end)
    status = 0
    try:
        status = watch(config, program_pid, woken)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        status = TOO_MUCH_MEMORY if killed_in_cgroup(config) else status
        if not config["namespaces"]:
            kill_all(config, program_pid)
            remove_cgroup(config)
        os._exit(status)  # in a PID namespace this is process 1, so the kernel kills all others with it


def end(*_: object) -> NoReturn:
    """Handles SIGTERM. A second one must not interrupt the killing of the program."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(0)


def watch(config: Config, program_pid: int, woken: int) -> int:
    """Supervises the program and returns the status to exit with."""
    events = select.poll()
    events.register(config["calls"], select.POLLIN)
    events.register(woken, select.POLLIN)
    longest = _PS_INTERVAL if config["ps"] else _INTERVAL
    line = CGROUP if config["cgroup"] else WATCHED  # to say when the program stops the next time
    running, next_check = True, 0.0
    while not starter_is_gone(config):
        pause = longest if config["ps"] and not running else max(next_check - time.monotonic(), 0)
        ready = {descriptor for descriptor, _ in events.poll(pause * 1000)}
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
        reap_orphans(config, program_pid)
        change = change_of(config, program_pid)
        if change is not None and not os.WIFSTOPPED(change) and not os.WIFCONTINUED(change):
            return os.waitstatus_to_exitcode(change) % 256
        if change is not None and not running:  # something other than a call has continued it
            return 0
        stopped = change is not None and os.WIFSTOPPED(change)
        if stopped and config["namespaces"] and not stop_all_but(config, program_pid):
            return 0
        if stopped or ((running or not config["ps"]) and time.monotonic() >= next_check):
            began = time.monotonic()
            status, room = excess(config, program_pid)
            if status:  # if ps did not list the program, it may just have ended
                change = change_of(config, program_pid)
                ended = change is not None and not os.WIFSTOPPED(change) and not os.WIFCONTINUED(change)
                return os.waitstatus_to_exitcode(change) % 256 if change is not None and ended else status
            took = time.monotonic() - began
            interval = min(longest, max(_SHORTEST_INTERVAL, took, room / (_BYTES_PER_SECOND * (os.cpu_count() or 1))))
            next_check = time.monotonic() + interval
        if stopped:
            running = False
            os.write(config["status"], line)
            line = DONE
        if config["calls"] in ready:
            if not os.read(config["calls"], 100):  # the other end is closed
                return 0
            running, next_check = True, time.monotonic() + (longest if config["ps"] else 0)
            os.kill(program_pid, signal.SIGCONT)
    return 0


def change_of(config: Config, program_pid: int) -> int | None:
    """The wait status of the program if it has ended, stopped or been continued since the last time; otherwise None.

    On Linux, stopping cancels the message that it was continued before. Elsewhere that is not known, so whether it was
    continued is not asked.
    """
    continued = 0 if config["ps"] else os.WCONTINUED
    pid, status = os.waitpid(program_pid, os.WNOHANG | os.WUNTRACED | continued)
    return status if pid else None


def excess(config: Config, program_pid: int) -> tuple[int, float]:
    """Returns the exit status for the limit that the program exceeds, or 0, and how many bytes of room are left."""
    try:
        count, used = usage(config, program_pid)
    except OSError:
        return UNWATCHED, 0
    if count > config["processes"] + 1:
        return TOO_MANY_PROCESSES, 0
    return TOO_MUCH_MEMORY if used > config["memory_bytes"] else 0, config["memory_bytes"] - used


def starter_is_gone(config: Config) -> bool:
    """Whether the starting process has ended, although another process may hold its end of a pipe open.

    Not used in namespaces: the parent's process id is not visible there.
    """
    return not config["namespaces"] and os.getppid() != config["starter"]


def reap_orphans(config: Config, program_pid: int) -> None:
    """Collects the exit status of orphaned processes, but not that of the program, which `watch` reads."""
    for pid, process in descendants(config).items():
        if pid != program_pid and process.parent == os.getpid():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def stop_all_but(config: Config, program_pid: int) -> bool:
    """Kills all processes but the program, and stops that, in case one of them has continued it.

    Returns False if this does not succeed within 5 seconds.
    """
    deadline = time.monotonic() + 5
    while others := {pid for pid, process in descendants(config).items() if process.state not in "ZX"} - {program_pid}:
        for pid in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    reap_orphans(config, program_pid)
    if descendants(config).get(program_pid, Process(0, "T")).state != "T":
        return stop({program_pid}, config, program_pid)
    change = change_of(config, program_pid)
    return change is None or os.WIFSTOPPED(change) or os.WIFCONTINUED(change)


def usage(config: Config, program_pid: int) -> tuple[int, int]:
    """Returns the number of the program's processes and the bytes of memory that they use together.

    In a cgroup the memory is not counted: more than the limit if a process was killed for it, otherwise 0. Raises
    OSError if ps fails.
    """
    if config["ps"]:
        sizes = group_sizes(config["ps"], program_pid)
        return len(sizes), sum(sizes)
    pids = descendants(config)
    if config["cgroup"]:
        return len(pids), config["memory_bytes"] + 1 if killed_in_cgroup(config) else 0
    mapped = not config["namespaces"]  # whether files in memory count where they are mapped; otherwise where they lie
    used = files_in_memory(config) + sum(memory_of(pid, mapped) for pid in pids)
    if used > config["memory_bytes"]:  # this sum counts shared pages more than once, so measure precisely
        with stopped(config, program_pid) as pids:
            used = files_in_memory(config) + sum(proportional_memory_of(pid, mapped) for pid in pids)
    return len(pids), used


def files_in_memory(config: Config) -> int:
    """Bytes of the folders in memory that the program can write, also in deleted files that are open; in namespaces."""
    used = 0
    for path in ("/tmp", "/dev/shm", config["work"]) if config["namespaces"] else ():
        status = os.statvfs(path)
        used += (status.f_blocks - status.f_bfree) * status.f_frsize
    return used


@contextlib.contextmanager
def stopped(config: Config, program_pid: int) -> Iterator[dict[int, Process]]:
    """Stops all descendants of this process, and lets those go on that ran before."""
    own: set[int] = set()
    try:
        while True:
            found = descendants(config)
            new = {pid for pid, process in found.items() if process.state not in "TtZX"} - own
            if not new:
                break
            own |= new
            stop(new, config, program_pid)
        yield found
    finally:
        for pid in own:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGCONT)


def stop(pids: set[int], config: Config, program_pid: int) -> bool:
    """Stops processes and waits until they have stopped, at most a second. Returns whether they have."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 1
    while True:
        states = [process.state for pid, process in descendants(config).items() if pid in pids]
        if all(state in "TtZX" for state in states):
            break
        if time.monotonic() > deadline:
            return False
        time.sleep(0.0005)
    if program_pid in pids and descendants(config).get(program_pid, Process(0, "Z")).state == "T":
        change_of(config, program_pid)  # this stop is not the end of a call
    return True


def group_sizes(ps: str, group: int) -> list[int]:
    """The resident memory of each process in a process group, in bytes, as the ps command knows it.

    Raises OSError if ps cannot be run or lists no process of the group.
    """
    # An option for each column: after "=", ps may take the rest of an option for the title of the column.
    command = [ps, "-A", "-o", "pgid=", "-o", "rss="]
    try:
        listed = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PS_SECONDS).stdout
    except subprocess.TimeoutExpired:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), ps) from None
    lines = [line.split() for line in listed.splitlines()]
    sizes = [words[1:2] for words in lines if words[:1] == [str(group).encode()]]
    if not sizes:
        raise OSError(errno.ESRCH, "the process was not listed", ps)
    return [int(size[0]) * 1024 if size and size[0].isdigit() else 0 for size in sizes]


def memory_of(pid: int, mapped: bool) -> int:
    """Bytes of a process's memory, in RAM or swapped out, that are not backed by a file on disk; 0 if it has ended.

    `mapped` is whether mapped files in memory count.
    """
    sizes = _sizes(f"/proc/{pid}/status") or _sizes(f"/proc/{pid}/task/{_live_thread(pid)}/status")
    return sizes.get("RssAnon", 0) + sizes.get("VmSwap", 0) + mapped * sizes.get("RssShmem", 0)


def proportional_memory_of(pid: int, mapped: bool) -> int:
    """Like `memory_of`, but a page that n processes share counts as 1/n of a page. Slow.

    Where the kernel does not permit reading this, and if the first thread has ended, shared pages count in full.
    """
    try:
        sizes = _sizes(f"/proc/{pid}/smaps_rollup")
    except PermissionError:
        sizes = {}
    if not sizes:  # it has ended, or only its first thread
        return memory_of(pid, mapped)
    files = sizes.get("Pss_File", 0) + (0 if mapped else sizes.get("Pss_Shmem", 0))
    return sizes.get("Pss", 0) - files + sizes.get("SwapPss", 0)


def descendants(config: Config) -> dict[int, Process]:
    """The descendants of this process by their process ids; in a PID namespace these are all other processes.

    Where ps is used they are not known, and there are none.
    """
    found: dict[int, Process] = {}
    for name in filter(str.isdigit, os.listdir("/proc")) if not config["ps"] and os.path.isdir("/proc/self") else ():
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
            state, parent, threads = fields[0], int(fields[1]), int(fields[17])
            if state == "Z" and threads > 1:  # only the first thread has ended
                with open(f"/proc/{name}/task/{_live_thread(int(name))}/stat") as file:
                    state = file.read().rpartition(")")[2].split()[0]
            found[int(name)] = Process(parent, state)
        except (OSError, ValueError, IndexError):
            continue
    pids: set[int] = set()
    new = {os.getpid()}
    while new:
        new = {pid for pid, process in found.items() if process.parent in new} - pids
        pids |= new
    return {pid: found[pid] for pid in pids}


def _live_thread(pid: int) -> int:
    """The last thread of a process: the first may have ended, and /proc shows the process like an ended one then."""
    try:
        return max(map(int, os.listdir(f"/proc/{pid}/task")))
    except (OSError, ValueError):
        return pid


def _sizes(path: str) -> dict[str, int]:
    """Reads the "name: number kB" lines of a file in /proc as bytes by name; empty if the process has ended.

    Raises PermissionError.
    """
    try:
        with open(path) as file:
            lines = [line.split() for line in file if line.endswith(" kB\n")]
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name.rstrip(":"): int(size) * 1024 for name, size, _ in lines}


def kill_all(config: Config, program_pid: int) -> None:
    """Kills the program's process group and all descendants until none is left, for at most 5 seconds."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        for kill, pid in [(os.killpg, program_pid), *((os.kill, pid) for pid in descendants(config))]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def count_user_tasks() -> int:
    """Number of tasks that the user runs already, which RLIMIT_NPROC counts too; 2000 where it is not known."""
    count = 0
    for name in filter(str.isdigit, os.listdir("/proc")) if os.path.isdir("/proc/self") else ():
        try:
            if os.stat(f"/proc/{name}").st_uid == os.getuid():
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            pass
    return count or 2000


def exit_without_jail(error: OSError | ValueError) -> NoReturn:
    """Writes the reason to stdout and exits with NO_JAIL."""
    reason, step = getattr(error, "strerror", None) or error, getattr(error, "filename", None) or "no jail"
    os.write(1, f"{reason} ({step})\n".encode())
    os._exit(NO_JAIL)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    _check(_libc().prctl(option, int(value), 0, 0, 0), "prctl")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    arguments = (source, target, kind, flags, data)
    encoded: list[object] = [part.encode() if isinstance(part, str) else part for part in arguments]
    encoded[3] = ctypes.c_ulong(flags)
    _check(_libc().mount(*encoded), f"mount {target}")


def _bind_read_only(path: str, root: str) -> None:
    """Makes a path, with everything mounted below it, visible under the new root, read-only."""
    _mount(path, root + path, None, _BIND | _REC)
    _set_read_only(root + path, 0x8000)  # AT_RECURSIVE


def _set_read_only(path: str, flags: int) -> None:
    attributes = (ctypes.c_uint64 * 4)(1 | 2, 0, 0, 0)  # sets MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID
    result = _libc().syscall(_MOUNT_SETATTR, -100, path.encode(), flags, attributes, ctypes.c_size_t(32))
    _check(result, f"mount_setattr {path}")


def _check(result: int, what: str) -> None:
    """Raises OSError, with `what` as its file name, if a C function did not return 0."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
