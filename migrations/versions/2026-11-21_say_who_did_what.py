"""say who did what, and list it by project."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("events", sa.Column("actor", sa.String(length=40), nullable=False, server_default="system"))
    with op.get_context().autocommit_block():
        op.create_index(
            "ix_events_project_id_id", "events", ["project_id", "id"], postgresql_concurrently=True
        )
        op.drop_index(op.f("ix_events_project_id"), table_name="events", postgresql_concurrently=True)


def downgrade() -> None:
    op.create_index(op.f("ix_events_project_id"), "events", ["project_id"])
    op.drop_index("ix_events_project_id_id", table_name="events")
    op.drop_column("events", "actor")
