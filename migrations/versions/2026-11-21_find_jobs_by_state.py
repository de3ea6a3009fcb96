"""find a project's jobs by state, and the steps that were lost, without reading every row."""

import sqlalchemy as sa

from migrations.live import create_index, drop_index, outside_transaction

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

LOST = sa.text("losses > 0")


def upgrade() -> None:
    with outside_transaction():
        create_index("ix_jobs_project_id_state_id", "jobs", ["project_id", "state", "id"])
        create_index("ix_steps_losses", "steps", ["losses"], postgresql_where=LOST, sqlite_where=LOST)


def downgrade() -> None:
    with outside_transaction():
        drop_index("ix_steps_losses", "steps")
        drop_index("ix_jobs_project_id_state_id", "jobs")
