"""The file that names the machines: that of `mlx.launch`, where each may also say how much memory it has.

Knows nothing of how the machines are reached.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_oss.arguments import did_you_mean
from mlx_oss.backend.machine import GIB
from mlx_oss.errors import OptionError, quoted
from mlx_oss.files import COMPANION_BYTES, read_bytes
from mlx_oss.memory.estimates import parse_bytes

_FORM = '[{"ssh": "mac1.local", "ips": ["192.168.1.1"]}, {"ssh": "mac2.local", "ips": ["192.168.1.2"]}]'

_MOST = 1 << 50  # bytes of memory; no machine has more


@dataclass(frozen=True, slots=True)
class Host:
    """One of the machines.

    Attributes:
        name: What ssh calls it.
        ips: Its addresses, over which the machines exchange numbers.
        memory: Bytes of its memory, as it is sold; None if the file does not say.
        rdma: The Thunderbolt devices to the others, as `mlx.launch` reads them.
    """

    name: str
    ips: tuple[str, ...]
    memory: int | None = None
    rdma: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Hostfile:
    """What the file says.

    Attributes:
        hosts: The machines, the first one first.
        backend: MLX's way between the machines, such as "ring" or "jaccl".
        envs: Variables of the environment, as "NAME=VALUE".
    """

    hosts: tuple[Host, ...]
    backend: str = "ring"
    envs: tuple[str, ...] = ()

    def text(self) -> str:
        """The file as `mlx.launch` reads it."""
        hosts = [{"ssh": host.name, "ips": host.ips, "rdma": host.rdma} for host in self.hosts]
        return json.dumps({"backend": self.backend, "envs": self.envs, "hosts": hosts})

    def label(self, number: int) -> str:
        """What a machine is called in messages: by its name, and by its number if others have the same one."""
        name = self.hosts[number].name
        is_alone = sum(host.name == name for host in self.hosts) == 1
        return name if is_alone else f"{name} (machine {number})"


def read(path: str | Path) -> Hostfile:
    """Reads the file: a list of machines, an object with "hosts", or a list of lists of "address:port".

    Raises:
        OptionError: If it cannot be read, or is none.
    """
    try:
        found = json.loads(read_bytes(Path(path), COMPANION_BYTES))
    except OSError as error:
        raise OptionError(
            f"{path} cannot be read ({error.strerror or error}): name a hostfile, such as {_FORM}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path} is not JSON ({error}): write {_FORM}") from None
    backend, envs, listed = "ring", [], found
    if isinstance(found, dict):
        backend, envs, listed = found.get("backend") or "ring", found.get("envs", []), found.get("hosts")
    if backend not in ("ring", "jaccl", "jaccl-ring"):
        raise OptionError(f"{path} has the backend {quoted(backend)}: write ring, jaccl or jaccl-ring")
    if not (isinstance(envs, list) and all(isinstance(each, str) for each in envs)):
        raise OptionError(f'{path} has envs that are no list of texts: write ["NAME=VALUE"]')
    if not isinstance(listed, list):
        raise OptionError(f"{path} has no list of machines: write {_FORM}")
    if len(listed) < 2:
        raise OptionError(f"{path} names {'one machine' if listed else 'no machine'}: name at least two, as in {_FORM}")
    return Hostfile(tuple(_host(path, number, each) for number, each in enumerate(listed)), backend, tuple(envs))


def _host(path: str | Path, number: int, entry: Any) -> Host:
    where = f"machine {number} of {path}"
    if isinstance(entry, list) and entry and all(isinstance(each, str) for each in entry):
        ips = tuple(each.rpartition(":")[0].strip("[]") or each for each in entry)  # "address:port"
        return Host(_checked(where, ips[0]), tuple(_checked(where, ip) for ip in ips))
    if not isinstance(entry, dict):
        raise OptionError(f"{where} is {quoted(entry)}: write an object as in {_FORM}")
    ips, rdma = entry.get("ips", []), entry.get("rdma", [])
    if not (isinstance(ips, list) and ips and all(isinstance(ip, str) for ip in ips)):
        raise OptionError(f'{where} has no addresses: add "ips", as in {_FORM}')
    if not isinstance(rdma, list):
        raise OptionError(f'{where} has "rdma" that is no list: `mlx.distributed_config` writes it')
    for key in entry.keys() - {"ssh", "ips", "rdma", "memory"}:  # others are for later releases of MLX
        if guess := did_you_mean(key, ["memory"]):
            raise OptionError(f"{where} has {quoted(key)}: {guess}")
    memory = _memory(where, entry["memory"]) if "memory" in entry else None
    return Host(_checked(where, entry.get("ssh")), tuple(_checked(where, ip) for ip in ips), memory, tuple(rdma))


def _checked(where: str, name: Any) -> str:
    """A name or an address. A hyphen first would be an option of ssh; other letters could mean something to a shell."""
    if not isinstance(name, str) or not name:
        raise OptionError(f'{where} has no name: add "ssh", as in {_FORM}')
    if name.startswith("-") or not re.fullmatch(r"[\w.:@%+\[\]-]+", name):
        raise OptionError(f"{where} has the name {quoted(name)}, which is none: write that of a machine, as in {_FORM}")
    return name


def _memory(where: str, value: Any) -> int:
    """Bytes. "48GB" are 48 GiB, as Macs are sold."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise OptionError
        if isinstance(value, str) and value.strip().upper().endswith("GB"):
            value = f"{value.strip()[:-2]}GiB"
        found = parse_bytes(value * GIB if isinstance(value, int) else value)
        if found > _MOST:
            raise OptionError
    except OptionError:
        raise OptionError(f'{where} has the memory {quoted(value)}: write that of the Mac, such as "48GB"') from None
    return found
