"""Where webhooks may go: public addresses, and what the operator allows besides."""

import re
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from app.domain.errors import FieldError, InvalidInput

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LONGEST_URL = 2000
ASCII_WITHOUT_SPACE = re.compile(r"[!-~]+")
HOST = re.compile(r"[0-9a-z._-]+|[0-9a-f:.]+")
LOOPBACK = IPv4Address("127.0.0.1")
# IANA's special-purpose registries. The standard library's is_global takes several of these for public.
NOT_PUBLIC_4 = tuple(
    map(
        IPv4Network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
            *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
            *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        ),
    )
)
PUBLIC_6 = IPv6Network("2000::/3")
NOT_PUBLIC_6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))


def may_reach(address: Address, allow: Sequence[Network]) -> bool:
    """Whether webhooks may be sent to this address: it is public, or in a network that is allowed."""
    return _is_public(address) or any(address in network for network in allow)


def check_url(url: str, allow: Sequence[Network]) -> None:
    """Refuse what can be seen to be wrong with an endpoint's URL; its name is resolved at each attempt.

    Raises:
        InvalidInput: It is no http or https URL, or names an address that webhooks may not reach.
    """
    if reason := _wrong(url) or _unreachable(urlsplit(url).hostname or "", allow):
        raise InvalidInput(f"/url: {reason}", errors=(FieldError("/url", reason),))


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in NOT_PUBLIC_4)
    return address in PUBLIC_6 and not any(address in network for network in NOT_PUBLIC_6)


def _wrong(url: str) -> str | None:
    if len(url) > LONGEST_URL:
        return f"the URL has {len(url)} characters, the limit is {LONGEST_URL}"
    if not ASCII_WITHOUT_SPACE.fullmatch(url) or "\\" in url:
        return "write the URL in ASCII, without spaces or backslashes: percent-encode its path, punycode its host"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"this is no URL: {error}"
    return _missing(parts, port) or _too_much(parts, url)


def _missing(parts: SplitResult, port: int | None) -> str | None:
    if parts.scheme not in {"http", "https"}:
        return "the URL must begin with https:// or http://"
    if not HOST.fullmatch(parts.hostname or "") or port == 0:
        return "the URL must name a host by name or address, and no port 0"
    return None


def _too_much(parts: SplitResult, url: str) -> str | None:
    if parts.username is not None or parts.password is not None:
        return "the URL has a user or password; verify the signature of each message instead"
    return "the URL has a fragment (#…), which is never sent; leave it out" if "#" in url else None


def _unreachable(host: str, allow: Sequence[Network]) -> str | None:
    address = _literal(host.rstrip("."))
    if address is None or may_reach(address, allow):
        return None
    named = host if host == str(address) else f"{host} ({address})"
    how = f"an operator may allow its network: FEWBITS_WEBHOOK_ALLOW={ip_network(address)}"
    return f"{named} is not a public address; {how}"


def _literal(host: str) -> Address | None:
    """The address that a host is without asking anybody, also in its old forms: 127.1, 0x7f000001."""
    if host == "localhost" or host.endswith(".localhost"):
        return LOOPBACK
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except OSError:
        return None
