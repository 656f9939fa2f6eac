"""Puts a program behind bars and watches it: a script of its own, started by `sandbox`, that imports nothing else.

With namespaces (Linux 5.12 or later) the program sees a file system of its own, in which the given folders are
read-only and only `work` and /tmp, in memory, can be written; it has no network, sees no other processes, is no one in
particular, and may use so much memory and so many processes. Without them only limits hold. In both cases a
supervisor ends everything when the program ends, uses too much, or whoever started it is gone.

    python -I -S jail.py CONFIG     JSON, see `sandbox`

Exit status: that of the program; of the supervisor: TOO_MUCH_MEMORY, TOO_MANY_PROCESSES; NO_JAIL, with a line on
stdout, where the bars cannot be had.
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import time

TOO_MUCH_MEMORY, TOO_MANY_PROCESSES, NO_JAIL = 90, 91, 92

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_BIND, _REC, _PRIVATE = 0x1000, 0x4000, 0x40000
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_DETACH = 2
_PDEATHSIG, _DUMPABLE, _SECCOMP, _CAPBSET_DROP, _CHILD_SUBREAPER, _NO_NEW_PRIVS = 1, 4, 22, 24, 36, 38
_MOUNT_SETATTR = 442  # on every architecture
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}
_LINKED = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")  # into /usr, on most systems
_DEVICES = ("null", "full", "random", "urandom")  # not "zero", which gives memory of no file that can be shared
_INTERVAL = 0.05  # seconds between two looks at what is used


def main(config):
    os.umask(0o022)
    if config["namespaces"]:
        try:
            uid = enter_namespaces()
            child = os.fork()
            if child:
                os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) % 256)
            _prctl(_PDEATHSIG, signal.SIGKILL)
            build_root(config, uid)
        except OSError as error:
            give_up(error)
        supervise(config, start(config, uid))
    if sys.platform == "linux":
        _prctl(_CHILD_SUBREAPER, 1)  # so that no process of the program's gets out of sight
    supervise(config, start(config, None))


def enter_namespaces():
    """Gives the user id that the program is to run as."""
    spaces = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
    nobody = 1_900_000_000 + os.getpid()  # no other process has it, so that its processes can be counted
    if os.geteuid() == 0:
        try:
            _checked(_libc().unshare(spaces), "unshare")
            return nobody
        except PermissionError:  # root of a container
            become(65534)
            _prctl(_DUMPABLE, 1)
    uid, gid = os.geteuid(), os.getegid()
    _checked(_libc().unshare(spaces | _NEWUSER), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    return uid


def build_root(config, uid):
    """Makes a file system of the visible folders and an empty writable one, and leaves the old one."""
    root, work = config["root"], config["work"]
    _mount("none", "/", None, _REC | _PRIVATE)
    _mount("tmpfs", root, "tmpfs", _NOSUID, "mode=0755,size=4m")
    for path in ("/tmp", "/dev/shm", work):
        os.makedirs(root + path)
        options = f"uid={uid},mode=0700,size={config['file_bytes']},nr_inodes=100000"
        _mount("tmpfs", root + path, "tmpfs", _NOSUID | _NODEV, options)
    for path in [*config["visible"], *(path for path in _LINKED if os.path.isdir(path))]:
        if os.path.islink(path):
            os.symlink(os.readlink(path), root + path)
        else:
            os.makedirs(root + path, exist_ok=True)
            _show(path, root)
    for path in [*(f"/dev/{name}" for name in _DEVICES), "/etc/ld.so.cache", "/etc/localtime"]:
        if os.path.exists(path):
            os.makedirs(os.path.dirname(root + path), exist_ok=True)
            open(root + path, "x").close()
            _show(path, root)
    os.symlink("/proc/self/fd", root + "/dev/fd")
    os.mkdir(root + "/proc")
    _set_read_only(root, 0)
    _mount("proc", root + "/proc", "proc", _NOSUID | _NODEV | _NOEXEC, "subset=pid")
    os.chdir(root)
    _checked(_libc().syscall(_PIVOT_ROOT.get(os.uname().machine, -1), b".", b"."), "pivot_root")
    _checked(_libc().umount2(b".", _DETACH), "umount")
    os.chdir("/")


def start(config, uid):
    """The program's process, within its limits and without privileges."""
    others = 0 if uid is not None else tasks_of_user()
    worker = os.fork()
    if worker:
        return worker
    try:
        if uid is None:
            os.setpgid(0, 0)
        limit(config, others)
        if uid is not None:
            for capability in range(64):
                _libc().prctl(_CAPBSET_DROP, capability, 0, 0, 0)
            if os.geteuid() != uid:
                become(uid)
        if sys.platform == "linux":
            _prctl(_NO_NEW_PRIVS, 1)
            refuse_calls(bytes.fromhex(config["filter"]), uid is not None)
        os.chdir(config["work"])
        os.execve(config["command"][0], config["command"], config["environment"])
    except (OSError, ValueError) as error:
        give_up(error)


def refuse_calls(steps, needed):
    """Has the kernel refuse system calls to this process and its children."""
    if steps or needed:
        kept = ctypes.create_string_buffer(steps, len(steps))
        program = struct.pack("HP", len(steps) // 8, ctypes.addressof(kept))
        _checked(_libc().prctl(_SECCOMP, 2, program, 0, 0), "seccomp")


def become(uid):
    os.setgroups([])
    try:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError:  # a container that knows few ids
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)


