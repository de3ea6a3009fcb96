"""find what may expire without reading what has expired."""

import sqlalchemy as sa

from migrations.live import create_index, drop_index, outside_transaction

revision = "0103"
down_revision = "0102"
branch_labels = None
depends_on = None

MAY_EXPIRE = {
    "versions": "expired_at IS NULL AND deleted_at IS NULL",
    "datasets": "expired_at IS NULL AND deleted_at IS NULL",
    "artifacts": "kind NOT IN ('outcomes', 'flips', 'layers')",
}


def upgrade() -> None:
    with outside_transaction():
        for table, which in MAY_EXPIRE.items():
            only = {"postgresql_where": sa.text(which), "sqlite_where": sa.text(which)}
            create_index(f"ix_{table}_may_expire", table, ["project_id", "id"], **only)


def downgrade() -> None:
    with outside_transaction():
        for table in MAY_EXPIRE:
            drop_index(f"ix_{table}_may_expire", table)
