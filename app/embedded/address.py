"""Where the service listens: is the port free, does the service answer, what is it called."""

import http.client
import socket
from dataclasses import dataclass

ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to knock, not where to listen
KNOCK_SECONDS = 2.0


class NotFree(Exception):
    """The service cannot listen there."""


@dataclass(frozen=True)
class Address:
    """A host and a port."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """How a client on this machine reaches the service."""
        host = ANYWHERE.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def claim(host: str, port: int) -> Address:
    """The address, if nothing listens there yet; port 0 stands for any."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise NotFree(
                f"port {port} on {host} is not free ({error.strerror}). "
                "Stop what listens there, or choose another port: FEWBITS_PORT=…"
            ) from error
        return Address(host, int(probe.getsockname()[1]))


def is_ready(address: Address) -> bool:
    """Whether the service says that it can take requests."""
    host = ANYWHERE.get(address.host, address.host)
    connection = http.client.HTTPConnection(host, address.port, timeout=KNOCK_SECONDS)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
