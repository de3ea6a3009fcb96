"""say who did what."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("events", sa.Column("actor", sa.String(length=40), nullable=False, server_default="system"))


def downgrade() -> None:
    op.drop_column("events", "actor")
