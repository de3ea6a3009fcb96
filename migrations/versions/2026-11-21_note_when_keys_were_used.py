"""note when keys were used, and let them open browser sessions."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("last_used_at", sa.BigInteger(), nullable=True))
    op.create_table(
        "browser_sessions",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_browser_sessions_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_browser_sessions")),
    )
    for column in ("expires_at", "key_id"):
        op.create_index(op.f(f"ix_browser_sessions_{column}"), "browser_sessions", [column])


def downgrade() -> None:
    op.drop_table("browser_sessions")
    op.drop_column("api_keys", "last_used_at")
