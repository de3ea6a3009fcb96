"""remember what expired versions were, and when a job last took one as a candidate: no index finds that."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0100"
down_revision = "0099"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("versions", sa.Column("imported_at", sa.BigInteger(), nullable=True))
    op.add_column("versions", sa.Column("expired_at", sa.BigInteger(), nullable=True))
    op.add_column("versions", sa.Column("expired_files", JSON, nullable=True))


def downgrade() -> None:
    for column in ("expired_files", "expired_at", "imported_at"):
        op.drop_column("versions", column)
