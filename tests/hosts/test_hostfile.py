"""Tests the hostfile: its forms, and that a bad one is told with a remedy."""

from __future__ import annotations

import json

import pytest

from mlx_oss.backend.machine import GIB
from mlx_oss.errors import OptionError
from mlx_oss.hosts.hostfile import Host, read

TWO = [{"ssh": "a.local", "ips": ["10.0.0.1"]}, {"ssh": "b.local", "ips": ["10.0.0.2", "fe80::2"]}]


@pytest.fixture
def written(tmp_path):
    """written(content) writes a hostfile, and returns its path."""

    def write(content):
        path = tmp_path / "hosts.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_a_list_and_an_object_and_addresses_alone_are_read(written):
    expected = (Host("a.local", ("10.0.0.1",)), Host("b.local", ("10.0.0.2", "fe80::2")))
    assert read(written(TWO)).hosts == expected
    found = read(written({"backend": "jaccl", "envs": ["A=1"], "hosts": TWO}))
    assert (found.hosts, found.backend, found.envs) == (expected, "jaccl", ("A=1",))
    found = read(written([["10.0.0.1:5000"], ["[fe80::2]:5001"]]))
    assert found.hosts == (Host("10.0.0.1", ("10.0.0.1",)), Host("fe80::2", ("fe80::2",)))


def test_a_mac_of_48_gb_has_48_gib(written):
    hosts = [{**TWO[0], "memory": "48GB"}, {**TWO[1], "memory": 64}]
    assert [host.memory for host in read(written(hosts)).hosts] == [48 * GIB, 64 * GIB]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # MLX's
def test_what_it_writes_is_read_by_mlx_and_by_itself(written):
    from mlx._distributed_utils.common import Hostfile as OfMlx

    hostfile = read(written(TWO))
    assert read(written(hostfile.text())).hosts == hostfile.hosts
    of_mlx = OfMlx.from_file(written(hostfile.text()))
    assert [(host.ssh_hostname, host.ips) for host in of_mlx.hosts] == [(h["ssh"], h["ips"]) for h in TWO]


def test_machines_of_the_same_name_are_told_apart(written):
    hostfile = read(written([TWO[0], TWO[0], TWO[1]]))
    assert [hostfile.label(n) for n in range(3)] == ["a.local (machine 0)", "a.local (machine 1)", "b.local"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("7", "has no list of machines"),
        ({"hosts": 3}, "has no list of machines"),
        ([], "names no machine"),
        (TWO[:1], "names one machine"),
        ([TWO[0], 3], "machine 1 of "),
        ([TWO[0], {"ssh": "b"}], 'add "ips"'),
        ([TWO[0], {"ips": ["10.0.0.2"]}], 'add "ssh"'),
        ([TWO[0], {"ssh": "-oProxyCommand=x", "ips": ["10.0.0.2"]}], "which is none"),
        ([TWO[0], {"ssh": "b", "ips": ["10.0.0.2\n"]}], "which is none"),
        ([TWO[0], {"ssh": "b;x", "ips": ["10.0.0.2"]}], "which is none"),
        ([TWO[0], {**TWO[1], "memory": 10**20}], 'such as "48GB"'),
        ([TWO[0], {**TWO[1], "memory": "much"}], 'such as "48GB"'),
        ([TWO[0], {**TWO[1], "memory": True}], 'such as "48GB"'),
        ([TWO[0], {**TWO[1], "memori": "48GB"}], "did you mean memory?"),
        ([TWO[0], {**TWO[1], "rdma": "x"}], "mlx.distributed_config"),
        ({"hosts": TWO, "backend": "mpi"}, "write ring, jaccl"),
        ({"hosts": TWO, "envs": "A=1"}, "NAME=VALUE"),
    ],
)
def test_a_bad_file_is_told_with_a_remedy(written, content, says):
    with pytest.raises(OptionError) as raised:
        read(written(content))
    assert says in str(raised.value) and str(raised.value).count(":") >= 1


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(OptionError, match=r"absent\.json cannot be read"):
        read(tmp_path / "absent.json")
