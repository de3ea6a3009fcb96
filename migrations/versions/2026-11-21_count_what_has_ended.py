"""count what has ended: totals for metrics outlive the rows, and dear figures are kept."""

import sqlalchemy as sa
from alembic import op

revision = "0090"
down_revision = "0080"
branch_labels = None
depends_on = None

COUNTED = ("jobs", "steps")  # the order of locks


def upgrade() -> None:
    op.create_table(
        "tallies",
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("outcome", sa.String(length=20), nullable=False),
        sa.Column("code", sa.String(length=40), nullable=False),
        sa.Column("up_to", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("losses", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "outcome", "code", "up_to", name=op.f("pk_tallies")),
    )
    op.create_table(
        "measures",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.Column("measured_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_measures")),
    )
    for table in COUNTED:
        op.add_column(table, sa.Column("tallied", sa.Boolean(), nullable=True))


def downgrade() -> None:
    for table in COUNTED:
        op.drop_column(table, "tallied")
    op.drop_table("measures")
    op.drop_table("tallies")
