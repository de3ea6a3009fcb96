"""give projects quotas, and an end."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0003"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("projects", sa.Column("quotas", JSON, nullable=False, server_default="{}"))
    op.add_column("projects", sa.Column("closed_at", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("projects", "closed_at")
    op.drop_column("projects", "quotas")
