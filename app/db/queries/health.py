"""Signs that something is wrong, for an operator."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.base import MICROSECONDS, now_us
from app.db.models import Step
from app.db.operations import Measure
from app.db.webhooks import WebhookEndpoint

SWEEP = "sweep"
SWEEP_LATE_S = 120
LONG_S = 600
SILENT = 60 * MICROSECONDS
SHOWN = 100


def answers(db: Session) -> None:
    """Raise whatever the database raises."""
    db.scalars(select(now_us())).one()


def seconds_since_sweep(db: Session) -> float | None:
    """How long ago the last sweep ended; None when there was none."""
    age = select(now_us() - Measure.measured_at).where(Measure.name == SWEEP)
    found = db.scalars(age).one_or_none()
    return None if found is None else found / MICROSECONDS


def waiting_long(db: Session) -> dict[str, int]:
    """How many steps of each kind have been free to run for ten minutes."""
    since = now_us() - LONG_S * MICROSECONDS
    late = (Step.state == "queued", Step.not_before <= since, Step.created_at <= since)
    found = db.execute(select(Step.kind, func.count()).where(*late).group_by(Step.kind).order_by(Step.kind))
    return {kind: count for kind, count in found}  # noqa: C416 - rows are no pairs to a type checker


def silent_steps(db: Session) -> Sequence[str]:
    """Running steps whose lease ran out a minute ago, which a sweep should have taken back."""
    silent = (Step.state == "running", Step.lease_until < now_us() - SILENT)
    return db.scalars(select(Step.id).where(*silent).order_by(Step.id).limit(SHOWN)).all()


def lost_steps(db: Session) -> Sequence[str]:
    """Open steps whose worker was lost before."""
    lost = (Step.losses > 0, Step.finished_at.is_(None))
    return db.scalars(select(Step.id).where(*lost).order_by(Step.id).limit(SHOWN)).all()


def failing_endpoints(db: Session) -> Sequence[str]:
    """Enabled endpoints whose last attempts failed."""
    failing = (WebhookEndpoint.state == "enabled", WebhookEndpoint.failures > 0)
    kept = WebhookEndpoint.deleted_at.is_(None)
    return db.scalars(
        select(WebhookEndpoint.id).where(*failing, kept).order_by(WebhookEndpoint.id).limit(SHOWN)
    ).all()
