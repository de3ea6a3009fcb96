"""Changing tables while others work with them: outside a transaction, in steps that can be done again.

What is killed in here has done some steps and is not written down as done, so it runs again from its first
step: a migration that takes `outside_transaction` does nothing else, and its steps may find their work done.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from alembic import op


@contextmanager
def outside_transaction() -> Iterator[None]:
    """Statements that commit one by one; on SQLite, where nobody else writes meanwhile, all with the rest."""
    context = op.get_context()
    if context.dialect.name == "sqlite":
        yield
        return
    with context.autocommit_block():
        yield


def create_index(name: str, table: str, columns: Sequence[str], **options: Any) -> None:  # noqa: ANN401 - alembic's
    """An index that is built while others write; what a killed build has left is invalid, and dropped."""
    drop_index(name, table)
    op.create_index(name, table, columns, postgresql_concurrently=True, **options)


def drop_index(name: str, table: str) -> None:
    """Drop an index, if it is there, while others write."""
    op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
