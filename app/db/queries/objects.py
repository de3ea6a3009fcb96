"""Objects of the store that lies in the database, and their chunks."""

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import CursorResult, delete, insert, select, update
from sqlalchemy.orm import Session

from app.db.base import MICROSECONDS, now_us
from app.db.objects import StoredChunk, StoredObject

ERASED_AT_ONCE = 128  # chunks: no statement takes long, however large the object is


def begin_object(db: Session, key: str, *, visible: bool) -> None:
    """Record an object that has no bytes yet."""
    db.execute(insert(StoredObject).values(key=key, visible=visible, written_at=now_us()))


def touch_object(db: Session, key: str, *, show: bool = False) -> bool:
    """Note that an object is being written to, and show it; whether it is there at all."""
    values: dict[str, Any] = {"written_at": now_us(), **({"visible": True} if show else {})}
    changed = db.execute(update(StoredObject).where(StoredObject.key == key).values(values))
    return bool(cast("CursorResult[Any]", changed).rowcount)


def hide_object(db: Session, key: str) -> None:
    """Let nobody open an object any more."""
    db.execute(update(StoredObject).where(StoredObject.key == key).values(visible=False))


def is_visible(db: Session, key: str) -> bool:
    """Whether there is such an object to be opened."""
    found = select(StoredObject.key).where(StoredObject.key == key, StoredObject.visible)
    return db.scalars(found).one_or_none() is not None


def add_chunk(db: Session, key: str, start: int, data: bytes) -> None:
    """Bytes of an object."""
    db.execute(insert(StoredChunk).values(key=key, start=start, data=data))


def chunk_at(db: Session, key: str, position: int) -> tuple[int, bytes]:
    """The last chunk that begins at a byte or before, with its start; nothing when there is none."""
    before = select(StoredChunk.start, StoredChunk.data).where(
        StoredChunk.key == key, StoredChunk.start <= position
    )
    found = db.execute(before.order_by(StoredChunk.start.desc()).limit(1)).one_or_none()
    return (found.start, found.data) if found else (0, b"")


def cut_object(db: Session, key: str, size: int) -> None:
    """Forget an object's bytes after the first `size`."""
    db.execute(delete(StoredChunk).where(StoredChunk.key == key, StoredChunk.start >= size))
    start, data = chunk_at(db, key, size)
    if start + len(data) > size:
        last = update(StoredChunk).where(StoredChunk.key == key, StoredChunk.start == start)
        db.execute(last.values(data=data[: size - start]))


def erase_chunks(db: Session, key: str) -> bool:
    """Forget an object's first chunks, and the object with the last of them; whether it is gone."""
    mine = select(StoredChunk.start).where(StoredChunk.key == key)
    first = mine.order_by(StoredChunk.start).limit(ERASED_AT_ONCE)
    db.execute(delete(StoredChunk).where(StoredChunk.key == key, StoredChunk.start.in_(first)))
    if db.scalars(mine.limit(1)).first() is not None:
        return False
    db.execute(delete(StoredObject).where(StoredObject.key == key))
    return True


def old_objects(db: Session, first: str, end: str, seconds: float) -> Sequence[str]:
    """Keys from `first` on and before `end` of what was not written to for so long."""
    keys = select(StoredObject.key).where(StoredObject.key >= first, StoredObject.key < end)
    return db.scalars(keys.where(StoredObject.visible, StoredObject.written_at < _ago(seconds))).all()


def abandoned_objects(db: Session, seconds: float) -> Sequence[str]:
    """Keys of what nobody can open and nobody wrote to for so long."""
    hidden = select(StoredObject.key).where(~StoredObject.visible, StoredObject.written_at < _ago(seconds))
    return db.scalars(hidden.limit(100)).all()


def _ago(seconds: float) -> Any:  # noqa: ANN401 - a SQL expression
    return now_us() - int(seconds * MICROSECONDS)
