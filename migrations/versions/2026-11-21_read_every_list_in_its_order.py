"""read every list in its order: an index that ends in the id replaces the one without."""

from alembic import op

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
    with op.get_context().autocommit_block():
        for table, column in LISTS:
            op.create_index(f"ix_{table}_{column}_id", table, [column, "id"], postgresql_concurrently=True)
            op.drop_index(f"ix_{table}_{column}", table, postgresql_concurrently=True)
        columns = ["project_id", "type", "id"]
        op.create_index("ix_events_project_id_type_id", "events", columns, postgresql_concurrently=True)


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index("ix_events_project_id_type_id", "events", postgresql_concurrently=True)
        for table, column in LISTS:
            op.create_index(f"ix_{table}_{column}", table, [column], postgresql_concurrently=True)
            op.drop_index(f"ix_{table}_{column}_id", table, postgresql_concurrently=True)
