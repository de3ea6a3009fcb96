"""say how long each project keeps what."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0099"
down_revision = "0098"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("projects", sa.Column("retention", JSON, nullable=False, server_default="{}"))


def downgrade() -> None:
    op.drop_column("projects", "retention")
