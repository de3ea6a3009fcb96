"""find results by what they depend on."""

from migrations.live import create_index, drop_index, outside_transaction

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KEYS = (
    ("versions", "content_key"),
    ("datasets", "content_key"),
    ("jobs", "prepare_key"),
    ("candidates", "build_key"),
)


def upgrade() -> None:
    with outside_transaction():
        for table, column in KEYS:
            create_index(f"ix_{table}_{column}", table, [column])


def downgrade() -> None:
    with outside_transaction():
        for table, column in KEYS:
            drop_index(f"ix_{table}_{column}", table)
