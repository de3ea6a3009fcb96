"""list events by project in their order."""

from migrations.live import create_index, drop_index, outside_transaction

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with outside_transaction():
        create_index("ix_events_project_id_id", "events", ["project_id", "id"])
        drop_index("ix_events_project_id", "events")


def downgrade() -> None:
    with outside_transaction():
        create_index("ix_events_project_id", "events", ["project_id"])
        drop_index("ix_events_project_id_id", "events")
