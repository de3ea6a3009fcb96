"""Before the service starts: bring the database up to date, and see to it that there is an admin key."""

from pathlib import Path

from alembic import command
from alembic.config import Config

from app.admin.access import bootstrap
from app.db.session import Database
from app.settings import Settings

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> None:
    """Both in one process, because starting one takes longer than either."""
    command.upgrade(Config(ROOT / "alembic.ini"), "head")
    settings = Settings()
    database = Database(settings.database)
    bootstrap(settings, database)
    database.dispose()


if __name__ == "__main__":
    main()
