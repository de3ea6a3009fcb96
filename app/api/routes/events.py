"""Who did what, and when."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.api.deps import Paged, ReadDb, Who
from app.api.schemas.timeline import EventRead
from app.api.schemas.values import AnyId, Page, Time, Visible
from app.db import queries
from app.db.base import MICROSECONDS
from app.db.models import Event
from app.db.queries import events

router = APIRouter()


@router.get("/events")
def list_events(
    caller: Who,
    db: ReadDb,
    paging: Paged,
    subject: Annotated[AnyId | None, Query(description="id of a job, version, key …")] = None,
    kind: Annotated[Visible | None, Query(alias="type", description="such as `job.succeeded`")] = None,
    since: Annotated[Time | None, Query(description="RFC 3339")] = None,
) -> Page[EventRead]:
    """The project's events, newest first: every transition, who caused it, and when."""
    since_us = int(since.timestamp() * MICROSECONDS) if since else None
    chosen = events.of_project(caller.project_id, subject, kind, since_us)
    rows = queries.newest_first(db, chosen, Event, paging.cursor, paging.limit)
    return paging.show(rows, EventRead.of)
