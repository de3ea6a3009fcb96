"""Which of a project's jobs a list shows. Each filter has an index that ends in the id, as lists do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import aliased, defer, joinedload

from app.db.models import Job, JobLabel


@dataclass(frozen=True)
class JobFilter:
    """What is null is not asked for; a job has all of the labels."""

    state: str | None = None
    version: str | None = None
    model: str | None = None
    conclusion: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


def jobs_where(project_id: str, wanted: JobFilter) -> Select[Any]:
    """The project's jobs that the filter lets through, with their baselines, in no order."""
    asked = {
        Job.state: wanted.state,
        Job.version_id: wanted.version,
        Job.model_id: wanted.model,
        Job.conclusion: wanted.conclusion,
    }
    mine = (Job.project_id == project_id, Job.deleted_at.is_(None))
    given = [column == value for column, value in asked.items() if value is not None]
    shown = select(Job).options(joinedload(Job.baseline), defer(Job.verdict))
    return labelled(shown.where(*mine, *given), wanted.labels)


def labelled(chosen: Select[Any], labels: Mapping[str, str]) -> Select[Any]:
    """Those of the jobs that have all of these labels."""
    for name, value in labels.items():
        label = aliased(JobLabel)
        same = (label.job_id == Job.id) & (label.project_id == Job.project_id)
        chosen = chosen.join(label, same & (label.name == name) & (label.value == value))
    return chosen
