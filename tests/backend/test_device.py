"""The seam to the machine: what is shared out gives the same result, in every thread, and a GPU is left alone."""

from __future__ import annotations

import mmap
import sys
import threading
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss.backend import device
from mlx_oss.backend.device import (
    compiled,
    device_name,
    in_large_pages,
    keep_freed_memory,
    keep_resident,
    on_gpu,
    over_cores,
    side_stream,
)
from mlx_oss.loader import load_model


@pytest.fixture
def three_cores(monkeypatch):
    """A CPU backend of three streams that shares out whatever it is given."""
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    monkeypatch.setattr(device, "SHARED_FROM", 0)
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setattr(device, "_cpu", type(device._cpu)())


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 16])
def test_rows_shared_out_give_what_one_core_gives_bit_for_bit(rows, three_cores):
    a, b = mx.random.normal((rows, 5, 7)), mx.random.normal((rows, 7, 3))
    assert mx.array_equal(over_cores(lambda a, b: mx.exp(a @ b), a, b, work=1), mx.exp(a @ b))


def test_rows_are_shared_out_evenly_among_the_cores(three_cores):
    seen = []
    over_cores(lambda a: (seen.append((a.shape[0], str(mx.default_stream(mx.cpu)))), a)[1], mx.zeros((8, 2)), work=1)
    assert sorted(count for count, _ in seen) == [2, 3, 3] and len({stream for _, stream in seen}) == 3


@pytest.mark.parametrize("block", [1, 3, 4, 100])
def test_blocks_are_no_larger_than_asked_and_go_to_the_cores_in_turn(block, three_cores):
    seen = []

    def twice(a: mx.array) -> mx.array:
        seen.append((a.shape[0], str(mx.default_stream(mx.cpu))))
        return a * 2

    assert over_cores(twice, mx.arange(10), work=1, block=block).tolist() == list(range(0, 20, 2))
    assert max(rows for rows, _ in seen) <= block and sum(rows for rows, _ in seen) == 10
    assert all(a[1] != b[1] for a, b in pairwise(seen))


def test_little_work_is_done_in_blocks_too_but_on_one_core(three_cores, monkeypatch):
    monkeypatch.setattr(device, "SHARED_FROM", 100)
    seen = []
    over_cores(lambda a: (seen.append(str(mx.default_stream(mx.cpu))), a)[1], mx.zeros((8, 2)), work=1, block=2)
    assert len(seen) == 4 and len(set(seen)) == 1


def test_each_block_waits_for_the_one_before_on_its_core_over_several_calls(three_cores, monkeypatch):
    """Or MLX would start them all, and what they compute in between would fall out of the caches."""
    real, before = mx.depends, []
    monkeypatch.setattr(mx, "depends", lambda share, last: (before.append(last), real(share, last))[1])
    results: list[mx.array] = []
    turns: dict[int, mx.array] = {}

    def plus_one(block: mx.array) -> mx.array:
        results.append(block + 1)
        return results[-1]

    for call in range(2):
        made = over_cores(plus_one, mx.full((7, 2), call), work=1, block=1, turns=turns)
        assert (made == call + 1).all()
    cores = [block % 3 for block in range(7)] * 2
    order = [[index for index, on in enumerate(cores) if on == core] for core in range(3)]
    waits = {id(results[first]) for blocks in order for first in blocks[:-1]}
    assert {id(last) for last in before} == waits and len(before) == 2 * 7 - 3


