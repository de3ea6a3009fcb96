"""HEAD wherever there is GET (RFC 9110, 9.3.2): the same headers, and no body."""

from anyio import CancelScope
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NOT_ALLOWED = 405


class HeadAsGet:
    """Asks again with GET where no route takes HEAD, and ends the answer behind its headers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on, a second time if need be."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        first: list[Message] = []

        async def unless_refused(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == NOT_ALLOWED:
                first.append(message)
            elif not first:
                await send(message)

        await self.app(scope, receive, unless_refused)
        if first:
            await self._as_get(scope, receive, send)

    async def _as_get(self, scope: Scope, receive: Receive, send: Send) -> None:
        with CancelScope() as answer:

            async def headers_only(message: Message) -> None:
                if message["type"] == "http.response.start":
                    await send(message)
                else:
                    await send({"type": "http.response.body"})
                    answer.cancel()  # what streams would go on for nobody

            await self.app({**scope, "method": "GET"}, receive, headers_only)
