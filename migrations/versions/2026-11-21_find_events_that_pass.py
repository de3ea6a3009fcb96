"""find events that pass, and what is delivered of an event: for pruning."""

import sqlalchemy as sa

from migrations.live import create_index, drop_index, outside_transaction

revision = "0093"
down_revision = "0092"
branch_labels = None
depends_on = None

PASSING = sa.text(
    "type IN ('job.running', 'job.phase', 'step.reused', 'candidate.building', 'candidate.built', "
    "'candidate.measured', 'candidate.failed', 'candidate.canceled')"
)


def upgrade() -> None:
    with outside_transaction():
        only = {"postgresql_where": PASSING, "sqlite_where": PASSING}
        create_index("ix_events_passing", "events", ["id"], **only)
        create_index("ix_deliveries_event_id", "deliveries", ["event_id"])


def downgrade() -> None:
    with outside_transaction():
        drop_index("ix_deliveries_event_id", "deliveries")
        drop_index("ix_events_passing", "events")
