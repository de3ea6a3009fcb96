"""Projects and keys."""

import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from app.admin.answer import Answer, Commands
from app.db.session import Database
from app.domain.quota import Quotas
from app.services import keys, projects
from app.services.keys import Issued
from app.settings import Settings

DEFAULT_PROJECT = "default"
LONGEST_NAME = 200


def add_commands(commands: Commands, shared: ArgumentParser) -> None:
    """How they are called."""
    first = commands.add_parser(
        "bootstrap", parents=[shared], help="make the default project and its admin key, if there is none"
    )
    first.set_defaults(run=_bootstrap)
    key = commands.add_parser("create-key", parents=[shared], help="make a key and print it, this once")
    key.add_argument(
        "--project", type=_name, default=DEFAULT_PROJECT, help="its name; made when there is none"
    )
    key.add_argument("--name", type=_name, default="key")
    key.add_argument("--scopes", nargs="+", default=["read", "write"], choices=keys.SCOPES)
    key.set_defaults(run=_create_key)
    project = commands.add_parser(
        "create-project", parents=[shared], help="make a project and print its first admin key"
    )
    project.add_argument("name", type=_name)
    project.set_defaults(run=_create_project)


def _name(text: str) -> str:
    if not 0 < len(text) <= LONGEST_NAME:
        raise ArgumentTypeError(f"a name has 1 to {LONGEST_NAME} characters, this has {len(text)}")
    return text


def bootstrap(settings: Settings, database: Database) -> Path:
    """Make the default project and write its admin key to the home folder (0600), once."""
    path = settings.home / "admin.key"
    if path.exists():
        return path
    settings.home.mkdir(parents=True, exist_ok=True)
    text = create_key(database, DEFAULT_PROJECT, "admin", keys.SCOPES).text
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
    return path


def create_key(database: Database, project: str, name: str, scopes: tuple[str, ...]) -> Issued:
    """Make a key of a project, which is made too when there is none of this name."""
    with database.writing() as db:
        return keys.create(db, projects.named(db, project), name, scopes)


def _bootstrap(settings: Settings, database: Database, _arguments: Namespace) -> Answer:
    path = bootstrap(settings, database)
    return Answer(f"The admin key is in {path}", {"path": str(path)})


def _create_key(_settings: Settings, database: Database, arguments: Namespace) -> Answer:
    return _issued(create_key(database, arguments.project, arguments.name, tuple(arguments.scopes)))


def _create_project(_settings: Settings, database: Database, arguments: Namespace) -> Answer:
    with database.writing() as db:
        return _issued(
            keys.create(db, projects.create(db, arguments.name, Quotas()), "first", keys.FIRST_SCOPES)
        )


def _issued(issued: Issued) -> Answer:
    key = issued.key
    facts = {"key": issued.text, "id": key.id, "project": key.project_id, "scopes": key.scopes}
    return Answer(issued.text, facts)
