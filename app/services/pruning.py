"""Old rows go, so that years fit; what says what was made, of what, and who did it stays."""

from sqlalchemy.orm import Session

from app.db import queries
from app.db.queries import pruning
from app.domain.pruning import DAY_US, Kept


def prune(db: Session, kept: Kept) -> int:
    """Remove some of what is too old, steps last; how many rows of each kind together."""
    now = queries.now(db)
    return (
        pruning.printed(db, now - kept.printed * DAY_US)
        + pruning.deliveries(db, now - kept.deliveries * DAY_US)
        + pruning.passing_events(db, now - kept.timeline * DAY_US)
        + pruning.steps(db, now - kept.timeline * DAY_US)
    )
