"""The system calls that the kernel refuses to a program in the sandbox, in its own language (BPF). Linux only.

What is refused gives memory that no process is seen to hold, so that it could not be counted: memory by a file
descriptor, System V's, shared mappings of no file; and user namespaces of the program's own, in which it could mount
file systems in memory.
"""

from __future__ import annotations

import errno
import struct

# By machine: its number in `linux/audit.h`, and those of the calls. All are little-endian and have 64 bits.
_GENERIC = {"memfd_create": 279, "shmget": 194, "unshare": 97, "clone": 220, "mmap": 222}
_MACHINES: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (0xC000003E, {"memfd_create": 319, "shmget": 29, "unshare": 272, "clone": 56, "mmap": 9}),
    "aarch64": (0xC00000B7, _GENERIC),
    "riscv64": (0xC00000F3, _GENERIC),
}
_MEMFD_SECRET, _CLONE3 = 447, 435  # on every machine
_FIRST_OF_X32 = 0x40000000  # where the calls of another ABI of x86_64 begin
_CLONE_NEWUSER = 0x10000000
_SHARED_OF_NO_FILE = 0x01 | 0x20  # MAP_SHARED | MAP_ANONYMOUS

_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_NUMBER, _MACHINE, _FIRST_ARGUMENT, _FOURTH_ARGUMENT = 0, 4, 16, 40  # in `struct seccomp_data`, the lower half of each
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000


def program(machine: str) -> bytes:
    """The filter for this machine, as `os.uname` names it; empty where its calls are not known."""
    if machine not in _MACHINES:
        return b""
    audit, numbers = _MACHINES[machine]
    no = _step(_RETURN, _REFUSE | errno.EPERM)
    refused = [numbers["memfd_create"], _MEMFD_SECRET, numbers["shmget"], numbers["unshare"]]
    steps = [_step(_LOAD, _MACHINE), _step(_EQUAL, audit, skip=1), no, _step(_LOAD, _NUMBER)]
    steps += [_step(_AT_LEAST, _FIRST_OF_X32, skip_else=1), no]
    for number in refused:
        steps += [_step(_EQUAL, number, skip_else=1), no]
    # It has its flags in memory, where they cannot be looked at. Who is told that there is none takes `clone`.
    steps += [_step(_EQUAL, _CLONE3, skip_else=1), _step(_RETURN, _REFUSE | errno.ENOSYS)]
    for number, argument, flags in (
        (numbers["clone"], _FIRST_ARGUMENT, _CLONE_NEWUSER),
        (numbers["mmap"], _FOURTH_ARGUMENT, _SHARED_OF_NO_FILE),
    ):
        has_flags = [_step(_LOAD, argument), _step(_AND, flags), _step(_EQUAL, flags, skip_else=1), no]
        steps += [_step(_EQUAL, number, skip_else=len(has_flags) + 1), *has_flags, _step(_LOAD, _NUMBER)]
    return b"".join([*steps, _step(_RETURN, _ALLOW)])


def _step(code: int, value: int, skip: int = 0, skip_else: int = 0) -> bytes:
    """A `struct sock_filter`; a comparison skips so many steps where it holds, and where it does not."""
    return struct.pack("<HBBI", code, skip, skip_else, value)
