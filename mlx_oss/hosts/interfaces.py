"""Which network interface each address of this machine is on, and of what kind: Wi-Fi is too slow between machines.

`of_mac` and `of_linux` read what the system's programs print, so recorded outputs of other machines can be tested.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

from mlx_oss.doctor import host

_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Interface:
    """Where an address is.

    Attributes:
        address: The address.
        name: The interface, such as "en0".
        kind: Such as "Wi-Fi", "Thunderbolt Bridge" or "loopback"; empty if unknown.
    """

    address: str
    name: str
    kind: str


def of_mac(ifconfig: str, ports: str) -> list[Interface]:
    """Reads what `ifconfig` and `networksetup -listallhardwareports` print."""
    kinds = dict(re.findall(r"Hardware Port: (.+)\nDevice: (\S+)", ports))
    kinds = {device: port for port, device in kinds.items()}
    found, name = [], ""
    for line in ifconfig.splitlines():
        if match := re.match(r"(\w+): flags", line):
            name = match[1]
        elif match := re.match(r"\s+inet6? ([0-9a-fA-F.:]+)", line):
            kind = kinds.get(name, "loopback" if name.startswith("lo") else "")
            found.append(Interface(match[1], name, "Wi-Fi" if kind in ("Wi-Fi", "AirPort") else kind))
    return found


def of_linux(ip: str, is_wireless: Callable[[str], bool]) -> list[Interface]:
    """Reads what `ip -o addr` prints.

    Args:
        ip: The output.
        is_wireless: Whether an interface is wireless.
    """
    found = []
    for name, address in re.findall(r"^\d+: ([^\s@]+)\S*\s+inet6? ([^\s/]+)", ip, flags=re.MULTILINE):
        kind = "loopback" if name == "lo" else "Wi-Fi" if is_wireless(name) else ""
        found.append(Interface(address, name, kind))
    return found


def of_this_machine() -> list[Interface]:
    """Asks the system. Empty if it has no program that says."""
    if sys.platform == "darwin":
        ports = host.run(["/usr/sbin/networksetup", "-listallhardwareports"], _SECONDS).out
        return of_mac(host.run(["/sbin/ifconfig"], _SECONDS).out, ports)
    output = host.run(["ip", "-o", "addr"], _SECONDS).out
    return of_linux(output, lambda name: os.path.isdir(f"/sys/class/net/{name}/wireless"))
