"""What projects, their quotas, retention and usage look like."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool

from app.api.schemas.keys import KeyIssued
from app.api.schemas.values import Name, moment, moment_or_none
from app.db.models import Project
from app.domain.quota import Quotas
from app.domain.retention import Retention
from app.services.quotas import Usage

Amount = Annotated[int | None, Field(strict=True, ge=0, le=2**62)]


class QuotasModel(BaseModel):
    """What a project may have and do at once; null is the operator's default."""

    model_config = ConfigDict(extra="forbid")
    bytes: Annotated[Amount, Field(description="stored in all", examples=[100_000_000_000])] = None
    jobs_per_day: Annotated[Amount, Field(description="from midnight UTC", examples=[1000])] = None
    unfinished_jobs: Annotated[Amount, Field(description="queued or running", examples=[50])] = None
    running_candidates: Annotated[
        int | None,
        Field(strict=True, ge=1, le=2**31, description="builds at once; the others wait", examples=[4]),
    ] = None

    @classmethod
    def of(cls, quotas: Quotas) -> "QuotasModel":
        """Quotas as shown."""
        return cls.model_validate(quotas, from_attributes=True)

    def quotas(self) -> Quotas:
        """As the domain has them."""
        return Quotas(**self.model_dump())


Days = Annotated[int | None, Field(strict=True, ge=1, le=36_500)]


class RetentionModel(BaseModel):
    """How many days a project's bytes stay; null is the operator's default, and 36500 as good as for good."""

    model_config = ConfigDict(extra="forbid")
    models_days: Annotated[
        Days, Field(description="of a version, after its upload or the last job that took it", examples=[90])
    ] = None
    datasets_days: Annotated[Days, Field(description="the same of a dataset", examples=[90])] = None
    artifacts_days: Annotated[
        Days, Field(description="of a job's files with weights or samples, after its end", examples=[30])
    ] = None

    @classmethod
    def of(cls, retention: Retention) -> "RetentionModel":
        """As shown."""
        return cls.model_validate(retention, from_attributes=True)

    def retention(self) -> Retention:
        """As the domain has it."""
        return Retention(**self.model_dump())


class ProjectCreate(BaseModel):
    """A project to be opened."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[Name, Field(examples=["speech team"])]
    quotas: QuotasModel = QuotasModel()
    retention: RetentionModel = RetentionModel()


def _open(closed: bool) -> bool:
    if closed:
        raise ValueError("close a project with DELETE")
    return closed


class ProjectChange(BaseModel):
    """What is to change; what is not named stays."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[Name, Field(examples=["speech team"])] = ""
    quotas: QuotasModel = QuotasModel()
    retention: RetentionModel = RetentionModel()
    closed: Annotated[
        StrictBool,
        AfterValidator(_open),
        Field(description="false opens a closed project again", json_schema_extra={"const": False}),
    ] = False


class ProjectRead(BaseModel):
    """A project."""

    id: str
    name: str
    quotas: QuotasModel
    retention: RetentionModel
    created_at: datetime
    closed_at: datetime | None
    links: dict[str, str]

    @classmethod
    def fields(cls, row: Project) -> dict[str, Any]:
        """A row's fields as shown."""
        here = f"/v1/projects/{row.id}"
        return {
            "id": row.id,
            "name": row.name,
            "quotas": QuotasModel.of(row.quotas),
            "retention": RetentionModel.of(row.retention),
            "created_at": moment(row.created_at),
            "closed_at": moment_or_none(row.closed_at),
            "links": {"self": here, "usage": f"{here}/usage"},
        }

    @classmethod
    def of(cls, row: Project) -> "ProjectRead":
        """A row as shown."""
        return cls(**cls.fields(row))


class ProjectOpened(ProjectRead):
    """A project that was just made: `key` is its first admin key, shown this once."""

    key: KeyIssued


class BytesRead(BaseModel):
    """Bytes that count in the quota. A blob that serves twice counts in both kinds, and once in all."""

    total: int
    models: int
    datasets: int
    artifacts: int
    uploads: Annotated[int, Field(description="that uploads announced which are not complete")]


class UsageRead(BaseModel):
    """What a project has and does now."""

    project: str
    bytes: BytesRead
    jobs_today: Annotated[int, Field(description="since midnight UTC")]
    unfinished_jobs: int
    running_candidates: int
    quotas: QuotasModel

    @classmethod
    def of(cls, project_id: str, usage: Usage, quotas: Quotas) -> "UsageRead":
        """What was counted, beside what is allowed."""
        return cls(
            project=project_id,
            bytes=BytesRead(
                total=usage.bytes,
                models=usage.bytes_of_models,
                datasets=usage.bytes_of_datasets,
                artifacts=usage.bytes_of_artifacts,
                uploads=usage.bytes_of_uploads,
            ),
            jobs_today=usage.jobs_today,
            unfinished_jobs=usage.unfinished_jobs,
            running_candidates=usage.running_candidates,
            quotas=QuotasModel.of(quotas),
        )
