"""One line in the log for each request, and the request's ids on every line that is logged meanwhile."""

import logging
import time

from opentelemetry import trace
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.log import Ids, about
from app.tracing import attributes

log = logging.getLogger(__name__)
PROBES = frozenset({"/healthz", "/readyz", "/metrics"})  # somebody asks these every few seconds


class RequestLog:
    """Says how each request was answered when its answer is over."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on, and remember the status that comes back."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self.app(scope, receive, send)
            return
        begun, status = time.monotonic(), 500
        scope.setdefault("state", {})

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                trace.get_current_span().set_attributes(attributes(_ids(scope)))  # FastAPI's, of the request
            await send(message)

        with about(lambda: _ids(scope)):
            try:
                await self.app(scope, receive, noting)
            finally:
                took = {"status": status, "seconds": round(time.monotonic() - begun, 4)}
                log.info("%s %s %d", scope["method"], scope["path"], status, extra=took)


def _ids(scope: Scope) -> Ids:
    """Known once the request was let in."""
    state = scope["state"]
    caller = state.get("caller")
    ids = {"request_id": state.get("request_id")}
    return ids | {"project": caller.project_id, "key": caller.key_id} if caller else ids
