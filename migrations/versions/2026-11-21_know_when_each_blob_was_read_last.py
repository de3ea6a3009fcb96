"""know when each blob was read last, and which are damaged."""

import sqlalchemy as sa
from alembic import op

revision = "0095"
down_revision = "0094"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("blobs", sa.Column("checked_at", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("blobs", sa.Column("damaged_at", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("blobs", "damaged_at")
    op.drop_column("blobs", "checked_at")
