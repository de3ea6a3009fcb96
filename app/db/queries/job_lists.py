"""Which of a project's jobs a list shows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Dialect, Select, and_, func, literal, select, type_coerce
from sqlalchemy.dialects.postgresql import JSONB

from app.db.base import Json
from app.db.models import Job, Version


@dataclass(frozen=True)
class JobFilter:
    """What is null is not asked for; a job has all of the labels."""

    state: str | None = None
    version: str | None = None
    model: str | None = None
    conclusion: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


def jobs_where(dialect: Dialect, project_id: str, wanted: JobFilter) -> Select[Any]:
    """The project's jobs that the filter lets through, in no order."""
    chosen = select(Job).where(Job.project_id == project_id)
    if wanted.state:
        chosen = chosen.where(Job.state == wanted.state)
    if wanted.version:
        chosen = chosen.where(Job.version_id == wanted.version)
    if wanted.model:
        chosen = chosen.where(Job.version_id.in_(select(Version.id).where(Version.model_id == wanted.model)))
    if wanted.conclusion:
        concluded = type_coerce(Job.verdict, Json)["conclusion"].as_string() == wanted.conclusion
        chosen = chosen.where(Job.finished_at.is_not(None), concluded)
    return chosen.where(labelled(dialect, wanted.labels)) if wanted.labels else chosen


def labelled(dialect: Dialect, labels: Mapping[str, str]) -> ColumnElement[bool]:
    """Whether a job has all of these labels; their names may hold what a JSON path cannot."""
    if dialect.name == "postgresql":
        return type_coerce(Job.spec, JSONB).contains({"labels": dict(labels)})
    return and_(*[_has_label(name, value) for name, value in labels.items()])


def _has_label(name: str, value: str) -> ColumnElement[bool]:
    each = func.json_each(type_coerce(Job.spec, Json), "$.labels").table_valued("key", "value")
    return select(literal(1)).select_from(each).where(each.c.key == name, each.c.value == value).exists()
