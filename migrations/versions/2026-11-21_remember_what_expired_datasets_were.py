"""remember what expired datasets were."""

import sqlalchemy as sa
from alembic import op

revision = "0101"
down_revision = "0100"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("datasets", sa.Column("expired_at", sa.BigInteger(), nullable=True))
    op.add_column("datasets", sa.Column("expired_sha256", sa.String(length=64), nullable=True))


def downgrade() -> None:
    for column in ("expired_sha256", "expired_at"):
        op.drop_column("datasets", column)
