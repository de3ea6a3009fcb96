"""The service as it runs on a server, out of parts that can be killed one by one and come back.

Postgres keeps what it acknowledged when it is killed. All listen on sockets in folders of their own, so that
who comes back finds its place free.
"""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg

from app.admin.access import bootstrap
from app.db.session import Database
from app.embedded import children, lineup, redis_server
from app.embedded import home as log_file
from app.embedded.children import Child
from app.embedded.tether import Owner, tether
from app.settings import Settings
from tests import servers
from tests.conftest import migrate
from tests.waiting import POLL_SECONDS, SECONDS, in_time

ROOT = Path(__file__).parents[2]
API_SOCKET = "api.sock"
MIGRATED = "migrated"
DELIVERED = "SELECT count(*) FROM deliveries WHERE state = 'delivered'"
READY = " ready."  # what a worker says
STOP_SECONDS = 60.0
LOOK_SECONDS = 0.5
LONGEST_SECONDS = 3600  # hundreds of jobs on a busy host
ENGINE_QUEUES = "inspect,default,benchmark"
CONTROL_QUEUES = "control,webhooks"
CONTROL_THREADS = 8
BUILDS_AT_ONCE = 2
LASTING = {"fsync": "off", "synchronous_commit": "on", "full_page_writes": "off", "max_connections": "200"}


