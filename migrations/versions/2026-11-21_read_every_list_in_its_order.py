"""read every list in its order: an index that ends in the id replaces the one without."""

from migrations.live import create_index, drop_index, outside_transaction

revision = "0050"
down_revision = "0040"
branch_labels = None
depends_on = None

LISTS = (
    ("jobs", "version_id"),
    ("versions", "model_id"),
    ("models", "project_id"),
    ("datasets", "project_id"),
)


def upgrade() -> None:
    with outside_transaction():
        for table, column in LISTS:
            create_index(f"ix_{table}_{column}_id", table, [column, "id"])
            drop_index(f"ix_{table}_{column}", table)
        columns = ["project_id", "type", "id"]
        create_index("ix_events_project_id_type_id", "events", columns)


def downgrade() -> None:
    with outside_transaction():
        drop_index("ix_events_project_id_type_id", "events")
        for table, column in LISTS:
            create_index(f"ix_{table}_{column}", table, [column])
            drop_index(f"ix_{table}_{column}_id", table)
