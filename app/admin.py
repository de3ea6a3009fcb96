"""The operator's commands: `python -m app.admin bootstrap | create-key | create-project`."""

import argparse
import os
from pathlib import Path

from app.db.session import Database
from app.services import keys, projects
from app.settings import Settings

DEFAULT_PROJECT = "default"


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m app.admin", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("bootstrap", help="make the default project and its admin key, if there is none")
    create = commands.add_parser("create-key", help="make a key and print it, this once")
    create.add_argument("--project", default=DEFAULT_PROJECT)
    create.add_argument("--name", default="key")
    create.add_argument("--scopes", nargs="+", default=["read", "write"], choices=keys.SCOPES)
    project = commands.add_parser("create-project", help="make a project and print its first admin key")
    project.add_argument("name")
    arguments = parser.parse_args()
    settings = Settings()
    match arguments.command:
        case "bootstrap":
            bootstrap(settings)
        case "create-project":
            print(create_key(settings, arguments.name, "first", keys.FIRST_SCOPES))  # noqa: T201
        case "create-key":
            print(create_key(settings, arguments.project, arguments.name, tuple(arguments.scopes)))  # noqa: T201


def bootstrap(settings: Settings) -> Path:
    """Make the default project and write its admin key to the home folder (0600), once."""
    path = settings.home / "admin.key"
    if path.exists():
        return path
    settings.home.mkdir(parents=True, exist_ok=True)
    text = create_key(settings, DEFAULT_PROJECT, "admin", keys.SCOPES)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
    return path


def create_key(settings: Settings, project: str, name: str, scopes: tuple[str, ...]) -> str:
    """Make a key of a project, which is made too when there is none of this name."""
    database = Database(settings.database)
    try:
        with database.writing() as db:
            return keys.create(db, projects.named(db, project), name, scopes).text
    finally:
        database.dispose()


if __name__ == "__main__":
    main()
