"""say which workers and hosts take nothing more."""

import sqlalchemy as sa
from alembic import op

revision = "0092"
down_revision = "0091"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "drains",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("drained_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_drains")),
    )


def downgrade() -> None:
    op.drop_table("drains")
