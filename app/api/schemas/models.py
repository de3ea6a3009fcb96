"""What models and their versions look like."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.api.schemas.values import Labels, Name, Problem, Sha256, moment, moment_or_none
from app.db.models import Model, Version
from app.domain.report import Examination
from app.domain.states import InputState


class ModelCreate(BaseModel):
    """A new version from blobs that are here already; the main file is the first `.onnx`."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    files: Annotated[dict[str, Sha256], Field(min_length=1, max_length=100)]
    labels: Labels = {}


class ModelRead(BaseModel):
    """A model: a name with versions."""

    id: str
    name: str
    created_at: datetime
    links: dict[str, str]

    @classmethod
    def of(cls, row: Model) -> "ModelRead":
        """A row as shown."""
        here = f"/v1/models/{row.id}"
        links = {"self": here, "versions": f"{here}/versions"}
        return cls(id=row.id, name=row.name, created_at=moment(row.created_at), links=links)


class FileRead(BaseModel):
    """One file of a version."""

    path: str
    sha256: str
    size: int


class VersionRead(BaseModel):
    """One uploaded state of a model."""

    id: str
    model: str
    name: str
    state: InputState
    labels: dict[str, str]
    files: list[FileRead]
    examination: Examination | None
    error: Problem | None
    created_at: datetime
    expires_at: Annotated[datetime | None, Field(description="when its bytes go, if no job takes it before")]
    expired_at: Annotated[datetime | None, Field(description="when its bytes went")]
    links: dict[str, str]

    @classmethod
    def of(cls, row: Version, expires_at: int | None) -> "VersionRead":
        """A row as shown."""
        here = f"/v1/versions/{row.id}"
        files = row.expired_files or [{"path": f.path, "sha256": f.sha256, "size": f.size} for f in row.files]
        return cls(
            id=row.id,
            model=row.model_id,
            name=row.model.name,
            state=row.state,
            labels=row.labels,
            files=[FileRead(**file) for file in files],
            examination=row.examination,
            error=Problem.of(row.problem),
            created_at=moment(row.created_at),
            expires_at=moment_or_none(expires_at),
            expired_at=moment_or_none(row.expired_at),
            links={"self": here, "content": f"{here}/content", "model": f"/v1/models/{row.model_id}"},
        )