def limit(config, others):
    wanted = {
        "RLIMIT_AS": config["memory_bytes"],
        "RLIMIT_FSIZE": config["file_bytes"],
        "RLIMIT_NPROC": config["processes"] + others,
        "RLIMIT_NOFILE": 256,
        "RLIMIT_CORE": 0,
    }
    for name, most in wanted.items():
        try:
            hard = resource.getrlimit(getattr(resource, name))[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(getattr(resource, name), (most, most))
        except (ValueError, OSError):  # macOS knows not all of them
            pass


def supervise(config, worker):
    """Until the program ends, or has to be ended."""
    status = 0
    lifeline = select.poll()
    lifeline.register(config["lifeline"], 0)  # on Linux the poll ends when the other end of the pipe is closed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        interval = _INTERVAL if sys.platform == "linux" else 10 * _INTERVAL
        while not lifeline.poll(interval * 1000) and not orphaned(config):
            pid, ended = os.waitpid(worker, os.WNOHANG)
            if pid:
                status = os.waitstatus_to_exitcode(ended) % 256
                break
            reap(worker)
            count, used = usage(config, worker)
            if count > config["processes"] + 1:
                status = TOO_MANY_PROCESSES
                break
            if used > config["memory_bytes"]:
                status = TOO_MUCH_MEMORY
                break
    finally:
        if not config["namespaces"]:
            kill_all(worker)
        os._exit(status)  # which ends all of a namespace


def orphaned(config):
    """Whether the starter is gone; on macOS a poll for nothing but the end of a pipe never ends."""
    return not config["namespaces"] and os.getppid() != config["starter"]


def reap(worker):
    """Takes the exit status of orphans; the program's own is left for who asks for it."""
    for pid in descendants():
        if pid != worker:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def usage(config, worker):
    """Processes of the program, and bytes of memory they hold together."""
    if sys.platform != "linux":
        listed = subprocess.run(["/bin/ps", "-A", "-o", "pgid=,rss="], capture_output=True, text=True).stdout
        sizes = [int(rss) * 1024 for pgid, rss in map(str.split, listed.splitlines()) if int(pgid) == worker]
        return len(sizes), sum(sizes)
    pids = descendants()
    used = sum(map(held, pids))
    if used > config["memory_bytes"]:  # but what two of them share has been counted twice
        used = sum(map(share, pids))
    return len(pids), used


def held(pid):
    """Bytes of a process's memory, in RAM or swapped out, that no file on a disk has; 0 if it is gone."""
    sizes = _sizes(f"/proc/{pid}/status")
    return sum(sizes.get(name, 0) for name in ("RssAnon", "RssShmem", "VmSwap"))


def share(pid):
    """Of `held`, its part of each page that it shares; takes time. All of it where this may not be known."""
    try:
        sizes = _sizes(f"/proc/{pid}/smaps_rollup")
    except PermissionError:
        return held(pid)
    return sizes.get("Pss", 0) - sizes.get("Pss_File", 0) + sizes.get("SwapPss", 0)


def descendants():
    """Of this process, by process id; in a namespace that is everybody else."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")) if os.path.isdir("/proc/self") else ():
        try:
            with open(f"/proc/{name}/stat") as file:
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
    found: set[int] = set()
    new = {os.getpid()}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - found
        found |= new
    return found


def _sizes(path):
    """Bytes by name; nothing if the process is gone. Raises PermissionError."""
    try:
        with open(path) as file:
            lines = [line.split() for line in file if line.endswith(" kB\n")]
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name.rstrip(":"): int(size) * 1024 for name, size, _ in lines}


def kill_all(worker):
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        for kill, pid in [(os.killpg, worker), *((os.kill, pid) for pid in descendants())]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def tasks_of_user():
    """How many tasks the user has already, since limits count them all."""
    count = 0
    for name in filter(str.isdigit, os.listdir("/proc")) if os.path.isdir("/proc/self") else ():
        try:
            if os.stat(f"/proc/{name}").st_uid == os.getuid():
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            pass
    return count or 2000  # elsewhere nobody tells


def give_up(error):
    os.write(1, f"{error.strerror or error} ({error.filename or 'no jail'})\n".encode())
    os._exit(NO_JAIL)


def _libc():
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option, value):
    _checked(_libc().prctl(option, int(value), 0, 0, 0), "prctl")


def _mount(source, target, kind, flags, data=None):
    arguments = (source, target, kind, flags, data)
    encoded = [part.encode() if isinstance(part, str) else part for part in arguments]
    encoded[3] = ctypes.c_ulong(flags)
    _checked(_libc().mount(*encoded), f"mount {target}")


def _show(path, root):
    """What is at the path, with all that is mounted below it, to be read only."""
    _mount(path, root + path, None, _BIND | _REC)
    _set_read_only(root + path, 0x8000)  # AT_RECURSIVE


def _set_read_only(path, flags):
    attributes = (ctypes.c_uint64 * 4)(1 | 2, 0, 0, 0)  # MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, to be set
    result = _libc().syscall(_MOUNT_SETATTR, -100, path.encode(), flags, attributes, ctypes.c_size_t(32))
    _checked(result, f"mount_setattr {path}")


def _checked(result, what):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
