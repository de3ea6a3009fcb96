"""What received bytes look like."""

from datetime import datetime

from pydantic import BaseModel

from app.api.schemas.values import Problem, moment
from app.db.models import Upload
from app.domain.states import UploadState


class BlobRead(BaseModel):
    """Bytes that this project may refer to."""

    sha256: str
    size: int


class UploadRead(BaseModel):
    """A resumable upload: how far it got, and the SHA-256 that it became."""

    id: str
    state: UploadState
    offset: int
    length: int
    filename: str | None
    sha256: str | None
    error: Problem | None
    created_at: datetime
    expires_at: datetime | None
    links: dict[str, str]

    @classmethod
    def of(cls, row: Upload) -> "UploadRead":
        """A row as shown."""
        here = f"/v1/uploads/{row.id}"
        return cls(
            id=row.id,
            state=row.state,
            offset=row.size,
            length=row.length,
            filename=row.filename,
            sha256=row.sha256,
            error=Problem.of(row.problem),
            created_at=moment(row.created_at),
            expires_at=moment(row.expires_at) if row.state == "receiving" else None,
            links={"self": here} | ({"blob": f"/v1/blobs/{row.sha256}"} if row.sha256 else {}),
        )
