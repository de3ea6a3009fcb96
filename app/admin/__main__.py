"""Runs one of the operator's commands."""

import argparse
import sys

from pydantic import ValidationError
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from app.admin import access, doctor, work
from app.admin.answer import Answer, Refused
from app.db.session import Database
from app.domain.errors import DomainError
from app.settings import Settings, faults

NO_DATABASE = "FEWBITS_DATABASE_URL is no URL of a database; use postgresql+psycopg://… or sqlite:///…"


def main() -> int:
    """0: done. 1: not done, or not all well. 2: no such command."""
    arguments = _parser().parse_args()
    try:
        answer = _ran(arguments)
    except ValidationError as error:
        return _refuse(faults(error))
    except ArgumentError:  # its text may hold the password
        return _refuse(NO_DATABASE)
    except SQLAlchemyError as error:
        return _refuse(f"The database refused: {str(error).splitlines()[0]}. Try: python -m app.admin doctor")
    except (Refused, DomainError, OSError, ValueError) as error:
        return _refuse(str(error))
    print(answer.shown(as_json=arguments.json))  # noqa: T201 - the operator's terminal
    return 0 if answer.ok else 1


def _ran(arguments: argparse.Namespace) -> Answer:
    settings = Settings()
    database = Database(settings.database)
    try:
        answer: Answer = arguments.run(settings, database, arguments)
    finally:
        database.dispose()
    return answer


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="answer one JSON object")
    parser = argparse.ArgumentParser(prog="python -m app.admin", description="The operator's commands.")
    commands = parser.add_subparsers(dest="command", required=True)
    for part in (access, work, doctor):
        part.add_commands(commands, shared)
    return parser


def _refuse(reason: str) -> int:
    print(f"fewbits: {reason}", file=sys.stderr)  # noqa: T201 - the operator's terminal
    return 1


if __name__ == "__main__":
    sys.exit(main())
