"""Runs migrations on the database of FEWBITS_DATABASE_URL, or of `sqlalchemy.url` when a caller sets it."""

from alembic import context
from sqlalchemy import text

from app.db import models, webhooks  # noqa: F401 - registers the tables
from app.db.base import Base
from app.db.session import Database
from app.settings import Settings

LOCK = 0x46455742  # any number, the same for every migration of this service


def run() -> None:
    """Apply the migrations in one transaction each, one process at a time."""
    url = context.config.get_main_option("sqlalchemy.url") or Settings().database
    database = Database(url)
    sqlite = database.engine.dialect.name == "sqlite"
    with database.engine.connect() as connection:
        if not sqlite:
            connection.execute(text(f"SELECT pg_advisory_lock({LOCK})"))
            connection.commit()
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            compare_type=True,
            render_as_batch=sqlite,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    database.dispose()


run()
