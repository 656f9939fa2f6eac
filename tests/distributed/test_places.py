"""Where the machines are: what `mlx.launch` tells is read, and what is wrong in it is named."""

from __future__ import annotations

import json

import pytest

from mlx_oss.distributed import places
from mlx_oss.errors import EngineError

THREE = [["10.0.0.1:32323", "10.0.1.1:32324"], ["10.0.0.2:32325"], ["10.0.0.3:32326"]]


@pytest.fixture
def told(tmp_path, monkeypatch):
    """told(what, rank, variable) is what a machine knows when a variable names a file with `what`."""
    for name in (places.RING, places.DEVICES, places.COORDINATOR, places.MEETING):
        monkeypatch.delenv(name, raising=False)

    def read(what, rank="0", variable=places.RING):
        path = tmp_path / "told.json"
        path.write_text(what if isinstance(what, str) else json.dumps(what))
        monkeypatch.setenv("MLX_RANK", rank)
        monkeypatch.setenv(variable, str(path))
        return places.told()

    return read


def test_a_ring_is_read_from_its_list_of_addresses(told):
    found = told(THREE, "1")
    assert (found.rank, found.size, found.backend) == (1, 3, "ring")
    assert found.address == "10.0.0.1" and found.name(2) == "machine 2 (10.0.0.3:32326)"
    assert found.allowed == {"10.0.0.1", "10.0.1.1", "10.0.0.2", "10.0.0.3"}
    assert found.digest == told(THREE, "2").digest != told(THREE[:2], "0").digest


@pytest.mark.parametrize("first", [1, 9_000, 11_024, 32_323, 65_535])
def test_the_port_of_the_meeting_is_none_of_those_that_mlx_launch_gives_out(told, first):
    ports = {first + number for number in range(16)}  # of this run; and of another one, which starts next to it
    found = told([[f"10.0.0.1:{first}"], [f"10.0.0.2:{min(first + 1, 65_535)}"]])
    assert found.port not in ports and 0 < found.port < 65_536
    assert told([["10.0.0.1:32323"], ["10.0.0.2:32324"]]).port != told([["10.0.0.1:32325"], ["10.0.0.2:32326"]]).port


def test_jaccl_tells_how_many_there_are_and_where_the_first_one_is(told, monkeypatch):
    monkeypatch.setenv(places.COORDINATOR, "10.0.0.1:32323")
    found = told([[None, "rdma_en2"], ["rdma_en2", None]], "1", places.DEVICES)
    assert (found.size, found.backend, found.address, found.allowed) == (2, "jaccl", "10.0.0.1", None)
    assert found.name(1) == "machine 1" and found.name(1, "mac2") == "machine 1 (mac2)"


def test_another_address_for_the_meeting_can_be_named(told, monkeypatch):
    monkeypatch.setenv(places.MEETING, "mac1.local:5000")
    found = told(THREE, "2")
    assert (found.address, found.port, found.allowed) == ("mac1.local", 5000, None)


def test_one_machine_has_nobody_to_meet(told):
    assert told("\n") is None and told([["10.0.0.1:1"]]) is None


@pytest.mark.parametrize(
    ("what", "rank", "says"),
    [
        ("{", "0", "is no list of the machines"),
        ({"hosts": []}, "0", "is no list of the machines"),
        ([["10.0.0.1:1"], []], "0", "is no list of the machines"),
        ([["10.0.0.1:1"], [7]], "0", "is no list of the machines"),
        ([["10.0.0.1"], ["10.0.0.2:1"]], "0", "'10.0.0.1' in the list of the machines is no address with a port"),
        ([["10.0.0.1:99999"], ["10.0.0.2:1"]], "0", "is no address with a port"),
        (THREE, "3", "MLX_RANK is '3', expected 0 to 2"),
        (THREE, "-1", "MLX_RANK is '-1', expected 0 to 2"),
    ],
)
def test_what_is_wrong_is_named(told, what, rank, says):
    with pytest.raises(EngineError, match=r"MLX_HOSTFILE|MLX_RANK|no address") as error:
        told(what, rank)
    assert says in str(error.value)


def test_without_a_list_it_is_said_how_to_start(monkeypatch, told):
    monkeypatch.setenv("MLX_RANK", "0")
    with pytest.raises(EngineError, match=r"neither MLX_HOSTFILE nor MLX_IBV_DEVICES .*mlx.launch --backend ring"):
        places.told()
    monkeypatch.setenv(places.RING, "/nowhere/hosts.json")
    with pytest.raises(EngineError, match=r"/nowhere/hosts.json, which MLX_HOSTFILE names, cannot be read \(No such"):
        places.told()
