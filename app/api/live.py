"""A key that ends while its request goes on: a long wait is not answered, a stream of events is closed."""

import time
from collections.abc import Awaitable, Callable

from starlette.types import Message, Send

from app.domain.errors import Unauthenticated

RECHECK_S = 30.0
Check = Callable[[], Awaitable[None]]
Refuse = Callable[[Unauthenticated], Awaitable[None]]


def while_live(send: Send, check: Check, refuse: Refuse) -> Send:
    """Send for as long as `check` does not raise; it is asked every 30 s at most.

    What is sent with a length goes on to its end: it began with a key that worked.
    """
    checked, open_ended, over = time.monotonic(), True, False

    async def sending(message: Message) -> None:
        nonlocal checked, open_ended, over
        starts = message["type"] == "http.response.start"
        if not over and open_ended and time.monotonic() - checked >= RECHECK_S:
            checked = time.monotonic()
            try:
                await check()
            except Unauthenticated as error:
                over = True
                await (refuse(error) if starts else send({"type": "http.response.body", "body": b""}))
        if starts:
            open_ended = all(name.lower() != b"content-length" for name, _ in message["headers"])
        if not over:
            await send(message)

    return sending
