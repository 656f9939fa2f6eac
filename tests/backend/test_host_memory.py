"""How much freed memory is kept, and what is requested in huge pages, on each kind of system."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import pytest

from mlx_oss.backend import device, host_memory
from mlx_oss.backend.host_memory import in_large_pages, keep_freed_memory


def test_freed_memory_is_kept_where_the_c_library_can(monkeypatch):
    settings = {}
    library = SimpleNamespace(mallopt=lambda name, value: settings.setdefault(name, value))
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(host_memory, "_set_malloc_thresholds", host_memory._set_malloc_thresholds.__wrapped__)
    assert keep_freed_memory() and settings == {-3: 32 << 20, -1: 64 << 20}
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda _: SimpleNamespace())
    assert not keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(host_memory.ctypes, "CDLL", None)
    assert not keep_freed_memory()


def test_a_gpu_keeps_no_more_of_what_is_freed_than_the_plan_leaves(monkeypatch):
    limits: list[int] = []
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    monkeypatch.setattr(mx, "set_cache_limit", limits.append)
    assert keep_freed_memory(5 << 30) and keep_freed_memory(-1) and keep_freed_memory()
    assert limits == [5 << 30, 64 << 20, 64 << 20]


def test_huge_pages_are_requested_within_the_memory_and_change_nothing_in_it(monkeypatch):
    memory = memoryview(bytearray(range(256)) * (1 << 14))
    requests: list[tuple[int, int]] = []
    libc = SimpleNamespace(madvise=lambda start, nbytes, _: requests.append((start.value, nbytes.value)) or 0)
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda _: libc)
    monkeypatch.setattr(host_memory.sys, "platform", "linux")
    assert in_large_pages(memory)
    [(start, nbytes)] = requests
    first = host_memory.ctypes.addressof(host_memory.ctypes.c_char.from_buffer(memory))
    assert first <= start < first + mmap.PAGESIZE and start % mmap.PAGESIZE == nbytes % mmap.PAGESIZE == 0
    assert first + len(memory) - mmap.PAGESIZE < start + nbytes <= first + len(memory)
    assert not in_large_pages(memory[: mmap.PAGESIZE // 2])
    libc.madvise = lambda *_: -1  # a kernel without huge pages
    assert not in_large_pages(memory)
    monkeypatch.setattr(host_memory.sys, "platform", "darwin")
    assert not in_large_pages(memory)
    assert bytes(memory[:256]) == bytes(range(256)) and len(requests) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has huge pages to request")
def test_the_system_understands_the_request_for_huge_pages(monkeypatch):
    real, answers = host_memory.ctypes.CDLL(None).madvise, []
    libc = SimpleNamespace(madvise=lambda *arguments: answers.append(real(*arguments)) or answers[-1])
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda _: libc)
    with mmap.mmap(-1, 8 << 20) as memory, memoryview(memory) as view:
        granted = in_large_pages(view)
        view[:: mmap.PAGESIZE] = b"\1" * (len(view) // mmap.PAGESIZE)
    assert answers == [0 if granted else -1]
    assert granted or not Path("/sys/kernel/mm/transparent_hugepage").is_dir()
