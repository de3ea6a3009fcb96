"""keep the end of what the engine printed in each attempt of a step."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "step_logs",
        sa.Column("step_id", sa.String(length=40), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["step_id"], ["steps.id"], name=op.f("fk_step_logs_step_id")),
        sa.PrimaryKeyConstraint("step_id", "attempt", name=op.f("pk_step_logs")),
    )


def downgrade() -> None:
    op.drop_table("step_logs")
