"""keep each job's conclusion in a column, so that a list can ask for it."""

import sqlalchemy as sa
from alembic import op

revision = "0052"
down_revision = "0051"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("conclusion", sa.String(length=20), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "conclusion")
