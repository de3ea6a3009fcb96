"""The tables of the blob store that lies in the database: which objects there are, and their bytes."""

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, now_us


class StoredObject(Base):
    """An object of the store. One that is not `visible` is being written or deleted: nobody can open it."""

    __tablename__ = "stored_objects"
    __table_args__ = (Index("ix_stored_objects_visible_written_at", "visible", "written_at"),)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    visible: Mapped[bool]
    written_at: Mapped[int] = mapped_column(BigInteger, default=now_us())


class StoredChunk(Base):
    """At most 1 MiB of an object, from byte `start` on."""

    __tablename__ = "stored_chunks"
    key: Mapped[str] = mapped_column(String(64), ForeignKey("stored_objects.key"), primary_key=True)
    start: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)
