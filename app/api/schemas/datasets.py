"""What datasets look like."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from app.api.schemas.values import InputName, Name, Problem, Sha256, moment, moment_or_none
from app.db.models import Dataset
from app.domain.dataset import Preprocess
from app.domain.gate import Gate
from app.domain.job import MetricName
from app.domain.report import DatasetSummary
from app.domain.states import InputState


class DatasetCreate(BaseModel):
    """A dataset from a blob that is here already."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    sha256: Sha256
    preprocess: Annotated[str | dict[str, Any], Field(description="a preset's name, or a Preprocess")] = {}
    input: InputName | None = None


class DatasetCheck(BaseModel):
    """Whether a dataset fits a version, and which drop it can decide."""

    model_config = ConfigDict(extra="forbid")
    version: Annotated[str, Field(description="the version that it should fit", examples=["ver_…"])]
    gate: Annotated[Gate | None, Field(description="the gate whose limits it should decide")] = None
    metric: MetricName = "auto"
    input: Annotated[str | None, Field(description="the input that images bind to")] = None
    candidates: Annotated[
        int, Field(strict=True, ge=1, le=100, description="how many share the error of 5 %")
    ] = 1


DATASET_LINKS = {"self": "", "preview": "/preview", "check": "/check"}


class DatasetRead(BaseModel):
    """Uploaded samples."""

    id: str
    name: str
    state: InputState
    sha256: str | None
    size: int
    preprocess: Preprocess
    input: str | None
    summary: DatasetSummary | None
    error: Problem | None
    created_at: datetime
    expires_at: Annotated[datetime | None, Field(description="when its bytes go, if no job takes it before")]
    expired_at: Annotated[datetime | None, Field(description="when its bytes went")]
    links: dict[str, str]

    @classmethod
    def of(cls, row: Dataset, expires_at: int | None) -> "DatasetRead":
        """A row as shown."""
        return cls(
            id=row.id,
            name=row.name,
            state=row.state,
            sha256=row.sha256 or row.expired_sha256,
            size=row.size,
            preprocess=row.preprocess,
            input=row.input,
            summary=row.summary,
            error=Problem.of(row.problem),
            created_at=moment(row.created_at),
            expires_at=moment_or_none(expires_at),
            expired_at=moment_or_none(row.expired_at),
            links={name: f"/v1/datasets/{row.id}{path}" for name, path in DATASET_LINKS.items()},
        )
