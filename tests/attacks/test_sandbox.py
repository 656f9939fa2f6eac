"""Attacks on the Python sandbox from inside: what the code must not reach, tried one by one.

Nothing here would do harm if it were not contained: calls get arguments that no call can use, and memory is allocated
only up to a bound.
"""

from __future__ import annotations

import ctypes
import json
import os

import pytest

from mlx_oss.tools import Limits, PythonTool, sandbox
from mlx_oss.tools.sandbox import seccomp

NAMESPACES = sandbox.isolation_here() == "namespaces"
pytestmark = pytest.mark.skipif(not NAMESPACES, reason=f"no namespaces: {sandbox.isolation_here()}")
x86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="an entry that only x86-64 has")


@pytest.fixture
def tool():
    tool = PythonTool(limits=Limits(seconds=120, memory_bytes=1 << 30, processes=40, file_bytes=32 << 20))
    yield tool
    tool.close()


# --- System calls

CALLS = """
import ctypes, errno, json, mmap, os, resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
def code(machine_code):
    memory = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=7)
    memory.write(machine_code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return memory, ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long)(address)
libc = ctypes.CDLL(None, use_errno=True)
def ordinary(number):  # the arguments are no addresses, no process and no file descriptor
    return -ctypes.get_errno() if libc.syscall(ctypes.c_long(number), *[ctypes.c_long(-9)] * 6) == -1 else 0
def answer(call, number):
    child = os.fork()
    if child == 0:
        result = call(number)
        os._exit(min(-result, 255) if result < 0 else 0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return errno.errorcode.get(status, "allowed") if status >= 0 else "killed"
"""
# push rbx; mov eax, edi; ebx, ecx, edx, esi, edi = 0; int 0x80; cdqe; pop rbx; ret
INT_80 = bytes.fromhex("5389f831db31c931d231f631ffcd8048985bc3")


def answers(tool: PythonTool, call: str, numbers: list[int]) -> dict[int, str]:
    """What the kernel answered to each of these calls."""
    report = tool.call("", f"{CALLS}\n{call}\nprint(json.dumps([answer(call, number) for number in {numbers}]))")
    return dict(zip(numbers, json.loads(report.splitlines()[-1]), strict=True))


def test_every_call_that_is_not_listed_is_refused(tool, capsys):
    listed = set(seccomp.call_numbers(os.uname().machine).values())
    numbers = sorted({*range(600), 1000, 1 << 20, 0x3FFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF} - listed)
    found = answers(tool, "call = ordinary", numbers)
    for number in (335, 336):  # uretprobe and uprobe: Linux asks no filter, and refuses them outside its own code
        assert os.uname().machine != "x86_64" or found.pop(number) in ("EPERM", "ENOSYS", "ENXIO", "killed")
    assert {number: text for number, text in found.items() if text not in ("EPERM", "ENOSYS")} == {}
    assert found[435] == "ENOSYS"  # clone3: the C library uses clone then
    assert len(numbers) > 350
    with capsys.disabled():
        print(f"\nsystem calls: {len(numbers)} tried, {len(numbers)} refused")


@x86_64
def test_every_call_by_the_numbers_of_x32_is_refused(tool):
    found = answers(tool, "call = ordinary", [0x40000000 + number for number in range(560)])
    assert set(found.values()) <= {"EPERM", "ENOSYS"}


@x86_64
def test_every_call_by_the_32_bit_entry_is_refused(tool):
    """The number of a call is another there: 20 is getpid, which would succeed."""
    found = answers(tool, f"kept, call = code(bytes.fromhex({INT_80.hex()!r}))", list(range(470)))
    assert set(found.values()) <= {"EPERM", "ENOSYS", "killed"}


def test_dangerous_calls_are_not_listed():
    dangerous = """keyctl add_key request_key bpf perf_event_open userfaultfd io_uring_setup io_uring_enter
    io_uring_register ptrace process_vm_readv process_vm_writev kcmp mount umount2 pivot_root chroot setns unshare
    clone3 memfd_create memfd_secret shmget shmat msgget semget mq_open init_module finit_module delete_module
    kexec_load open_by_handle_at name_to_handle_at fanotify_init fsopen fsmount move_mount open_tree mount_setattr pidfd_getfd
    swapon reboot syslog iopl ioperm modify_ldt personality vmsplice splice tee remap_file_pages seccomp setuid setgid
    setgroups capset quotactl acct settimeofday clock_settime adjtimex sethostname process_madvise move_pages""".split()
    for machine in ("x86_64", "aarch64", "riscv64"):
        assert not set(dangerous) & set(seccomp.call_numbers(machine))


def test_only_four_socket_families_are_open(tool):
    code = """
import socket
open_families = set()
for family in range(64):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
        for make in (socket.socket, socket.socketpair):
            try:
                make(family, kind, 0)
                open_families.add(family)
            except (OSError, ValueError):
                pass
sorted(open_families)
"""
    assert set(json.loads(tool.call("", code))) <= {1, 2, 10, 16}  # UNIX, INET, INET6, NETLINK
    number = seccomp.call_numbers(os.uname().machine)["socket"]
    upper = f"{CALLS}\nprint(libc.syscall({number}, ctypes.c_long((1 << 32) | 40), ctypes.c_long(1), ctypes.c_long(0)))"
    assert tool.call("", upper) == "-1"  # VSOCK, with an upper half that the kernel ignores


@pytest.mark.parametrize("protocol", [2, 4, 5, 6, 9, 10, 12, 15, 16, 20, 21])
def test_netlink_is_open_for_the_routing_table_alone(tool, protocol):
    assert "Error" in tool.call("", f"import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, {protocol})")


def test_devices_and_namespaces_cannot_be_asked_for(tool):
    flags = {"NEWNS": 17, "NEWCGROUP": 25, "NEWUTS": 26, "NEWIPC": 27, "NEWUSER": 28, "NEWPID": 29, "NEWNET": 30}
    clone = seccomp.call_numbers(os.uname().machine)["clone"]
    for bit in flags.values():
        code = f"{CALLS}\nprint(libc.syscall({clone}, {1 << bit} | 17, 0, 0, 0, 0), ctypes.get_errno())"
        assert tool.call("", code) == "-1 1"
    assert "Errno 25" in tool.call("", "import fcntl; fcntl.ioctl(0, 0x5412, b'x')")  # TIOCSTI: types into a terminal
    assert "Errno 25" in tool.call("", "import fcntl; fcntl.ioctl(0, 0x541C, b'x')")  # TIOCLINUX


def test_the_session_keyring_is_a_new_one():
    """A key of the caller is found before, and not after."""
    from mlx_oss.tools.sandbox import jail

    add_key = {"x86_64": 248, "aarch64": 217, "riscv64": 217}[os.uname().machine]
    search, session, libc = 10, -3, ctypes.CDLL(None, use_errno=True)
    keyctl = jail._KEYCTL[os.uname().machine]
    child = os.fork()
    if child == 0:
        if libc.syscall(keyctl, jail._JOIN_SESSION_KEYRING, None) < 0:
            os._exit(77)
        libc.syscall(add_key, b"user", b"mlx-oss-test", b"ticket", 6, session)
        before = libc.syscall(keyctl, search, session, b"user", b"mlx-oss-test", 0)
        jail.join_new_keyring()
        after = libc.syscall(keyctl, search, session, b"user", b"mlx-oss-test", 0)
        os._exit(0 if before > 0 and after == -1 else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 77:
        pytest.skip("this kernel has no keys")
    assert status == 0
