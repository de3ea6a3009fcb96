"""What a request asks the database shows it the rows of its caller's project alone."""

from starlette.types import ASGIApp, Receive, Scope, Send

from app.db.session import within

OPERATORS = "/v1/projects"


class OwnRows:
    """Stands behind the gatekeeper, which knows the caller. Operators' routes are about all projects."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on."""
        caller = scope.get("state", {}).get("caller")
        if caller is None or scope["path"].startswith(OPERATORS):
            await self.app(scope, receive, send)
            return
        with within(caller.project_id):
            await self.app(scope, receive, send)
