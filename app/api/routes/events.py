"""Who did what, and when."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import AwareDatetime

from app.api.access import EventRead
from app.api.deps import Cursor, Limit, ReadDb, Who, page
from app.api.schemas import Page
from app.db import queries
from app.db.base import MICROSECONDS
from app.db.models import Event
from app.db.queries import events

router = APIRouter()


@router.get("/events")
def list_events(  # noqa: PLR0913, PLR0917 - what a list takes
    request: Request,
    response: Response,
    caller: Who,
    db: ReadDb,
    limit: Limit = 20,
    cursor: Cursor = None,
    subject: Annotated[str | None, Query(description="id of a job, version, key …", max_length=40)] = None,
    kind: Annotated[
        str | None, Query(alias="type", description="such as `job.succeeded`", max_length=50)
    ] = None,
    since: Annotated[AwareDatetime | None, Query(description="RFC 3339")] = None,
) -> Page[EventRead]:
    """The project's events, newest first: every transition, who caused it, and when."""
    since_us = int(since.timestamp() * MICROSECONDS) if since else None
    chosen = events.of_project(caller.project_id, subject, kind, since_us)
    rows = queries.newest_first(db, chosen, Event, cursor, limit)
    return page(request, response, rows, limit, EventRead.of)
