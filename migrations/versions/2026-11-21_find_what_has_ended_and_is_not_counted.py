"""find what has ended and is not counted."""

import sqlalchemy as sa

from migrations.live import create_index, drop_index, outside_transaction

revision = "0091"
down_revision = "0090"
branch_labels = None
depends_on = None

UNTALLIED = sa.text("finished_at IS NOT NULL AND NOT tallied")
COUNTED = ("steps", "jobs")


def upgrade() -> None:
    with outside_transaction():
        for table in COUNTED:
            only = {"postgresql_where": UNTALLIED, "sqlite_where": UNTALLIED}
            create_index(f"ix_{table}_untallied", table, ["finished_at"], **only)


def downgrade() -> None:
    with outside_transaction():
        for table in COUNTED:
            drop_index(f"ix_{table}_untallied", table)
