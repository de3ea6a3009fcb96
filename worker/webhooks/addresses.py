"""Which addresses an attempt may dial: asked for once, and all of them judged before one is used.

Whoever resolved the name again to connect could be given another answer than the one that was judged.
"""

import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from ipaddress import ip_address
from typing import Any

from app.domain.address import Address, Network, refusal
from app.domain.destination import Destination
from worker.webhooks.deadline import Deadline
from worker.webhooks.failure import Failure

Resolve = Callable[..., Sequence[tuple[Any, ...]]]


def dialable(
    destination: Destination, allow: Sequence[Network], resolve: Resolve, deadline: Deadline
) -> Sequence[Address]:
    """The addresses of a destination, in the resolver's order, when webhooks may go to all of them.

    Raises:
        Failure: `unresolved`, or `refused_address` when one of them is refused.
        TimeoutError: The resolver took too long.
    """
    literal = destination.address
    found = [literal] if literal else _resolved(destination, resolve, deadline)
    for address in found:
        if kind := refusal(address, allow):
            # The address itself is not told: names of a private network are nobody else's business.
            detail = f"{destination.host} leads to {kind}; an operator may allow it: FEWBITS_WEBHOOK_ALLOW"
            raise Failure("refused_address", detail)
    return found


def _resolved(destination: Destination, resolve: Resolve, deadline: Deadline) -> Sequence[Address]:
    """The system's resolver knows no deadline, so a thread waits for it."""
    answer: Future[Sequence[tuple[Any, ...]]] = Future()
    threading.Thread(target=_ask, args=(resolve, destination, answer), name="resolver", daemon=True).start()
    try:
        rows = answer.result(deadline.left())
    except socket.gaierror as error:
        raise Failure("unresolved", f"{destination.host}: {error.strerror}") from None
    except UnicodeError:
        raise Failure("unresolved", f"{destination.host} cannot be the name of a host") from None
    return list(dict.fromkeys(ip_address(row[4][0]) for row in rows))


def _ask(resolve: Resolve, destination: Destination, answer: Future[Sequence[tuple[Any, ...]]]) -> None:
    try:
        answer.set_result(resolve(destination.host, destination.port, type=socket.SOCK_STREAM))
    except Exception as error:  # noqa: BLE001 - raised again where the answer is read
        answer.set_exception(error)
