"""remember what results depend on, so that they serve again."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
KEYS = (
    ("versions", "content_key"),
    ("datasets", "content_key"),
    ("jobs", "prepare_key"),
    ("candidates", "build_key"),
)


def upgrade() -> None:
    op.create_table(
        "hosts",
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("environment", JSON, nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name=op.f("pk_hosts")),
    )
    for table, column in KEYS:
        op.add_column(table, sa.Column(column, sa.String(length=64), nullable=True))
    for table in ("versions", "datasets"):
        op.add_column(table, sa.Column("inspected_by", sa.String(length=64), nullable=True))
    op.add_column("candidates", sa.Column("reused", JSON, nullable=True))


def downgrade() -> None:
    op.drop_column("candidates", "reused")
    for table in ("versions", "datasets"):
        op.drop_column(table, "inspected_by")
    for table, column in KEYS:
        op.drop_column(table, column)
    op.drop_table("hosts")
