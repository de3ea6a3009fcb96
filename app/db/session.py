"""Sessions, and the only commit in the project.

`reading()` is for looking, `writing()` for one transaction. What must happen once the transaction has been
committed, and only then, is registered with `after_commit`.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from time import monotonic
from typing import Any

from pydantic_core import from_json
from sqlalchemy import Connection, Dialect, Engine, QueuePool, create_engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

log = logging.getLogger(__name__)
CALLBACKS = "after_commit"
PROJECT = "project"
STATEMENT_SECONDS = 30
SILENT_SECONDS = 30  # who stands still in a transaction keeps its locks for no longer than a lease
CONNECTIONS = 30
RESTED_SECONDS = 1.0
TENANT = "fewbits_tenant"  # the role that policies of row-level security hold; migrations make it
TAKE_ROLE = text("SELECT set_config('role', :role, true)")
OWN_ROWS = text("SELECT set_config('role', :role, true), set_config('fewbits.project_id', :project, true)")
ESCAPED_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


_project: ContextVar[str | None] = ContextVar("project", default=None)


class Unstorable(ValueError):
    """A text holds a NUL."""


class Database:
    """One process's engine. Made where it is used, never before a fork."""

    def __init__(self, url: str) -> None:
        self.engine = _connect(url)
        # Where BEGIN is ours to say, nothing has to be told: not saying it is enough.
        begins = self.engine.dialect.name != "sqlite"
        self._at_once = self.engine.execution_options(isolation_level="AUTOCOMMIT") if begins else self.engine

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that is rolled back at the end."""
        with Session(self.engine, expire_on_commit=False) as session:
            self._begin(session, "BEGIN")
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction; commits at the end, then runs what `after_commit` registered."""
        with Session(self.engine, expire_on_commit=False) as session:
            self._begin(session, "BEGIN IMMEDIATE")  # a writer that starts as a reader can fail midway
            yield session
            session.commit()
        _run_callbacks(session)

    @contextmanager
    def glancing(self) -> Iterator[Session]:
        """A session without a transaction, for one look: it costs no round trips but its own."""
        with Session(self._at_once, expire_on_commit=False) as session:
            yield session

    def _begin(self, session: Session, statement: str) -> None:
        if self.engine.dialect.name == "sqlite":
            session.execute(text(statement))
        else:
            # On Postgres a session takes a connection with its first statement: one that had a connection
            # before it had a thread could wait for threads that wait for connections.
            session.info[PROJECT] = _project.get()

    def dispose(self) -> None:
        """Close every connection."""
        self.engine.dispose()


@event.listens_for(Session, "after_begin")
def _take_role(session: Session, _transaction: object, connection: Connection) -> None:
    project_id = session.info.get(PROJECT)
    if project_id is not None:
        connection.execute(OWN_ROWS, {"role": TENANT, "project": project_id})


@contextmanager
def within(project_id: str) -> Iterator[None]:
    """Transactions that begin in this block see and write the rows of this project alone, on Postgres.

    Statements name the project all the same: this is for the one that forgets to. A connection's user can
    leave the role at any time, so it is no defence against SQL from outside.
    """
    token = _project.set(project_id)
    try:
        yield
    finally:
        _project.reset(token)


@contextmanager
def across_projects(session: Session) -> Iterator[None]:
    """What this block asks within a transaction of one project is about all of them."""
    if _project.get() is None or session.get_bind().dialect.name == "sqlite":
        yield
        return
    session.execute(TAKE_ROLE, {"role": "none"})
    try:
        yield
    finally:
        with suppress(SQLAlchemyError):  # a transaction that failed takes no more, and ends with its role
            session.execute(TAKE_ROLE, {"role": TENANT})


def after_commit(session: Session, function: Callable[..., Any], *arguments: object) -> None:
    """Call the function after this transaction is committed; a rollback drops it."""
    session.info.setdefault(CALLBACKS, []).append((function, arguments))


def _run_callbacks(session: Session) -> None:
    for function, arguments in session.info.pop(CALLBACKS, []):
        try:
            function(*arguments)
        except Exception:
            log.exception("after the commit, %s%s failed", function, arguments)


def _connect(url: str) -> Engine:
    if url.startswith("sqlite"):
        # No bound on connections: a request holds one while it waits for a thread, and threads are bounded.
        engine = create_engine(
            url,
            connect_args={"timeout": STATEMENT_SECONDS},
            poolclass=QueuePool,
            max_overflow=-1,
            json_serializer=_as_text,
            json_deserializer=from_json,
            hide_parameters=True,
        )
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "before_cursor_execute", _refuse_nul)
        return engine
    engine = create_engine(
        url,
        json_deserializer=from_json,
        hide_parameters=True,  # an error's text is logged, and they hold what users sent
        pool_size=CONNECTIONS,
        max_overflow=0,  # what is more than the pool would be opened and closed for each request
        connect_args={
            "connect_timeout": 5,
            "tcp_user_timeout": 15_000,  # milliseconds: shorter than a lease, so that a heartbeat cannot hang
            "options": f"-c statement_timeout={STATEMENT_SECONDS}s -c lock_timeout={STATEMENT_SECONDS}s "
            f"-c idle_in_transaction_session_timeout={SILENT_SECONDS}s",
        },
    )
    event.listen(engine, "checkin", _note_return)
    event.listen(engine, "checkout", partial(_ping_when_rested, engine.dialect))
    return engine


def _note_return(_connection: object, record: ConnectionPoolEntry) -> None:
    record.info["returned"] = monotonic()


def _ping_when_rested(
    dialect: Dialect, connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: object
) -> None:
    """Replace a connection that died while it rested; one that was used just now needs no round trip."""
    if monotonic() - record.info.get("returned", 0.0) < RESTED_SECONDS:
        return
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        raise DisconnectionError from error


def _as_text(value: object) -> str:
    """JSON unescaped, so that SQLite refuses half of a surrogate pair, which nobody could read again.

    A NUL stands in it as it is, to be refused with the others.
    """
    return ESCAPED_NUL.sub("\\1\0", json.dumps(value, ensure_ascii=False))


def _refuse_nul(_connection: object, _cursor: object, _statement: str, parameters: Any, *_: object) -> None:  # noqa: ANN401 - one row of values, or a list of rows
    """SQLite would take what Postgres does not."""
    for row in parameters if isinstance(parameters, list) else [parameters]:
        if any(isinstance(value, str) and "\0" in value for value in row):
            raise Unstorable


def _set_up_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's connection
    connection.isolation_level = None  # BEGIN is ours to say
    # WAL lets readers go on while one writes; FULL keeps acknowledged work through a power cut.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
