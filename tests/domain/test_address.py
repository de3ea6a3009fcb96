"""Webhooks go to public addresses: every other kind is refused, unless the operator allows it."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.address import NETWORKS_4, NETWORKS_6, Network, refusal

REFUSED = [
    ("0.0.0.0", "unspecified"),  # noqa: S104
    ("0.1.2.3", "unspecified"),
    ("10.0.0.1", "private"),
    ("10.255.255.255", "private"),
    ("100.64.0.1", "shared"),
    ("100.100.100.200", "shared"),
    ("100.127.255.255", "shared"),
    ("127.0.0.1", "loopback"),
    ("127.255.255.254", "loopback"),
    ("168.63.129.16", "metadata"),
    ("169.254.0.1", "link-local"),
    ("169.254.169.254", "metadata"),
    ("169.254.170.2", "link-local"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private"),
    ("192.0.0.8", "reserved"),
    ("192.0.0.192", "reserved"),
    ("192.0.2.1", "documentation"),
    ("192.88.99.1", "6to4"),
    ("192.168.1.1", "private"),
    ("198.18.0.1", "benchmarking"),
    ("198.19.255.255", "benchmarking"),
    ("198.51.100.7", "documentation"),
    ("203.0.113.7", "documentation"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.250", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "broadcast"),
    ("::", "unspecified"),
    ("::1", "loopback"),
    ("::7f00:1", "IPv4-compatible"),
    ("::8.8.8.8", "IPv4-compatible"),
    ("::ffff:127.0.0.1", "IPv4-mapped"),
    ("::ffff:169.254.169.254", "IPv4-mapped"),
    ("::ffff:8.8.8.8", "IPv4-mapped"),
    ("::ffff:0:127.0.0.1", "IPv4-translated"),
    ("64:ff9b::7f00:1", "NAT64"),
    ("64:ff9b::a9fe:a9fe", "NAT64"),
    ("64:ff9b::808:808", "NAT64"),
    ("64:ff9b:1::7f00:1", "NAT64"),
    ("64:ff9b:2::1", "reserved"),
    ("100::1", "discards"),
    ("1fff::1", "reserved"),
    ("2001::1", "Teredo"),
    ("2001:0:7f00:1::", "Teredo"),
    ("2001:1::1", "reserved"),
    ("2001:2::1", "benchmarking"),
    ("2001:10::1", "ORCHID"),
    ("2001:2f::1", "ORCHID"),
    ("2001:db8::1", "documentation"),
    ("2002:7f00:1::", "6to4"),
    ("2002:808:808::1", "6to4"),
    ("3fff::1", "documentation"),
    ("4000::1", "reserved"),
    ("5f00::1", "reserved"),
    ("fc00::1", "private"),
    ("fd00:ec2::254", "private"),
    ("fe80::1", "link-local"),
    ("fe80::1%eth0", "link-local"),
    ("fec0::1", "site-local"),
    ("ff02::1", "multicast"),
    ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "multicast"),
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.15",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "198.17.255.255",
    "223.255.255.255",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2003::1",
    "2606:4700:4700::1111",
    "2a00:1450:4001:831::200e",
    "3ffe::1",
]


@pytest.mark.parametrize(("address", "kind"), REFUSED)
def test_an_address_that_is_not_public_is_refused_as_what_it_is(address: str, kind: str) -> None:
    assert kind in str(refusal(ip_address(address), []))


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_not_refused(address: str) -> None:
    assert refusal(ip_address(address), []) is None


@given(address=st.ip_addresses(v=6).filter(lambda address: not address.exploded.startswith(("2", "3"))))
def test_no_ipv6_address_outside_of_what_is_given_out_is_public(address: IPv6Address) -> None:
    assert refusal(address, [])


@given(address=st.ip_addresses(v=4))
def test_what_the_standard_library_knows_to_be_special_is_refused(address: IPv4Address) -> None:
    special = address.is_private or address.is_multicast or address.is_reserved or address.is_link_local

    assert refusal(address, []) or not special


@pytest.mark.parametrize("network", [*NETWORKS_4, *NETWORKS_6])
def test_an_operator_can_allow_any_network_and_its_neighbours_stay_refused(network: Network) -> None:
    address, everything = network[0], [ip_network("0.0.0.0/0"), ip_network("::/0")]

    assert refusal(address, everything) is None
    if refusal(address, []):
        assert refusal(address, [ip_network("203.0.113.99"), ip_network("fd99::/64")])


@pytest.mark.parametrize(
    "address", ["64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "::ffff:127.0.0.1", "::7f00:1", "2002:7f00:1::"]
)
def test_to_allow_a_way_to_ipv4_is_not_to_allow_all_that_it_leads_to(address: str) -> None:
    ways = [ip_network(f"{address}/48", strict=False)]

    assert "loopback" in str(refusal(ip_address(address), ways))
    assert refusal(ip_address(address), [*ways, ip_network("127.0.0.0/8")]) is None
    assert refusal(ip_address("64:ff9b::808:808"), [ip_network("64:ff9b::/96")]) is None


def test_what_stands_for_this_machine_has_no_other_address_inside() -> None:
    assert refusal(ip_address("::1"), [ip_network("::1")]) is None


def test_both_addresses_inside_a_teredo_address_are_judged() -> None:
    server_is_private, client_is_private = "2001:0:a00:1::f7f7:f7f7", "2001:0:808:808::f5ff:fffe"

    for address in (server_is_private, client_is_private):
        assert "private" in str(refusal(ip_address(address), [ip_network("2001::/32")]))
    assert refusal(ip_address("2001:0:808:808::f7f7:f7f7"), [ip_network("2001::/32")]) is None
