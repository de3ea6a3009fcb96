"""The web application: settings → middleware, routers, error handlers, lifespan."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, JSONResponse, RedirectResponse
from starlette.staticfiles import StaticFiles

from app.api import errors, openapi
from app.api.deps import App
from app.api.head import HeadAsGet
from app.api.last_used import LastUsed
from app.api.metrics import Measured
from app.api.middleware import Gatekeeper
from app.api.own_rows import OwnRows
from app.api.rates import Rates
from app.api.request_log import RequestLog
from app.api.routes import (
    artifacts,
    blobs,
    candidates,
    catalog,
    compare,
    datasets,
    events,
    health,
    jobs,
    keys,
    limits,
    me,
    models,
    projects,
    quantize,
    results,
    timeline,
    uploads,
    webhooks,
)
from app.api.tus import Tus
from app.api.waiting import Watch
from app.db.session import Database
from app.settings import Settings
from app.storage import open_storage

STATIC = Path(__file__).parent / "api" / "static"
# Swagger UI sets styles on elements, and has its icons as data.
DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SUMMARY = "Quantize ONNX models and measure honestly what it costs and wins."


def create_app(settings: Settings | None = None) -> FastAPI:
    """One application with its own settings, database and storage."""
    settings = settings or Settings()
    held = App(settings, Database(settings.database), open_storage(settings))
    rates, last_used = Rates(settings.redis_url), LastUsed(lambda: held.database)
    app = FastAPI(
        title="Fewbits",
        summary=SUMMARY,
        description=openapi.DESCRIPTION,
        version="1",
        contact={"name": "Whoever runs this service"},
        license_info={"name": "Apache 2.0", "identifier": "Apache-2.0"},
        servers=[{"url": "/", "description": "This service"}],
        lifespan=partial(_lifespan, held, rates, last_used),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=openapi.name_of,
    )
    app.state.fewbits = held
    _add_middleware(app, held, rates, last_used)
    errors.install(app)
    _add_routes(app)
    openapi.describe(app)
    return app


@asynccontextmanager
async def _lifespan(
    held: App, rates: Rates, last_used: LastUsed, app: FastAPI
) -> AsyncIterator[dict[str, Watch]]:
    await run_in_threadpool(app.openapi)  # it takes a second, which whoever asks first would wait
    gc.collect()
    gc.freeze()  # what is here stays: looking through it again would hold up every request
    yield {"watch": held.watch}
    await rates.close()
    await run_in_threadpool(last_used.close)
    held.storage.close()
    held.database.dispose()


def _add_middleware(app: FastAPI, held: App, rates: Rates, last_used: LastUsed) -> None:
    """The last one sees a request first."""
    app.add_middleware(HeadAsGet)
    app.add_middleware(OwnRows)
    app.add_middleware(
        Gatekeeper,
        settings=held.settings,
        database=lambda: held.database,
        rates=rates,
        last_used=last_used,
    )
    app.add_middleware(Tus)
    app.add_middleware(Measured, metrics=held.metrics)
    app.add_middleware(RequestLog)


def _add_routes(app: FastAPI) -> None:
    # The first that fits serves, after all before it were asked: what is asked for most comes first.
    running = (jobs, timeline, results, candidates, artifacts, quantize, compare)
    access = (webhooks, me, keys, projects, limits, events)
    for resource in (*running, blobs, uploads, models, datasets, catalog, *access):
        app.include_router(resource.router, prefix="/v1")  # a router within a router is searched twice
    app.include_router(health.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_api_route("/docs", _docs, include_in_schema=False)
    app.add_api_route("/openapi.json", lambda: JSONResponse(app.openapi()), include_in_schema=False)
    app.add_api_route("/", lambda: RedirectResponse("/docs"), include_in_schema=False)


def _docs() -> FileResponse:
    headers = {"Content-Security-Policy": DOCS_POLICY, "Referrer-Policy": "no-referrer"}
    return FileResponse(STATIC / "docs.html", headers=headers)
