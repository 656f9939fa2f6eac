"""The peak memory of a process: what a Mac's libproc reports, by a fake of it, and what is left if that fails."""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from mlx_oss.backend import process_memory
from mlx_oss.backend.process_memory import peak_memory_bytes

# Of struct rusage_info_v4 on a 64-bit Mac, counted by hand from sys/resource.h.
SIZE, RESIDENT, FOOTPRINT, PEAK, INTERVAL_PEAK = 296, 64, 72, 240, 280
MAXRSS = 111_000_000


@pytest.fixture
def mac(monkeypatch) -> Callable[[object], None]:
    """mac(libproc) makes this a Mac whose libproc has the attributes of an object; None: it has no libproc."""

    def install(libproc: object) -> None:
        def load(path: str) -> object:
            assert path == "/usr/lib/libproc.dylib"
            if libproc is None:
                raise OSError("image not found")
            return libproc

        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr(process_memory.ctypes, "CDLL", load)
        monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=MAXRSS))

    return install


def libproc(status: int = 0, peak: int = 5_000_000_000) -> SimpleNamespace:
    """A libproc that fills the whole struct, as the kernel does."""

    def proc_pid_rusage(pid: int, flavor: int, buffer: object) -> int:
        assert (pid, flavor) == (os.getpid(), 4)
        filled = bytearray(b"\xff" * SIZE)
        for offset, value in {RESIDENT: 1, FOOTPRINT: 4_000_000_000, PEAK: peak, INTERVAL_PEAK: 2}.items():
            struct.pack_into("<Q", filled, offset, value)
        ctypes.memmove(buffer, bytes(filled), SIZE)
        return status

    return SimpleNamespace(proc_pid_rusage=proc_pid_rusage)


def test_the_struct_is_as_large_as_the_kernel_s():
    assert ctypes.sizeof(process_memory._RusageInfoV4) == SIZE


def test_a_mac_reports_the_largest_physical_footprint(mac):
    mac(libproc())
    assert peak_memory_bytes() == 5_000_000_000


@pytest.mark.parametrize("broken", [None, SimpleNamespace(), libproc(status=-1), libproc(peak=0)])
def test_if_that_fails_it_is_the_resident_memory_which_macs_count_in_bytes(mac, broken):
    mac(broken)
    assert peak_memory_bytes() == MAXRSS


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts kilobytes")
def test_linux_reports_the_resident_memory():
    assert peak_memory_bytes() == 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 10_000_000


@pytest.mark.skipif(sys.platform != "darwin", reason="only a Mac has libproc")
def test_the_system_fills_the_struct():
    footprint = process_memory._peak_footprint()
    assert footprint and 10_000_000 < footprint < 10**12
