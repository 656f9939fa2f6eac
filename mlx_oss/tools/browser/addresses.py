"""Which addresses of the internet are public. Knows nothing of HTTP.

The networks that are not are those of the IANA's registries of special-purpose addresses, and multicast.
"""

from __future__ import annotations

import ipaddress
import socket

from mlx_oss.errors import ToolError

_MAX_ADDRESSES = 4  # of a host, that are tried one after another

_NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in """
    0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24
    192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/3
    2001::/23 2001:db8::/32 2002::/16 3fff::/20
    """.split()
]
_UNICAST = ipaddress.ip_network("2000::/3")  # no other IPv6 address is public, except those that stand for an IPv4 one
_STANDS_FOR_IPV4 = [ipaddress.ip_network("::ffff:0:0/96"), ipaddress.ip_network("64:ff9b::/96")]  # mapped, and NAT64


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, and no tunnel to another network.

    An IPv6 address that stands for an IPv4 address is as public as that one. 6to4 and Teredo are not public.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if any(parsed in network for network in _STANDS_FOR_IPV4):
            return is_public(str(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)))
        if parsed not in _UNICAST:
            return False
    return not any(parsed.version == network.version and parsed in network for network in _NOT_PUBLIC)


def addresses_of(host: str, port: int, private: bool) -> list[str]:
    """Looks a host up, once.

    Args:
        host: A name or an address.
        port: The port to connect to.
        private: Whether addresses that are not public are allowed.

    Returns:
        Its addresses, at most 4, in the order in which the system would try them.

    Raises:
        ToolError: If there is no such host, or if one of its addresses is not public and `private` is False.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, OverflowError):
        raise ToolError(f"there is no host {host[:300]!r}") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not private and not all(map(is_public, addresses)):
        raise ToolError(f"{host[:300]!r} is in a private network, where nothing is opened")
    return addresses[:_MAX_ADDRESSES]
