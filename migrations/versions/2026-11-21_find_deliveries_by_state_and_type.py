"""find deliveries of a project by state and by type: lists read all of them for the few of a rare one."""

from migrations.live import create_index, drop_index, outside_transaction

revision = "0110"
down_revision = "0103"
branch_labels = None
depends_on = None

COLUMNS = ("state", "type")


def upgrade() -> None:
    with outside_transaction():
        for column in COLUMNS:
            create_index(f"ix_deliveries_project_id_{column}_id", "deliveries", ["project_id", column, "id"])


def downgrade() -> None:
    with outside_transaction():
        for column in COLUMNS:
            drop_index(f"ix_deliveries_project_id_{column}_id", "deliveries")
