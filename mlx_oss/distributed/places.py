"""Where the machines are, as `mlx.launch` has told: its list of addresses, or JACCL's variables.

Knows nothing of connections, and does not import MLX.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_oss.distributed import RANK
from mlx_oss.errors import EngineError, quoted
from mlx_oss.files import COMPANION_BYTES, read_bytes

RING, DEVICES, COORDINATOR = "MLX_HOSTFILE", "MLX_IBV_DEVICES", "MLX_JACCL_COORDINATOR"  # set by mlx.launch
MEETING = "MLX_OSS_MEETING"  # "address:port" where the others reach the first machine, if they do not at its own
# `mlx.launch` gives out ports from --starting-port on, one after the other. So far below them lies no other port of
# this run, nor of one that starts at another port; systems do not give out those below 32,768 by themselves.
_BELOW = 10_000


@dataclass(frozen=True, slots=True)
class Places:
    """The machines.

    Attributes:
        rank: The number of this one.
        size: How many there are.
        backend: MLX's way between them.
        address: The address of the first machine, by which the others reach it.
        port: The port at which it waits for them.
        listed: Each machine's own address, for messages; "" where nothing is told.
        allowed: The addresses from which the others come; None if that is not known.
        digest: A few letters that are the same on all machines if they were told the same.
    """

    rank: int
    size: int
    backend: str
    address: str
    port: int
    listed: tuple[str, ...]
    allowed: frozenset[str] | None
    digest: str

    def name(self, rank: int, host: str = "") -> str:
        """What a machine is called in messages.

        Args:
            rank: Its number.
            host: What it calls itself, if it has said.
        """
        known = host or self.listed[rank]
        return f"machine {rank} ({known})" if known else f"machine {rank}"


def told() -> Places | None:
    """The machines that `mlx.launch` has told; None if there is only this one.

    Raises:
        EngineError: If what it has told is wrong.
    """
    if path := os.environ.get(RING):
        nodes = _read(path, RING)
        if nodes is None:
            return None
        listed, addresses = tuple(node[0] for node in nodes), [_divided(each) for node in nodes for each in node]
        first, allowed = addresses[0], _numeric(address for address, _ in addresses)
        backend = "ring"
    elif path := os.environ.get(DEVICES):
        nodes = _read(path, DEVICES)
        if nodes is None:
            return None
        first, allowed, backend = _divided(os.environ.get(COORDINATOR, ""), COORDINATOR), None, "jaccl"
        listed = (os.environ[COORDINATOR], *[""] * (len(nodes) - 1))
    else:
        raise EngineError(
            f"{RANK} is set, but neither {RING} nor {DEVICES} says where the machines are: start mlx-oss by "
            f"`mlx.launch --backend ring` or `--backend jaccl`, or unset {RANK}"
        )
    if len(nodes) == 1:
        return None
    address, port = first[0], first[1] - _BELOW if first[1] > _BELOW + 1024 else first[1] + _BELOW
    if meeting := os.environ.get(MEETING):
        (address, port), allowed = _divided(meeting, MEETING), None
    digest = hashlib.sha256(json.dumps([nodes, address, port]).encode()).hexdigest()[:16]
    return Places(_rank(len(nodes)), len(nodes), backend, address, port, listed, allowed, digest)


def _rank(size: int) -> int:
    text = os.environ[RANK]
    if not text.isdecimal() or int(text) >= size:
        raise EngineError(f"{RANK} is {quoted(text)}, expected 0 to {size - 1}: `mlx.launch` sets it")
    return int(text)


def _read(path: str, variable: str) -> list[list[Any]] | None:
    """The list in a file, with an entry for each machine; None if it is empty, as for one machine."""
    found: Any = None
    try:
        text = read_bytes(Path(path), COMPANION_BYTES)
        found = json.loads(text) if text.strip() else []
    except OSError as error:
        raise EngineError(
            f"{path}, which {variable} names, cannot be read ({error.strerror or error}): `mlx.launch` writes it"
        ) from None
    except (ValueError, RecursionError):
        pass
    good = isinstance(found, list) and all(isinstance(node, list) and node for node in found)
    if good and variable == RING:
        good = all(isinstance(each, str) for node in found for each in node)
    if not good:
        raise EngineError(f"{path}, which {variable} names, is no list of the machines: `mlx.launch` writes it")
    return found or None


def _divided(text: str, where: str = "the list of the machines") -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    if not address or not port.isdecimal() or not 0 < int(port) < 65536:
        raise EngineError(f'{quoted(text)} in {where} is no address with a port, such as "192.168.1.1:32323"')
    return address.strip("[]"), int(port)


def _numeric(addresses: Any) -> frozenset[str] | None:
    """The addresses in their usual spelling; None if one of them is a name."""
    try:
        return frozenset(str(ipaddress.ip_address(address)) for address in addresses)
    except ValueError:
        return None