class Postgres:
    """A server in a folder, on a socket in that folder."""

    def __init__(self, folder: Path, owner: Owner | None) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.inside: Sequence[str] = ()
        self._owner = owner
        self._password = secrets.token_hex(16)
        self.binaries = servers._binaries(folder, owner)
        servers._initialize(self.binaries, folder, owner, self._password)
        self._process: subprocess.Popen[bytes] | None = None
        self._migrated = False

    @property
    def socket(self) -> Path:
        """Where the server listens."""
        return self.folder / ".s.PGSQL.5432"

    def url(self, database: str, host: str = "") -> str:
        """SQLAlchemy's URL of a database, by the socket or by another way that leads to it."""
        return f"postgresql+psycopg://postgres:{self._password}@/{database}?host={host or self.folder}"

    def dsn(self, database: str) -> str:
        """The same for psql, pg_dump and the like."""
        return self.url(database).replace("+psycopg", "")

    def start(self) -> None:
        """Start, or start again after a kill, and wait until it answers."""
        options = [word for name, value in LASTING.items() for word in ("-c", f"{name}={value}")]
        where = ["-D", str(self.data), "-k", str(self.folder), "-h", ""]
        command = [str(self.binaries / "postgres"), *where, *options]

        def answers() -> bool:
            if self._process is None or self._process.poll() is not None:  # its backends were not yet gone
                if self._process:
                    self._process.communicate()  # closes the pipe that ties it
                tied = [*self.inside, *tether(command, death=signal.SIGQUIT, owner=self._owner)]
                self._process = servers._popen(tied, self.folder, "postgres")
                time.sleep(POLL_SECONDS)
            with suppress(psycopg.OperationalError):
                psycopg.connect(self.dsn("postgres")).close()
                return True
            return False

        assert in_time(answers), (self.folder / "postgres.log").read_text()

    def kill(self) -> None:
        """SIGKILL: its backends notice and end by themselves."""
        assert self._process
        self._process.kill()
        self._process.communicate()

    def stop(self) -> None:
        """End the server."""
        if self._process:
            servers._stop(self._process, signal.SIGINT)

    def create(self, database: str) -> None:
        """Make a database as the migrations leave it; they run once."""
        if not self._migrated:
            self.execute(f"CREATE DATABASE {MIGRATED}")
            migrate(self.url(MIGRATED))
            self._migrated = True
        self.execute(f"CREATE DATABASE {database} TEMPLATE {MIGRATED}")

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement outside of any transaction."""
        with psycopg.connect(self.dsn(database), autocommit=True) as connection:
            found = connection.execute(statement.encode())
            return found.fetchall() if found.description else []


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server that runs."""
    with ExitStack() as stack:
        owner = servers._unprivileged()
        server = Postgres(stack.enter_context(servers._folder(owner)), owner)
        server.start()
        stack.callback(server.stop)
        yield server


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a service is made of; `inside` starts what enters the place where its processes run."""

    engines: int = 2
    worker: str = "tests.faults.playing"
    api: str = "app.listen"
    processes: int = 1  # of the API
    inside: Sequence[str] = ()
    restored: bool = False
    more: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Cluster:
    """The parts of one service."""

    home: Path
    postgres: Postgres
    database: str
    environment: dict[str, str]
    shape: Shape
    broker: Child
    api: Child
    control: Child
    engines: list[Child] = field(default_factory=list)
    down: list[Child] = field(default_factory=list)

    @property
    def key(self) -> str:
        """The admin key."""
        return (self.home / "admin.key").read_text().strip()

    @property
    def database_url(self) -> str:
        """Where the records are."""
        return self.postgres.url(self.database)

    @property
    def api_socket(self) -> Path:
        """Where the API listens."""
        return self.home / API_SOCKET

    def client(self, seconds: float = SECONDS) -> httpx.Client:
        """A client with the admin key."""
        headers = {"Authorization": f"Bearer {self.key}"}
        transport = httpx.HTTPTransport(uds=str(self.api_socket), verify=False)  # TLS takes long to load
        return httpx.Client(transport=transport, base_url="http://api", headers=headers, timeout=seconds)

    def is_ready(self) -> bool:
        """Whether the API says that it can take requests."""
        with self.client() as http, suppress(httpx.TransportError):
            return http.get("/readyz").status_code == httpx.codes.OK
        return False

    def delivered(self) -> int:
        """How many webhooks their receivers took."""
        ((number,),) = self.postgres.execute(DELIVERED, self.database)
        return int(number)

    @property
    def parts(self) -> list[Child]:
        """All that is kept running."""
        return [self.broker, self.api, *self.engines, self.control]

    def keep_up(self) -> None:
        """Start what is dead, as a supervisor does; what is `down` on purpose stays so."""
        for part in self.parts:
            if part not in self.down:
                children.revive(part)

    def until(self, condition: Callable[[], object], fault: Callable[[], object] = lambda: None) -> bool:
        """Keep everything up, with this fault at every look, until the condition holds."""

        def look() -> object:
            time.sleep(LOOK_SECONDS)
            self.keep_up()
            fault()
            return condition()

        return in_time(look, LONGEST_SECONDS)

    def engine(self, name: str, **environment: str) -> Child:
        """One more worker that inspects, builds and measures; it starts when the cluster is kept up."""
        worker = lineup.worker(self.home, name, ENGINE_QUEUES, BUILDS_AT_ONCE)
        command = [self.shape.worker if word == "worker.tasks" else word for word in worker.command]
        worker.command = [*self.shape.inside, *with_environment(command, self.environment | environment)]
        self.engines.append(worker)
        return worker

    def restart(self, worker: Child) -> None:
        """Ask a worker to stop, wait until it has, start it again, and wait until it takes work."""
        assert worker.process
        process, before = worker.process, self.log_of(worker).count(READY)
        os.killpg(process.pid, signal.SIGTERM)
        assert in_time(lambda: process.poll() is not None)
        assert self.until(lambda: self.log_of(worker).count(READY) > before)

    def stop(self) -> None:
        """End everything; who is stopped by a signal goes on first."""
        for part in self.parts:
            if part.process and part.process.poll() is None:
                os.killpg(part.process.pid, signal.SIGCONT)
        children.end([*self.engines, self.control, self.api], STOP_SECONDS)
        children.end([self.broker], STOP_SECONDS)

    def log_of(self, part: Child) -> str:
        """All that a part has printed."""
        return part.log.read_text(errors="replace")


@contextmanager
def cluster(home: Path, server: Postgres, shape: Shape = Shape()) -> Iterator[Cluster]:
    """A service of an API, a control worker and some engine workers, on a database of its own."""
    if not shape.restored:
        _make_database(home, server)
    found = _assemble(home, server, shape)
    for number in range(shape.engines):
        found.engine(f"engine{number}")
    try:
        children.revive(found.broker)
        assert redis_server.wait(home, SECONDS)
        assert found.until(found.is_ready), found.log_of(found.api)
        yield found
    finally:
        found.stop()
        server.execute(f"DROP DATABASE {found.database} WITH (FORCE)")


def _assemble(home: Path, server: Postgres, shape: Shape) -> Cluster:
    database = name_of(home)
    environment = {
        "FEWBITS_HOME": str(home),
        "FEWBITS_DATABASE_URL": server.url(database),
        "FEWBITS_REDIS_URL": redis_server.url(home),
        "FEWBITS_SECRET_KEY": "A" * 43 + "=",
        "FEWBITS_WEBHOOK_ALLOW": "127.0.0.0/8",
        "FEWBITS_SANDBOX_MEMORY": str(512 << 20),
        "ORT_DISABLE_TELEMETRY": "1",
        **shape.more,
    }
    listen = [sys.executable, "-m", shape.api, f"--uds={home / API_SOCKET}", f"--processes={shape.processes}"]
    broker, web = lineup.broker(home, home), Child("api", listen, log_file.fresh_log(home, "api"))
    control = lineup.worker(home, "control", CONTROL_QUEUES, CONTROL_THREADS)
    for part in (web, control):
        part.command = [*shape.inside, *with_environment(part.command, environment)]
    return Cluster(home, server, database, environment, shape, broker, web, control)


def name_of(home: Path) -> str:
    """The name of the database of the service in this folder."""
    return f"fewbits_{home.name.replace('-', '_')}"


def _make_database(home: Path, server: Postgres) -> None:
    server.create(name_of(home))
    database = Database(server.url(name_of(home)))
    try:
        bootstrap(Settings(home=home), database)
    finally:
        database.dispose()


def with_environment(command: list[str], environment: dict[str, str]) -> list[str]:
    """The command with these variables, and none of the tests' own settings."""
    ours = [name for name in os.environ if name.startswith("FEWBITS_")]
    without = [word for name in ours for word in ("-u", name)]
    return [
        "env",
        "-C",
        str(ROOT),
        *without,
        *(f"{name}={value}" for name, value in environment.items()),
        *command,
    ]


def children_of(worker: Child) -> dict[int, str]:
    """The sandboxed children of a worker: process id to the id of the step that each works on."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if worker.process and parent == worker.process.pid:
                found[int(folder.name)] = (folder / "cwd").readlink().name.rpartition("-")[0]
    return {pid: step for pid, step in found.items() if step.startswith("stp_")}
