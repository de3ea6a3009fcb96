"""Where a webhook goes: the parts of its URL, and what can be seen to be wrong with it."""

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from urllib.parse import SplitResult, urlsplit

from app.domain.address import Address, Network, refusal
from app.domain.errors import InvalidInput

LONGEST_URL = 2000
ASCII_WITHOUT_SPACE = re.compile(r"[!-~]+")
HOST = re.compile(r"[0-9a-z._-]+|[0-9a-f:.]+")
LOOPBACK = IPv4Address("127.0.0.1")
DEFAULT_PORTS = {True: 443, False: 80}  # with TLS and without


@dataclass(frozen=True)
class Destination:
    """A URL in the parts that a request needs: the host without brackets, the path with its query."""

    tls: bool
    host: str
    port: int
    path: str

    @property
    def address(self) -> Address | None:
        """The address, where the host is one: nobody need be asked for it."""
        return _literal(self.host)

    @property
    def authority(self) -> str:
        """What the `Host` header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.tls] else f"{host}:{self.port}"


def parse(url: str) -> Destination:
    """Take a URL apart.

    Raises:
        InvalidInput: It is no http or https URL that names a host and nothing that is not sent.
    """
    if reason := _wrong(url):
        raise _invalid(reason)
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Destination(tls, _host(parts), parts.port or DEFAULT_PORTS[tls], path)


def check_url(url: str, allow: Sequence[Network]) -> None:
    """Refuse what can be seen to be wrong with an endpoint's URL; its name is resolved at each attempt.

    Raises:
        InvalidInput: It is no http or https URL, or names an address that webhooks may not reach.
    """
    destination = parse(url)
    if reason := _unreachable(destination, allow):
        raise _invalid(reason)


def _invalid(reason: str) -> InvalidInput:
    return InvalidInput.at("/url", reason)


def _host(parts: SplitResult) -> str:
    """Without the dot that ends a full name: no certificate has it."""
    return (parts.hostname or "").removesuffix(".")


def _wrong(url: str) -> str | None:
    if len(url) > LONGEST_URL:
        return f"the URL has {len(url)} characters, the limit is {LONGEST_URL}"
    if not ASCII_WITHOUT_SPACE.fullmatch(url) or "\\" in url:
        return "write it in ASCII without spaces or backslashes: percent-encode the path, punycode the host"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"this is no URL: {error}"
    return _missing(parts, port) or _too_much(parts, url)


def _missing(parts: SplitResult, port: int | None) -> str | None:
    if parts.scheme not in {"http", "https"}:
        return "the URL must begin with https:// or http://"
    if not HOST.fullmatch(_host(parts)) or port == 0:
        return "the URL must name a host by name or address, and no port 0"
    return None


def _too_much(parts: SplitResult, url: str) -> str | None:
    if parts.username is not None or parts.password is not None:
        return "the URL has a user or password; verify the signature of each message instead"
    return "the URL has a fragment (#…), which is never sent; leave it out" if "#" in url else None


def _unreachable(destination: Destination, allow: Sequence[Network]) -> str | None:
    host, address = destination.host, destination.address
    kind = refusal(address, allow) if address else None
    if kind is None:
        return None
    named = host if host == str(address) else f"{host} ({address})"
    how = f"an operator may allow its network: FEWBITS_WEBHOOK_ALLOW={address}"
    return f"{named} is not a public address but {kind}; {how}"


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
