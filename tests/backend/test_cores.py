"""Work divided among cores gives the same result in every thread, and is not divided on a GPU."""

from __future__ import annotations

import threading
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss.backend import cores, device
from mlx_oss.backend.cores import over_cores, side_stream
from mlx_oss.loader import load_model


@pytest.fixture
def three_cores(monkeypatch):
    """A CPU backend with three streams that divides all work, however little."""
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    monkeypatch.setattr(cores, "SHARED_FROM", 0)
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setattr(cores, "_cpu", type(cores._cpu)())


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
    monkeypatch.setattr(cores, "SHARED_FROM", 100)
    seen = []
    over_cores(lambda a: (seen.append(str(mx.default_stream(mx.cpu))), a)[1], mx.zeros((8, 2)), work=1, block=2)
    assert len(seen) == 4 and len(set(seen)) == 1


def test_each_block_waits_for_the_one_before_on_its_core_over_several_calls(three_cores, monkeypatch):
    """Otherwise MLX would start all blocks at once, and their intermediate results would not stay in the caches."""
    real, before = mx.depends, []
    monkeypatch.setattr(mx, "depends", lambda share, last: (before.append(last), real(share, last))[1])
    results: list[mx.array] = []
    tails: dict[int, mx.array] = {}

    def plus_one(block: mx.array) -> mx.array:
        results.append(block + 1)
        return results[-1]

    for call in range(2):
        made = over_cores(plus_one, mx.full((7, 2), call), work=1, block=1, tails=tails)
        assert (made == call + 1).all()
    core_of = [block % 3 for block in range(7)] * 2
    order = [[index for index, on in enumerate(core_of) if on == core] for core in range(3)]
    waits = {id(results[first]) for blocks in order for first in blocks[:-1]}
    assert {id(last) for last in before} == waits and len(before) == 2 * 7 - 3


def test_little_work_and_work_on_a_gpu_stay_on_one_stream(three_cores, monkeypatch):
    def calls(work: int) -> int:
        seen = []
        over_cores(lambda a: (seen.append(1), a)[1], mx.zeros((8, 2)), work=work)
        return len(seen)

    monkeypatch.setattr(cores, "SHARED_FROM", 100)
    assert calls(99) == 1 and calls(100) == 3
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    assert calls(100) == 1


def test_a_model_shared_out_gives_the_same_logits_bit_for_bit(folder, three_cores, monkeypatch):
    model, tokens = load_model(folder("one kv head"), dtype="float32"), mx.array([list(range(30))])
    for length in (1, 5, 30):
        monkeypatch.setattr(cores, "SHARED_FROM", 0)
        shared = np.array(model(tokens[:, :length]))
        monkeypatch.setattr(cores, "SHARED_FROM", 1 << 60)
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
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(cores, "_cpu", type(cores._cpu)())
    assert side_stream() is None
