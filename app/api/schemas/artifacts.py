"""What the files that a job made look like."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field

from app.api.schemas.values import moment, moment_or_none
from app.db.models import Artifact
from app.db.retention import ExpiredArtifact
from app.domain.states import ArtifactKind


class ArtifactRead(BaseModel):
    """A file that a job made. One that has expired keeps its id and its digest."""

    id: str
    job: str
    subject: str
    kind: ArtifactKind
    filename: str
    media_type: str
    sha256: str
    size: int
    created_at: datetime
    expires_at: Annotated[datetime | None, Field(description="when its bytes go")]
    expired_at: Annotated[datetime | None, Field(description="when its bytes went")]
    links: dict[str, str]

    @classmethod
    def of(cls, row: Artifact | ExpiredArtifact, expires_at: int | None) -> "ArtifactRead":
        """A row as shown."""
        expired_at = row.expired_at if isinstance(row, ExpiredArtifact) else None
        return cls(
            id=row.id,
            job=row.job_id,
            subject=row.subject_id,
            kind=row.kind,
            filename=row.filename,
            media_type=row.media_type,
            sha256=row.sha256,
            size=row.size,
            created_at=moment(row.created_at),
            expires_at=moment_or_none(expires_at),
            expired_at=moment_or_none(expired_at),
            links={} if expired_at else {"content": f"/v1/artifacts/{row.id}/content"},
        )
