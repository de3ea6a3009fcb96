"""Runs migrations on the database of FEWBITS_DATABASE_URL, or of `sqlalchemy.url` when a caller sets it."""

from alembic import context
from sqlalchemy import Connection, text

from app.db import keys, models, objects, operations, retention, webhooks  # noqa: F401 - registers the tables
from app.db.base import Base
from app.db.session import Database
from app.settings import Settings

LOCK = 0x46455742  # any number, the same for every migration of this service


def run() -> None:
    """Apply the migrations, one process at a time.

    On SQLite all of them in one transaction, on Postgres each in its own; so what is killed leaves nothing
    half done, but for what `migrations.live` does outside of transactions.
    """
    database = Database(context.config.get_main_option("sqlalchemy.url") or Settings().database)
    try:
        if database.engine.dialect.name == "sqlite":
            with database.writing() as session:
                _migrate(session.connection())
        else:
            with database.engine.connect() as connection:
                connection.execute(text("SET statement_timeout = 0"))  # a large table's index takes long
                connection.execute(text(f"SELECT pg_advisory_lock({LOCK})"))
                connection.commit()
                _migrate(connection)
    finally:
        database.dispose()  # gives the lock back, also after an error


def _migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        render_as_batch=connection.dialect.name == "sqlite",
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
