"""The tables of access: keys, and the cookies that stand for one in a browser."""

from sqlalchemy import BigInteger, ForeignKey, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db.base import Base, Id, Json, new_id, now_us
from app.db.models import Project


class ApiKey(Base):
    """A key of a project: only its SHA-256 is kept."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=lambda: new_id("key"))
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    digest: Mapped[bytes] = mapped_column(LargeBinary(32))
    scopes: Mapped[list[str]] = mapped_column(Json)
    expires_at: Mapped[int | None] = mapped_column(BigInteger)
    revoked_at: Mapped[int | None] = mapped_column(BigInteger)
    last_used_at: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[int] = mapped_column(BigInteger, default=now_us())
    project: Mapped[Project] = relationship()


class BrowserSession(Base):
    """A cookie that may read what its key may read; only the SHA-256 of its secret is kept."""

    __tablename__ = "browser_sessions"
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=lambda: new_id("ses"))
    key_id: Mapped[str] = mapped_column(Id, ForeignKey("api_keys.id"), index=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary(32))
    expires_at: Mapped[int] = mapped_column(BigInteger, index=True)
    key: Mapped[ApiKey] = relationship()
