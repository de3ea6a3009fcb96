"""One attempt to deliver: POST to a URL whose host may be anything, and say what came of it.

The name is resolved once, every answer judged, and a judged address dialled; certificate, SNI and `Host` keep
the name. Redirects are not followed, and proxies of the environment not used.
"""

import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from app.domain import destination
from app.domain.address import Network
from app.domain.errors import InvalidInput
from worker.webhooks.addresses import Resolve, dialable
from worker.webhooks.connect import connect
from worker.webhooks.deadline import Deadline
from worker.webhooks.exchange import Answer, exchange
from worker.webhooks.failure import Failure

SECONDS = 20.0


@dataclass(frozen=True)
class Attempt:
    """What came of one request.

    The receiver took the message when `status` is 2xx. `error` says why there is no status, or beside one
    that the answer was cut or was a redirect: `bad_url`, `unresolved`, `refused_address`, `connect_failed`,
    `tls_failed`, `timed_out`, `broken_answer`, `too_long`, `redirect`; `detail` says it in words.
    """

    status: int | None
    milliseconds: int
    body: str  # the first 1024 bytes of the answer's, control characters escaped
    error: str | None
    detail: str | None
    retry_after: str | None


def post(
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    allow: Sequence[Network],
    *,
    resolve: Resolve = socket.getaddrinfo,
    context: ssl.SSLContext | None = None,
    seconds: float = SECONDS,
) -> Attempt:
    """Send a message within `seconds`, all told. Whatever the network does is in the result, never raised."""
    started, deadline = time.monotonic(), Deadline.after(seconds)
    found: Answer | Failure
    try:
        to = destination.parse(url)
        addresses = dialable(to, allow, resolve, deadline)
        with connect(to, addresses, context, deadline) as connection:
            found = exchange(connection, to, headers, body, deadline)
    except InvalidInput as error:
        found = Failure("bad_url", error.errors[0].detail)
    except TimeoutError:
        found = Failure("timed_out", f"no answer within {seconds:g} s")
    except Failure as failure:
        found = failure
    return _attempt(found, round((time.monotonic() - started) * 1000))


def _attempt(found: Answer | Failure, milliseconds: int) -> Attempt:
    if isinstance(found, Failure):
        return Attempt(None, milliseconds, "", found.code, found.detail, None)
    failure = found.failure or _redirect(found.status)
    error, detail = (failure.code, failure.detail) if failure else (None, None)
    return Attempt(found.status, milliseconds, _escaped(found.body), error, detail, found.retry_after)


def _redirect(status: int) -> Failure | None:
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return Failure(
            "redirect", "redirects are not followed; give the endpoint the URL that answers itself"
        )
    return None


def _escaped(body: bytes) -> str:
    """Text that can be stored and shown anywhere: what is no printable character is written as an escape."""
    text = body.decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
