"""What all statements share: the clock, owned rows, pages, locks, upserts."""

from typing import Any, TypeVar, cast

from sqlalchemy import (
    CursorResult,
    Executable,
    Select,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.db.base import Base, now_us
from app.db.keys import ApiKey
from app.db.models import Artifact, Candidate, Dataset, Event, Job, Model, Project, Upload, Version
from app.db.webhooks import Delivery, WebhookEndpoint
from app.domain.errors import NotFound

NOUNS = {
    Model: "model",
    Version: "version",
    Dataset: "dataset",
    Job: "job",
    Candidate: "candidate",
    Artifact: "artifact",
    ApiKey: "key",
    Upload: "upload",
    WebhookEndpoint: "webhook endpoint",
    Delivery: "delivery",
}
Query = TypeVar("Query", bound=Select[Any])
Owned = TypeVar(
    "Owned", Model, Version, Dataset, Job, Candidate, Artifact, Upload, ApiKey, WebhookEndpoint, Delivery
)
Paged = TypeVar(
    "Paged", Model, Version, Dataset, Job, Candidate, Artifact, Upload, ApiKey, Project, Event,
    WebhookEndpoint, Delivery,
)  # fmt: skip


def now(db: Session) -> int:
    """The database's clock in microseconds."""
    return db.scalars(select(now_us())).one()


def get_owned(db: Session, table: type[Owned], project_id: str, row_id: str) -> Owned:
    """A row of this project; what another project has, or what was deleted, is not found either.

    Raises:
        NotFound: There is no such row here.
    """
    row = db.get(table, row_id)
    if row is None or row.project_id != project_id or getattr(row, "deleted_at", None):
        raise NotFound(f"This project has no {NOUNS[table]} with the id {row_id!r}.")
    return row


def lock_owned(db: Session, table: type[Owned], project_id: str, row_id: str) -> Owned:
    """A row of this project, locked until the transaction ends.

    Raises:
        NotFound: There is no such row here.
    """
    chosen = select(table).where(table.id == row_id, table.project_id == project_id)
    row: Owned | None = db.scalars(locked(chosen)).one_or_none()
    if row is None or getattr(row, "deleted_at", None):
        raise NotFound(f"This project has no {NOUNS[table]} with the id {row_id!r}.")
    return row


def newest_first(
    db: Session, statement: Select[Any], table: type[Paged], cursor: str | None, limit: int
) -> list[Paged]:
    """One page by id, newest first, and one row more when there is a next page."""
    if cursor:
        statement = statement.where(table.id < cursor)
    return list(db.scalars(statement.order_by(table.id.desc()).limit(limit + 1)))


def locked(statement: Query) -> Query:
    return statement.with_for_update().execution_options(populate_existing=True)


def changed(db: Session, statement: Executable) -> int:
    options = {"synchronize_session": False}
    return cast("CursorResult[Any]", db.execute(statement, execution_options=options)).rowcount


def insert(db: Session, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that knows ON CONFLICT, for whichever database this is."""
    if db.get_bind().dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)
