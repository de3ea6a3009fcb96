"""find blobs to be read again without reading every row."""

from migrations.live import create_index, drop_index, outside_transaction

revision = "0096"
down_revision = "0095"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with outside_transaction():
        create_index("ix_blobs_checked_at", "blobs", ["checked_at"])


def downgrade() -> None:
    with outside_transaction():
        drop_index("ix_blobs_checked_at", "blobs")
