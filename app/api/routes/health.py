"""Whether the process lives, whether it can serve, and how much it does."""

from typing import Any

from fastapi import APIRouter, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, PlainTextResponse

from app.api.deps import App, Service
from app.broker import reachable
from app.db.queries import projects, workers

router = APIRouter()
EXAMPLE = """# HELP fewbits_steps Steps that wait or run
# TYPE fewbits_steps gauge
fewbits_steps{kind="build",queue="default",state="queued"} 3.0
"""
EXPOSITION: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}, "example": EXAMPLE}}}
}


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process lives."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(service: Service) -> Response:
    """Ready: the database answers. Degraded: the broker does not, so work waits for the sweeper.

    `workers` counts those seen in the last three minutes; `sandbox` says which layers hold the engine calls
    of all of them.
    """
    database = await run_in_threadpool(_database_answers, service)
    broker = await run_in_threadpool(reachable)
    parts = {"database": database, "broker": broker}
    if not database:
        return JSONResponse({"status": "unavailable", **parts}, 503)
    return JSONResponse({"status": "ok" if broker else "degraded", **parts, **await service.read(_workers)})


@router.get("/metrics", response_class=PlainTextResponse, responses=EXPOSITION)
def metrics(service: Service) -> Response:
    """What this process answers and what the whole service has to do, for Prometheus."""
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _database_answers(service: App) -> bool:
    try:
        with service.database.reading() as db:
            projects.look_for_any(db)
    except Exception:  # noqa: BLE001 - whatever the driver raises, it does not answer
        return False
    return True


def _workers(db: Session) -> dict[str, Any]:
    seen = workers.workers(db)
    layers = [layer for worker in seen for layer in worker.sandbox]
    holds = {layer: all(worker.sandbox.get(layer) for worker in seen) for layer in layers}
    return {"workers": len(seen), "sandbox": holds}
