"""Filling columns of a table that may hold millions of rows, while others work with it."""

from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

ROWS = 10_000


def batches(table: str) -> Iterator[dict[str, str]]:
    """The first and the last id of each ten thousand rows, by id; for `live.outside_transaction`."""
    following = sa.text(f"SELECT id FROM {table} WHERE id > :last ORDER BY id LIMIT {ROWS}")  # noqa: S608 - our name
    last = ""
    while ids := op.get_bind().scalars(following, {"last": last}).all():
        yield {"first": ids[0], "last": ids[-1]}
        last = ids[-1]
