"""What is left of files that are gone."""

from sqlalchemy import BigInteger, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, Id, now_us


class ExpiredArtifact(Base):
    """A file that a job made, and whose bytes went in time: what it was, under the id that it had."""

    __tablename__ = "expired_artifacts"
    __table_args__ = (UniqueConstraint("subject_id", "kind"),)
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"), index=True)
    job_id: Mapped[str] = mapped_column(Id, ForeignKey("jobs.id"), index=True)
    subject_id: Mapped[str] = mapped_column(Id)
    kind: Mapped[str] = mapped_column(String(20))
    filename: Mapped[str] = mapped_column(String(200))
    media_type: Mapped[str] = mapped_column(String(100))
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[int] = mapped_column(BigInteger)
    expired_at: Mapped[int] = mapped_column(BigInteger, default=now_us())
