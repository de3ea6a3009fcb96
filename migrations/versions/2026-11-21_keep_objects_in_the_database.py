"""keep objects in the database, for hosts that share no other store."""

import sqlalchemy as sa
from alembic import op

revision = "0080"
down_revision = "0071"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "stored_objects",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("visible", sa.Boolean(), nullable=False),
        sa.Column("written_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_stored_objects")),
    )
    op.create_index("ix_stored_objects_visible_written_at", "stored_objects", ["visible", "written_at"])
    op.create_table(
        "stored_chunks",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["key"], ["stored_objects.key"], name=op.f("fk_stored_chunks_key_stored_objects")
        ),
        sa.PrimaryKeyConstraint("key", "start", name=op.f("pk_stored_chunks")),
    )
    if op.get_context().dialect.name == "postgresql":  # models do not shrink; trying costs more than writing
        op.execute("ALTER TABLE stored_chunks ALTER COLUMN data SET STORAGE EXTERNAL")


def downgrade() -> None:
    op.drop_table("stored_chunks")
    op.drop_table("stored_objects")
