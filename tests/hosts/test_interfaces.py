"""Tests which interface an address is on, with what the programs of other machines print."""

from __future__ import annotations

from mlx_oss.hosts.interfaces import Interface, of_linux, of_mac

PORTS = """
Hardware Port: Ethernet
Device: en0
Ethernet Address: 00:00:00:00:00:01

Hardware Port: Thunderbolt Bridge
Device: bridge0
Ethernet Address: 00:00:00:00:00:02

Hardware Port: Wi-Fi
Device: en1
Ethernet Address: 00:00:00:00:00:03
"""
IFCONFIG = """lo0: flags=8049<UP,LOOPBACK,RUNNING,MULTICAST> mtu 16384
\tinet 127.0.0.1 netmask 0xff000000
\tinet6 ::1 prefixlen 128
en1: flags=8863<UP,BROADCAST,SMART,RUNNING,SIMPLEX,MULTICAST> mtu 1500
\tether 00:00:00:00:00:03
\tinet6 fe80::1c%en1 prefixlen 64 secured scopeid 0xb
\tinet 192.168.1.20 netmask 0xffffff00 broadcast 192.168.1.255
bridge0: flags=8863<UP,BROADCAST,SMART,RUNNING,SIMPLEX,MULTICAST> mtu 1500
\tinet 169.254.10.2 netmask 0xffff0000 broadcast 169.254.255.255
utun3: flags=8051<UP,POINTOPOINT,RUNNING,MULTICAST> mtu 1380
\tinet 100.64.0.2 --> 100.64.0.2 netmask 0xffffffff
"""
IP = """1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever preferred_lft forever
2: wlp3s0    inet 192.168.1.30/24 brd 192.168.1.255 scope global dynamic wlp3s0\\       valid_lft 80000sec
3: eth0@if7    inet 10.0.0.5/24 brd 10.0.0.255 scope global eth0\\       valid_lft forever
3: eth0@if7    inet6 fe80::5/64 scope link \\       valid_lft forever preferred_lft forever
"""


def test_wifi_and_thunderbolt_of_a_mac_are_named():
    assert of_mac(IFCONFIG, PORTS) == [
        Interface("127.0.0.1", "lo0", "loopback"),
        Interface("::1", "lo0", "loopback"),
        Interface("fe80::1c", "en1", "Wi-Fi"),
        Interface("192.168.1.20", "en1", "Wi-Fi"),
        Interface("169.254.10.2", "bridge0", "Thunderbolt Bridge"),
        Interface("100.64.0.2", "utun3", ""),
    ]


def test_wifi_of_linux_is_named():
    assert of_linux(IP, lambda name: name.startswith("wl")) == [
        Interface("127.0.0.1", "lo", "loopback"),
        Interface("192.168.1.30", "wlp3s0", "Wi-Fi"),
        Interface("10.0.0.5", "eth0", ""),
        Interface("fe80::5", "eth0", ""),
    ]


def test_nothing_is_made_up_where_the_programs_are_missing():
    assert of_mac("", "") == [] and of_linux("", lambda name: True) == []