def test_freed_memory_is_kept_where_the_c_library_can(monkeypatch):
    told = {}
    library = SimpleNamespace(mallopt=lambda what, value: told.setdefault(what, value))
    monkeypatch.setattr(device.ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(device, "_tell_c_library", device._tell_c_library.__wrapped__)
    assert keep_freed_memory() and told == {-3: 32 << 20, -1: 64 << 20}
    monkeypatch.setattr(device.ctypes, "CDLL", lambda _: SimpleNamespace())
    assert not keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(device.ctypes, "CDLL", None)
    assert not keep_freed_memory()


def test_a_gpu_keeps_no_more_of_what_is_freed_than_the_plan_leaves(monkeypatch):
    limits: list[int] = []
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    monkeypatch.setattr(mx, "set_cache_limit", limits.append)
    assert keep_freed_memory(5 << 30) and keep_freed_memory(-1) and keep_freed_memory()
    assert limits == [5 << 30, 64 << 20, 64 << 20]


def test_little_work_and_a_gpus_stay_on_one_stream(three_cores, monkeypatch):
    def calls(work: int) -> int:
        seen = []
        over_cores(lambda a: (seen.append(1), a)[1], mx.zeros((8, 2)), work=work)
        return len(seen)

    monkeypatch.setattr(device, "SHARED_FROM", 100)
    assert calls(99) == 1 and calls(100) == 3
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    assert calls(100) == 1


def test_a_model_shared_out_gives_the_same_logits_bit_for_bit(folder, three_cores, monkeypatch):
    model, tokens = load_model(folder("one kv head"), dtype="float32"), mx.array([list(range(30))])
    for length in (1, 5, 30):
        monkeypatch.setattr(device, "SHARED_FROM", 0)
        shared = np.array(model(tokens[:, :length]))
        monkeypatch.setattr(device, "SHARED_FROM", 1 << 60)
        assert np.array_equal(shared, np.array(model(tokens[:, :length])))


def test_every_thread_has_streams_it_can_use(three_cores):
    results: list[bool] = []

    def work() -> None:
        total = mx.ones((3,), stream=side_stream()) + over_cores(lambda a: a + 1, mx.ones((3,)), work=1)
        results.append(total.tolist() == [3, 3, 3])

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    work()
    assert results == [True] * 4


def test_one_core_has_no_side_stream(three_cores, monkeypatch):
    assert side_stream() is not None
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(device, "_cpu", type(device._cpu)())
    assert side_stream() is None


def test_a_gpu_compiles_and_has_no_side_stream(monkeypatch):
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda: {"device_name": "Apple M4 Pro"})
    assert side_stream() is None and device_name() == "Apple M4 Pro"
    function = compiled(lambda x: mx.exp(x) + 1)
    assert np.allclose(function(mx.array([1.0])), np.e + 1)


def test_on_the_cpu_backend_a_function_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    assert compiled(len) is len and device_name() == "CPU backend"


def test_without_metal_there_is_no_limit_to_set(monkeypatch):
    monkeypatch.setattr(mx.metal, "is_available", lambda: False)
    assert keep_resident() is None


@pytest.mark.parametrize("error", [None, RuntimeError, ValueError])
def test_with_metal_weights_stay_wired_where_the_system_can(monkeypatch, error):
    limits: list[int] = []

    def set_limit(limit: int) -> None:
        if error:
            raise error("before macOS 15")
        limits.append(limit)

    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 2**34})
    monkeypatch.setattr(mx, "set_wired_limit", set_limit)
    assert keep_resident() == (None if error else 2**34) and limits == ([] if error else [2**34])


def test_a_mac_that_computes_on_the_cpu_has_neither_limit_of_metal(monkeypatch):
    """There `mx.device_info` describes the CPU."""
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    monkeypatch.setattr(mx, "device_info", lambda: {"device_name": "Apple M4"})
    assert keep_resident() is None and device.memory_limit()[1] == "available"


def test_mlx_says_whether_there_is_a_gpu():
    assert on_gpu() == (mx.default_device().type == mx.gpu)


def test_large_pages_are_asked_for_within_the_memory_and_change_nothing_in_it(monkeypatch):
    memory = memoryview(bytearray(range(256)) * (1 << 14))
    asked: list[tuple[int, int]] = []
    libc = SimpleNamespace(madvise=lambda start, nbytes, _: asked.append((start.value, nbytes.value)) or 0)
    monkeypatch.setattr(device.ctypes, "CDLL", lambda _: libc)
    monkeypatch.setattr(device.sys, "platform", "linux")
    assert in_large_pages(memory)
    [(start, nbytes)] = asked
    first = device.ctypes.addressof(device.ctypes.c_char.from_buffer(memory))
    assert first <= start < first + mmap.PAGESIZE and start % mmap.PAGESIZE == nbytes % mmap.PAGESIZE == 0
    assert first + len(memory) - mmap.PAGESIZE < start + nbytes <= first + len(memory)
    assert not in_large_pages(memory[: mmap.PAGESIZE // 2])
    libc.madvise = lambda *_: -1  # a kernel without
    assert not in_large_pages(memory)
    monkeypatch.setattr(device.sys, "platform", "darwin")
    assert not in_large_pages(memory)
    assert bytes(memory[:256]) == bytes(range(256)) and len(asked) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has them")
def test_the_system_takes_the_question_for_large_pages(monkeypatch):
    real, answers = device.ctypes.CDLL(None).madvise, []
    libc = SimpleNamespace(madvise=lambda *asked: answers.append(real(*asked)) or answers[-1])
    monkeypatch.setattr(device.ctypes, "CDLL", lambda _: libc)
    with mmap.mmap(-1, 8 << 20) as memory, memoryview(memory) as view:
        granted = in_large_pages(view)
        view[:: mmap.PAGESIZE] = b"\1" * (len(view) // mmap.PAGESIZE)
    assert answers == [0 if granted else -1]
    assert granted or not Path("/sys/kernel/mm/transparent_hugepage").is_dir()
