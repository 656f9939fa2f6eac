"""Which bytes are wired when: the weights while an engine computes, and nothing soon after."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from itertools import islice

import mlx.core as mx
import pytest

from mlx_oss import load_model
from mlx_oss.backend import host_memory, wired
from mlx_oss.backend.machine import GIB, Machine, mac
from mlx_oss.cli import main
from mlx_oss.generation import compute_thread
from mlx_oss.generation.engine import Request
from mlx_oss.nano import nano_folder


@pytest.fixture
def limits(monkeypatch) -> list[int]:
    """The limits that are given to MLX. Nothing is released by itself, unless a test makes IDLE_SECONDS short."""
    given: list[int] = []
    monkeypatch.setattr(compute_thread, "IDLE_SECONDS", 600.0)
    compute_thread.run(wired.release)
    monkeypatch.setattr(mx, "set_wired_limit", given.append)
    yield given
    compute_thread.run(wired.release)


@pytest.fixture
def on_a_mac(monkeypatch) -> Callable[[int], None]:
    """on_a_mac(GB): from now on models are planned for such a Mac."""

    def describe(size: int) -> None:
        machine = mac(size * GIB)
        monkeypatch.setattr(host_memory, "this_machine", lambda: Machine(machine.limit, False, machine.mac_memory))

    return describe


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert is_so()


def compute(model, tokens: int = 2) -> None:
    list(model.submit(Request([1, 2, 3], max_tokens=tokens)))


def test_weights_are_wired_when_the_first_token_is_asked_for_and_released_when_nothing_more_is(
    limits, on_a_mac, monkeypatch
):
    monkeypatch.setattr(compute_thread, "IDLE_SECONDS", 0.3)
    on_a_mac(64)
    model = load_model(nano_folder())
    assert model.plan.wired_bytes == sum(model.plan.weights.values()) and limits == []
    stream = model.submit(Request([1, 2, 3], max_tokens=5))
    assert limits == []
    list(islice(stream, 2))
    compute(model)
    assert limits == [model.plan.wired_bytes]  # once, not for each token or request
    wait_until(lambda: limits == [model.plan.wired_bytes, 0])
    list(stream)
    assert limits[2:] == [model.plan.wired_bytes]


def test_two_models_are_wired_together_and_one_that_is_gone_is_not(limits, on_a_mac):
    on_a_mac(64)
    first, second = load_model(nano_folder()), load_model(nano_folder(), dtype="bfloat16")
    nbytes = [model.plan.wired_bytes for model in (first, second)]
    compute(first)
    compute(second)
    assert limits == [nbytes[0], sum(nbytes)]
    compute_thread.run(wired.release)
    del first
    gc.collect()
    compute(second)
    assert limits[2:] == [0, nbytes[1]]


@pytest.mark.parametrize("size", [8, 16, 24])
def test_small_macs_wire_nothing(limits, on_a_mac, size):
    on_a_mac(size)
    compute(load_model(nano_folder()))
    assert limits == []


def test_with_experts_on_disk_nothing_is_wired(limits, on_a_mac, routed):
    on_a_mac(64)
    compute(load_model(routed("32 experts"), slots=8, context=64))
    assert limits == []


def test_wiring_can_be_turned_off(limits, on_a_mac, monkeypatch, capsys):
    on_a_mac(64)
    compute(load_model(nano_folder(), wire=False))
    assert main(["chat", "--no-wire", "--max-tokens", "3", "Hi"]) == 3
    monkeypatch.setenv("MLX_OSS_WIRE", "0")
    compute(load_model(nano_folder()))
    assert main(["generate", "--max-tokens", "3", "Hi"]) == 3
    assert limits == []
    compute(load_model(nano_folder(), wire=True))
    assert limits


@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_where_the_system_cannot_wire_the_model_computes_all_the_same(on_a_mac, monkeypatch, error):
    def refuse(nbytes: int) -> None:
        raise error("[metal::set_wired_limit] ...")

    on_a_mac(64)
    monkeypatch.setattr(mx, "set_wired_limit", refuse)
    compute(load_model(nano_folder()))
    compute_thread.run(wired.release)


def test_a_release_that_fails_does_not_end_the_computing_thread(monkeypatch):
    called = threading.Event()

    def fail() -> None:
        called.set()
        raise MemoryError

    monkeypatch.setattr(compute_thread, "IDLE_SECONDS", 0.01)
    compute_thread.run(lambda: compute_thread.when_idle(fail))
    assert called.wait(60)
    assert compute_thread.submit(lambda: 7).result(60) == 7
