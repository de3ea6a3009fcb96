"""Whether the process lives, whether it can serve, and who a key is."""

from fastapi import APIRouter, Response
from sqlalchemy import text
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from app.api.deps import App, Service, Who
from app.api.schemas import CallerRead
from app.broker import reachable

router = APIRouter(tags=["service"])
caller_router = APIRouter(tags=["service"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process lives."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(service: Service) -> Response:
    """Ready: the database answers. Degraded: the broker does not, so work waits for the sweeper."""
    parts = await run_in_threadpool(_parts, service)
    if not parts["database"]:
        return JSONResponse({"status": "unavailable", **parts}, 503)
    return JSONResponse({"status": "ok" if parts["broker"] else "degraded", **parts})


@caller_router.get("/me")
def me(caller: Who) -> CallerRead:
    """Which project and scopes this key has."""
    return CallerRead(key=caller.key_id, project=caller.project_id, scopes=sorted(caller.scopes))


def _parts(service: App) -> dict[str, bool]:
    return {"database": _database_answers(service), "broker": reachable()}


def _database_answers(service: App) -> bool:
    try:
        with service.database.reading() as db:
            db.execute(text("SELECT 1 FROM projects LIMIT 1"))
    except Exception:  # noqa: BLE001 - whatever the driver raises, it does not answer
        return False
    return True
