"""say of each job whose model it takes, so that a model's jobs are found without its versions."""

import sqlalchemy as sa
from alembic import op

from migrations.batches import batches

revision = "0051"
down_revision = "0050"
branch_labels = None
depends_on = None

FILL = sa.text(
    "UPDATE jobs SET model_id = (SELECT model_id FROM versions WHERE versions.id = jobs.version_id) "
    "WHERE id BETWEEN :first AND :last"
)


def upgrade() -> None:
    op.add_column("jobs", sa.Column("model_id", sa.String(length=40), nullable=True))
    with op.get_context().autocommit_block():
        for batch in batches("jobs"):
            op.get_bind().execute(FILL, batch)
        op.create_index("ix_jobs_model_id_id", "jobs", ["model_id", "id"], postgresql_concurrently=True)


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index("ix_jobs_model_id_id", "jobs", postgresql_concurrently=True)
    op.drop_column("jobs", "model_id")
