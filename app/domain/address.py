"""Which addresses webhooks may go to: public ones, and what the operator allows besides.

Here, and not with the worker that dials, because the API refuses such addresses when an endpoint is made.
The table follows IANA's registries of special-purpose addresses (RFC 6890); the standard library's
`is_global` takes several of them for public.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

PRIVATE = "a private address"
LINK_LOCAL = "a link-local address"
METADATA = "the address of a cloud's metadata"
DOCUMENTATION = "an address for documentation"
BENCHMARKING = "an address for benchmarking"
MULTICAST = "a multicast address"
RESERVED = "a reserved address"
SPECIAL_4 = {
    "0.0.0.0/8": "an unspecified address",
    "10.0.0.0/8": PRIVATE,
    "100.64.0.0/10": "a carrier's shared address",
    "127.0.0.0/8": "a loopback address",
    "168.63.129.16/32": METADATA,  # Azure's is in a public range
    "169.254.169.254/32": METADATA,
    "169.254.0.0/16": LINK_LOCAL,
    "172.16.0.0/12": PRIVATE,
    "192.0.0.0/24": RESERVED,
    "192.0.2.0/24": DOCUMENTATION,
    "192.88.99.0/24": "a 6to4 relay",
    "192.168.0.0/16": PRIVATE,
    "198.18.0.0/15": BENCHMARKING,
    "198.51.100.0/24": DOCUMENTATION,
    "203.0.113.0/24": DOCUMENTATION,
    "224.0.0.0/4": MULTICAST,
    "255.255.255.255/32": "the broadcast address",
    "240.0.0.0/4": RESERVED,
}
MAPPED, COMPATIBLE = "an IPv4-mapped address", "an IPv4-compatible address"
TRANSLATED, NAT64 = "an IPv4-translated address", "a NAT64 address"
END_IN_IPV4 = (MAPPED, COMPATIBLE, TRANSLATED, NAT64)
SPECIAL_6 = {
    "::/128": "an unspecified address",
    "::1/128": "a loopback address",
    "::ffff:0:0/96": MAPPED,
    "::/96": COMPATIBLE,
    "::ffff:0:0:0/96": TRANSLATED,
    "64:ff9b::/96": NAT64,
    "64:ff9b:1::/48": NAT64,
    "100::/64": "an address that discards",
    "2001::/32": "a Teredo address",
    "2001:2::/48": BENCHMARKING,
    "2001:10::/28": "an ORCHID",
    "2001:20::/28": "an ORCHID",
    "2001::/23": RESERVED,
    "2001:db8::/32": DOCUMENTATION,
    "2002::/16": "a 6to4 address",
    "3fff::/20": DOCUMENTATION,
    "2000::/3": None,  # all else in here is public, and nothing outside
    "fc00::/7": PRIVATE,
    "fe80::/10": LINK_LOCAL,
    "fec0::/10": "a site-local address",
    "ff00::/8": MULTICAST,
    "::/0": RESERVED,
}
NETWORKS_4 = {IPv4Network(text): kind for text, kind in SPECIAL_4.items()}
NETWORKS_6 = {IPv6Network(text): kind for text, kind in SPECIAL_6.items()}


def refusal(address: Address, allow: Sequence[Network]) -> str | None:
    """Why webhooks may not go to an address, such as "a loopback address"; None when they may.

    An IPv4 address inside an IPv6 address is judged too: whoever allows a NAT64 prefix has not thereby
    allowed the private addresses behind it.
    """
    kind = _kind(address)
    if kind and not any(address in network for network in allow):
        return kind
    inside = [refusal(found, allow) for found in _inside(address)]
    return next((reason for reason in inside if reason), None)


def _kind(address: Address) -> str | None:
    """What is special about an address: the first network of the table that has it says so."""
    if isinstance(address, IPv4Address):
        return next((kind for network, kind in NETWORKS_4.items() if address in network), None)
    return next(kind for network, kind in NETWORKS_6.items() if address in network)


def _inside(address: Address) -> Sequence[IPv4Address]:
    """The IPv4 addresses that packets to this address may reach."""
    if isinstance(address, IPv4Address):
        return ()
    if _kind(address) in END_IN_IPV4:
        return (IPv4Address(int(address) & 0xFFFFFFFF),)
    return address.teredo or ((address.sixtofour,) if address.sixtofour else ())
