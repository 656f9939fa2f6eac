"""The system call filter (seccomp, as a BPF program) for the sandbox on Linux.

It refuses the calls that allocate memory which is not attributed to any process and so cannot be counted: memory
behind a file descriptor (memfd), System V shared memory, and shared mappings without a file. It also refuses new user
namespaces, because the program could mount file systems in memory there.
"""

from __future__ import annotations

import errno
import struct

# By machine: its AUDIT_ARCH number in `linux/audit.h`, and its system call numbers. All are 64-bit and little-endian.
_GENERIC = {"memfd_create": 279, "shmget": 194, "unshare": 97, "clone": 220, "mmap": 222}
_MACHINES: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (0xC000003E, {"memfd_create": 319, "shmget": 29, "unshare": 272, "clone": 56, "mmap": 9}),
    "aarch64": (0xC00000B7, _GENERIC),
    "riscv64": (0xC00000F3, _GENERIC),
}
_MEMFD_SECRET, _CLONE3 = 447, 435  # on every machine
_FIRST_OF_X32 = 0x40000000  # call numbers from here on belong to x32, another ABI of x86_64
_CLONE_NEWUSER = 0x10000000
_SHARED_ANONYMOUS = 0x01 | 0x20  # MAP_SHARED | MAP_ANONYMOUS

_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
# Offsets in `struct seccomp_data`; of the arguments, the lower half.
_NUMBER, _MACHINE, _FIRST_ARGUMENT, _FOURTH_ARGUMENT = 0, 4, 16, 40
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000


def program(machine: str) -> bytes:
    """Returns the filter for a machine type as `os.uname` names it; empty if its call numbers are not known."""
    if machine not in _MACHINES:
        return b""
    audit_arch, numbers = _MACHINES[machine]
    refuse = _step(_RETURN, _REFUSE | errno.EPERM)
    refused = [numbers["memfd_create"], _MEMFD_SECRET, numbers["shmget"], numbers["unshare"]]
    steps = [_step(_LOAD, _MACHINE), _step(_EQUAL, audit_arch, skip=1), refuse, _step(_LOAD, _NUMBER)]
    steps += [_step(_AT_LEAST, _FIRST_OF_X32, skip_else=1), refuse]
    for number in refused:
        steps += [_step(_EQUAL, number, skip_else=1), refuse]
    # clone3 has its flags in memory, which a filter cannot read. After ENOSYS, programs use `clone` instead.
    steps += [_step(_EQUAL, _CLONE3, skip_else=1), _step(_RETURN, _REFUSE | errno.ENOSYS)]
    for number, argument, flags in (
        (numbers["clone"], _FIRST_ARGUMENT, _CLONE_NEWUSER),
        (numbers["mmap"], _FOURTH_ARGUMENT, _SHARED_ANONYMOUS),
    ):
        has_flags = [_step(_LOAD, argument), _step(_AND, flags), _step(_EQUAL, flags, skip_else=1), refuse]
        steps += [_step(_EQUAL, number, skip_else=len(has_flags) + 1), *has_flags, _step(_LOAD, _NUMBER)]
    return b"".join([*steps, _step(_RETURN, _ALLOW)])


def _step(code: int, value: int, skip: int = 0, skip_else: int = 0) -> bytes:
    """One instruction (`struct sock_filter`). A comparison skips `skip` steps if true, `skip_else` steps if false."""
    return struct.pack("<HBBI", code, skip, skip_else, value)
