"""How much of a Mac's memory a model may use and wire, with what real Macs report."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_oss.backend import device, host_memory
from mlx_oss.backend.machine import GIB, Machine, mac, reserve, usually_recommended

# What Metal recommends on Macs as they are delivered, in bytes; source: logs of llama.cpp, which print MB of 10^6.
RECOMMENDED = {8: 5_726_630_000, 16: 11_453_250_000, 32: 22_906_500_000, 64: 51_539_610_000, 128: 103_079_220_000}
RAISED = {16: 16, 64: 60, 128: 128}  # GB; with sysctl iogpu.wired_limit_mb


@pytest.fixture
def on_a_mac(monkeypatch):
    """on_a_mac(GB, recommended): from now on MLX describes this Mac."""

    def describe(size: int, recommended: int) -> None:
        info = {
            "architecture": "applegpu_g14s",
            "device_name": "Apple M2 Max",
            "max_buffer_length": recommended * 3 // 4,
            "max_recommended_working_set_size": recommended,
            "memory_size": size * GIB,
            "resource_limit": 499_000,
        }
        monkeypatch.setattr(device, "on_gpu", lambda: True)
        monkeypatch.setattr(mx.metal, "is_available", lambda: True)
        monkeypatch.setattr(mx, "device_info", lambda: info)

    return describe


@pytest.mark.parametrize("size", RECOMMENDED)
def test_a_mac_as_delivered_gives_95_percent_of_what_metal_recommends(on_a_mac, size):
    on_a_mac(size, RECOMMENDED[size])
    machine = host_memory.this_machine()
    wanted = min(int(0.95 * RECOMMENDED[size]), size * GIB - reserve(size * GIB))
    assert machine == Machine(wanted, gpu=True, mac_memory=size * GIB)
    assert (machine.limit == int(0.95 * RECOMMENDED[size])) == (size > 8 or machine.limit < 5.5e9)


@pytest.mark.parametrize("size", RAISED)
def test_the_system_keeps_its_reserve_where_the_recommendation_was_raised(on_a_mac, size):
    on_a_mac(size, RAISED[size] * GIB)
    assert host_memory.this_machine().limit == size * GIB - reserve(size * GIB) < int(0.95 * RAISED[size] * GIB)


def test_the_reserve_is_a_fifth_and_4_gb_at_least_but_at_most_35_percent():
    assert [reserve(size * GIB) / GIB for size in (8, 16, 32, 64, 128)] == pytest.approx([2.8, 4, 6.4, 12.8, 25.6])
    assert all(0 < reserve(size) <= 0.35 * size for size in range(GIB, 600 * GIB, 7 * GIB))


@pytest.mark.parametrize("size", RECOMMENDED)
def test_the_usual_recommendation_is_that_of_the_logs(size):
    assert usually_recommended(size * GIB) == pytest.approx(RECOMMENDED[size], rel=1e-5)


def test_only_macs_with_32_gb_wire_and_never_more_than_the_weights_or_the_limit():
    weights = 13_761_264_768
    assert [mac(size * GIB).wired(weights) for size in (8, 16, 24)] == [0, 0, 0]
    assert mac(32 * GIB).wired(weights) == mac(128 * GIB).wired(weights) == weights
    assert mac(32 * GIB).wired(10**12) == mac(32 * GIB).limit
    assert Machine(10**12).wired(weights) == Machine(10**12, gpu=True).wired(weights) == 0


def test_a_mac_that_computes_on_the_cpu_has_no_limit_of_metal(monkeypatch):
    """On such a Mac `mx.device_info` describes the CPU."""
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    monkeypatch.setattr(mx, "device_info", lambda: {"device_name": "Apple M4"})
    machine = host_memory.this_machine()
    assert machine.mac_memory is None and not machine.gpu and machine.limit > 0
