"""Connects to an address, and with TLS to the name that it was found by."""

import errno
import socket
import ssl
import threading
from collections.abc import Sequence
from functools import cache
from ipaddress import IPv6Address

from app.domain.address import Address
from app.domain.destination import Destination
from worker.webhooks.deadline import Deadline
from worker.webhooks.failure import Failure

loading = threading.Lock()  # to read hundreds of certificates takes long, and many threads begin at once


def connect(
    destination: Destination,
    addresses: Sequence[Address],
    context: ssl.SSLContext | None,
    deadline: Deadline,
) -> socket.socket:
    """A connection that can be written to.

    Raises:
        Failure: `connect_failed`, or `tls_failed` when the certificate is not one for the destination's host.
        TimeoutError: It took too long.
    """
    connection = _first(addresses, destination.port, deadline)
    if not destination.tls:
        return connection
    try:
        return _encrypted(connection, destination.host, context or trusted(), deadline)
    except BaseException:
        connection.close()
        raise


def trusted() -> ssl.SSLContext:
    """Checks certificates against those that the system trusts (OpenSSL: SSL_CERT_FILE names others)."""
    with loading:
        return _loaded()


@cache
def _loaded() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _first(addresses: Sequence[Address], port: int, deadline: Deadline) -> socket.socket:
    """The first address that answers; each gets a fair share of the time that is left."""
    failure: Exception = Failure("unresolved", "the name has no address")
    for tried, address in enumerate(addresses):
        try:
            return _tcp(address, port, deadline.left() / (len(addresses) - tried))
        except (TimeoutError, Failure) as error:
            failure = error
    raise failure


def _tcp(address: Address, port: int, seconds: float) -> socket.socket:
    connection = _unconnected(address)
    try:
        connection.settimeout(seconds)
        connection.connect((str(address), port))
    except TimeoutError:
        connection.close()
        raise
    except OSError as error:
        connection.close()
        raise Failure("connect_failed", str(error.strerror)) from None
    return connection


def _unconnected(address: Address) -> socket.socket:
    try:
        return socket.socket(socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET)
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:  # too many open files are not the receiver's fault
            raise
        raise Failure("connect_failed", f"this host cannot reach IPv{address.version} addresses") from None


def _encrypted(
    connection: socket.socket, host: str, context: ssl.SSLContext, deadline: Deadline
) -> ssl.SSLSocket:
    connection.settimeout(deadline.left())
    try:
        return context.wrap_socket(connection, server_hostname=host)
    except TimeoutError:
        raise
    except ssl.SSLCertVerificationError as error:
        raise Failure("tls_failed", error.verify_message) from None
    except OSError as error:
        raise Failure("tls_failed", str(error.strerror or error)) from None
