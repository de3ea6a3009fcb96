"""What the files that a job made look like."""

from datetime import datetime

from pydantic import BaseModel

from app.api.schemas.values import moment
from app.db.models import Artifact
from app.domain.states import ArtifactKind


class ArtifactRead(BaseModel):
    """A file that a job made."""

    id: str
    job: str
    subject: str
    kind: ArtifactKind
    filename: str
    media_type: str
    sha256: str
    size: int
    created_at: datetime
    links: dict[str, str]

    @classmethod
    def of(cls, row: Artifact) -> "ArtifactRead":
        """A row as shown."""
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
            links={"content": f"/v1/artifacts/{row.id}/content"},
        )
