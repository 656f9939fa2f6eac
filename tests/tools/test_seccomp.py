"""Tests of the system call filter itself: `answer` runs the instructions as the kernel does, for every machine."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from mlx_oss.tools.sandbox import seccomp

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "riscv64": 0xC00000F3}
I386, ALLOWED = 0x40000003, 0


def answer(machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
    """What the filter answers to a call: ALLOWED, or the error."""
    data = struct.pack("<IIQ6Q", number, arch or ARCH[machine], 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(struct.iter_unpack("<HBBI", seccomp.program(machine)))
    at = loaded = 0
    while True:
        code, skip, skip_else, value = instructions[at]
        at += 1
        match code:
            case 0x20:
                loaded = struct.unpack_from("<I", data, value)[0]
            case 0x54:
                loaded &= value
            case 0x15:
                at += skip if loaded == value else skip_else
            case 0x35:
                at += skip if loaded >= value else skip_else
            case 0x06:
                assert value == 0x7FFF0000 or value >> 16 == 5
                return value & 0xFFFF if value >> 16 == 5 else ALLOWED
            case _:
                raise AssertionError(code)


@pytest.mark.parametrize("machine", ARCH)
def test_exactly_the_listed_calls_are_allowed(machine):
    numbers = seccomp.call_numbers(machine)
    for number in [*range(700), 1 << 29, 0x3FFFFFFF, 0x40000000, 0x40000001, 0x7FFFFFFF, 0xFFFFFFFF]:
        expected = errno.EPERM if number < 424 or number >= 0x40000000 else errno.ENOSYS
        if number in numbers.values():
            expected = ALLOWED
        name = next((name for name, own in numbers.items() if own == number), "")
        if name not in ("socket", "socketpair", "prctl", "ioctl"):  # they look at arguments
            assert answer(machine, number) == expected, (number, name)
        assert answer(machine, number, arch=I386) == errno.EPERM


@pytest.mark.parametrize("machine", ARCH)
def test_arguments_are_looked_at(machine):
    numbers, upper = seccomp.call_numbers(machine), 1 << 32
    for name in ("socket", "socketpair"):
        families = [family for family in range(100) if answer(machine, numbers[name], family, 1, 0) == ALLOWED]
        assert families == [1, 2, 10, 16]
        assert answer(machine, numbers[name], upper | 40, 1, 0) == errno.EAFNOSUPPORT
        assert answer(machine, numbers[name], 2, 1, 132) == errno.EPROTONOSUPPORT  # SCTP
        assert answer(machine, numbers[name], 16, 3, 12) == errno.EPROTONOSUPPORT  # netfilter
    assert answer(machine, numbers["mmap"], 0, 4096, 3, 0x22) == ALLOWED
    for flags in (0x21, 0x23, 0x40022, upper | 0x21):  # shared without a file, huge pages
        assert answer(machine, numbers["mmap"], 0, 4096, 3, flags) == errno.EPERM
    assert answer(machine, numbers["mmap"], 0, 4096, 3, 0x01) == ALLOWED
    assert answer(machine, numbers["clone"], 0x3D0F00) == ALLOWED  # a thread
    for bit in (17, 25, 26, 27, 28, 29, 30):
        assert answer(machine, numbers["clone"], 17 | 1 << bit) == errno.EPERM
    assert answer(machine, numbers["prctl"], 15) == ALLOWED and answer(machine, numbers["prctl"], 22) == errno.EINVAL
    assert answer(machine, numbers["ioctl"], 0, 0x5401) == ALLOWED
    assert answer(machine, numbers["ioctl"], 0, upper | 0x5412) == errno.ENOTTY


def test_a_machine_that_is_not_known_has_no_filter():
    assert seccomp.program("sparc") == b""


@pytest.mark.parametrize(
    ("machine", "header"),
    [("x86_64", "x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "asm-generic/unistd.h")],
)
def test_the_numbers_are_those_of_the_kernels_headers(machine, header):
    path = Path("/usr/include", header)
    if not path.exists():
        pytest.skip(f"no {path}")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\n", path.read_text())
    numbers = {name: int(number) for name, number in found} | {"fchmodat2": 452, "map_shadow_stack": 453}
    numbers["newfstatat"] = numbers.get("fstatat", numbers.get("newfstatat", -1))
    assert {name: numbers[name] for name in seccomp.call_numbers(machine)} == seccomp.call_numbers(machine)
