"""keep each job's conclusion in a column, so that a list can ask for it."""

import sqlalchemy as sa
from alembic import op

from migrations.batches import batches

revision = "0052"
down_revision = "0051"
branch_labels = None
depends_on = None

FILL = sa.text(
    "UPDATE jobs SET conclusion = verdict ->> 'conclusion' "
    "WHERE id BETWEEN :first AND :last AND finished_at IS NOT NULL AND verdict IS NOT NULL"
)


def upgrade() -> None:
    op.add_column("jobs", sa.Column("conclusion", sa.String(length=20), nullable=True))
    with op.get_context().autocommit_block():
        for batch in batches("jobs"):
            op.get_bind().execute(FILL, batch)
        columns = ["project_id", "conclusion", "id"]
        op.create_index("ix_jobs_project_id_conclusion_id", "jobs", columns, postgresql_concurrently=True)


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index("ix_jobs_project_id_conclusion_id", "jobs", postgresql_concurrently=True)
    op.drop_column("jobs", "conclusion")
