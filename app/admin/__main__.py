"""Runs one of the operator's commands."""

import argparse
import sys

from sqlalchemy.exc import SQLAlchemyError

from app.admin import access, doctor, work
from app.admin.answer import Answer, Refused
from app.db.session import Database
from app.domain.errors import DomainError
from app.settings import Settings


def main() -> int:
    """0: done. 1: not done, or not all well."""
    arguments = _parser().parse_args()
    settings = Settings()
    database = Database(settings.database)
    try:
        answer: Answer = arguments.run(settings, database, arguments)
    except (Refused, DomainError) as error:
        return _refuse(str(error))
    except SQLAlchemyError as error:
        return _refuse(f"The database refused: {str(error).splitlines()[0]}. Try: python -m app.admin doctor")
    finally:
        database.dispose()
    print(answer.shown(as_json=arguments.json))  # noqa: T201 - the operator's terminal
    return 0 if answer.ok else 1


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
