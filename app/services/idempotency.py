"""Once per Idempotency-Key (draft-ietf-httpapi-idempotency-key-header).

A request claims its key, marks it in the transaction that does the work, and keeps its answer.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.db.queries import idempotency as stored
from app.domain.errors import AlreadyCreated, IdempotencyKeyReused, InProgress


@dataclass(frozen=True)
class Claim:
    """The right to do the work; `attempt` is the fencing token of every later write."""

    project_id: str
    key: str
    attempt: int

    @property
    def fence(self) -> tuple[str, str, int]:
        """What names the row and the attempt."""
        return self.project_id, self.key, self.attempt


@dataclass(frozen=True)
class Done:
    """The work was done before: what it made, and what was answered, if the answer is kept."""

    subject_id: str | None
    answer: dict[str, Any] | None


def claim(db: Session, project_id: str, key: str, fingerprint: str) -> Claim | Done:
    """Take the key, or find what its first request did.

    Raises:
        IdempotencyKeyReused: The first request was another one.
        InProgress: The first request is not done, and was heard of in the last 60 s.
        AlreadyCreated: It is done, and its answer held a secret.
    """
    attempt = stored.claim_key(db, project_id, key, fingerprint)
    if attempt is not None:
        return Claim(project_id, key, attempt)
    row = stored.key_made(db, project_id, key)
    if row is None:
        raise InProgress  # it was released between the two statements
    if row.fingerprint != fingerprint:
        raise IdempotencyKeyReused
    if row.secret:
        message = (
            f"The first request with this Idempotency-Key made {row.subject_id}. Its answer held a secret"
        )
        raise AlreadyCreated(f"{message} and is not kept; rotate it, which answers a new one.")
    if row.subject_id is None and row.answer is None:
        raise InProgress
    return Done(row.subject_id, row.answer)


def made(db: Session, claim: Claim, subject_id: str, *, secret: bool) -> None:
    """Note, in the transaction that made it, what was made.

    Raises:
        InProgress: This request was slow and another one took over; nothing may be written.
    """
    if not stored.mark_made(db, claim.fence, subject_id, secret=secret):
        raise InProgress


def answered(db: Session, claim: Claim, answer: dict[str, Any]) -> None:
    """Keep the answer for those who ask again."""
    stored.keep_answer(db, claim.fence, answer)


def release(db: Session, claim: Claim) -> None:
    """The work failed in a way that trying again may mend."""
    stored.release_key(db, claim.fence)
