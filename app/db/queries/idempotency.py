"""What was done once, by its Idempotency-Key."""

from typing import Any

from sqlalchemy import ColumnElement, Update, and_, delete, null, or_, select, tuple_, update
from sqlalchemy.orm import Session

from app.db.base import MICROSECONDS, now_us
from app.db.models import IdempotencyKey
from app.db.queries.statements import changed, insert

TAKEN_OVER = 60 * MICROSECONDS
KEPT = 24 * 3600 * MICROSECONDS
FORGOTTEN_AT_ONCE = 1000


def claim_key(db: Session, project_id: str, key: str, fingerprint: str) -> int | None:
    """The attempt that may work now; None when somebody else does, or when the work is done."""
    fresh = insert(db, IdempotencyKey).values(
        project_id=project_id,
        key=key,
        fingerprint=fingerprint,
        attempt=1,
        claimed_at=now_us(),
        expires_at=now_us() + KEPT,
        secret=False,
    )
    again = {
        "attempt": IdempotencyKey.attempt + 1,
        "fingerprint": fingerprint,
        "claimed_at": now_us(),
        "expires_at": now_us() + KEPT,
        "subject_id": None,
        "secret": False,
        "answer": null(),
    }
    claimed = fresh.on_conflict_do_update(
        index_elements=["project_id", "key"], set_=again, where=_free(fingerprint)
    )
    return db.execute(claimed.returning(IdempotencyKey.attempt)).scalar_one_or_none()


def key_made(db: Session, project_id: str, key: str) -> IdempotencyKey | None:
    """What is known about this key now."""
    return db.get(IdempotencyKey, (project_id, key), populate_existing=True)


def mark_made(db: Session, claim: tuple[str, str, int], subject_id: str, *, secret: bool) -> bool:
    """Note what the work made. False: somebody else took it over."""
    return changed(db, _mine(*claim).values(subject_id=subject_id, secret=secret)) == 1


def keep_answer(db: Session, claim: tuple[str, str, int], answer: dict[str, Any]) -> None:
    """Keep what was answered, unless it showed a secret."""
    db.execute(_mine(*claim).where(~IdempotencyKey.secret).values(answer=answer))


def release_key(db: Session, claim: tuple[str, str, int]) -> None:
    """Let the next request try at once; what was made stays."""
    project_id, key, attempt = claim
    mine = and_(_is(project_id, key), IdempotencyKey.attempt == attempt)
    db.execute(delete(IdempotencyKey).where(mine, IdempotencyKey.subject_id.is_(None)))


def forget_keys(db: Session) -> None:
    """Remove keys whose time is over: some, since there may be many."""
    named = (IdempotencyKey.project_id, IdempotencyKey.key)
    over = select(*named).where(IdempotencyKey.expires_at <= now_us()).limit(FORGOTTEN_AT_ONCE)
    changed(db, delete(IdempotencyKey).where(tuple_(*named).in_(over)))


def _free(fingerprint: str) -> ColumnElement[bool]:
    nothing = and_(IdempotencyKey.subject_id.is_(None), IdempotencyKey.answer.is_(None))
    same = IdempotencyKey.fingerprint == fingerprint
    abandoned = and_(nothing, same, IdempotencyKey.claimed_at <= now_us() - TAKEN_OVER)
    return or_(abandoned, IdempotencyKey.expires_at <= now_us())


def _is(project_id: str, key: str) -> ColumnElement[bool]:
    return and_(IdempotencyKey.project_id == project_id, IdempotencyKey.key == key)


def _mine(project_id: str, key: str, attempt: int) -> Update:
    """The fence: only the attempt that works may write."""
    return update(IdempotencyKey).where(_is(project_id, key), IdempotencyKey.attempt == attempt)
