"""say of each job whose model it takes, so that a model's jobs are found without its versions."""

import sqlalchemy as sa
from alembic import op

revision = "0051"
down_revision = "0050"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("model_id", sa.String(length=40), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "model_id")
