"""say what held each step's engine calls."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0061"
down_revision = "0060"
branch_labels = None
depends_on = None
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("steps", sa.Column("sandbox", JSON, nullable=True))


def downgrade() -> None:
    op.drop_column("steps", "sandbox")
