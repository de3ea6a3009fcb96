"""find a project's jobs by state, and the steps that were lost, without reading every row."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

LOST = sa.text("losses > 0")


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.create_index(
            "ix_jobs_project_id_state_id", "jobs", ["project_id", "state", "id"], postgresql_concurrently=True
        )
        op.create_index(
            "ix_steps_losses",
            "steps",
            ["losses"],
            postgresql_where=LOST,
            sqlite_where=LOST,
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index("ix_steps_losses", "steps", postgresql_concurrently=True)
        op.drop_index("ix_jobs_project_id_state_id", "jobs", postgresql_concurrently=True)
