"""The embedded service as an operator meets it: started, refused, killed, stopped."""

import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.waiting import SECONDS, in_time

ROOT = Path(__file__).parent.parent.parent
SERVE = [sys.executable, "-m", "app.serve"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@dataclass(frozen=True)
class Running:
    """A service that is ready."""

    home: Path
    port: int
    supervisor: subprocess.Popen[str]
    said: str


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short one: the broker's socket lies in it, and a socket's path has at most 107 characters."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("home")) as service:
        yield service


def test_the_first_start_makes_a_key_for_its_owner_alone(service: Running) -> None:
    path = service.home / "admin.key"
    key = path.read_text().strip()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key in service.said
    assert get(service, "/v1/me", key)[0] == http.client.OK
    assert get(service, "/v1/me", key + "x")[0] == http.client.UNAUTHORIZED


def test_the_home_tells_clients_where_the_service_is(service: Running) -> None:
    assert (service.home / "url").read_text().strip() == f"http://127.0.0.1:{service.port}"


def test_the_first_start_makes_a_key_for_secrets_and_every_part_knows_it(service: Running) -> None:
    path = service.home / "secret.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().strip() not in service.said
    told = f"FEWBITS_SECRET_KEY={path.read_text().strip()}".encode()
    for part in ("app.listen", "engine@", "control@"):
        assert in_time(lambda part=part: len(running_as(service, part)) == 1)  # type: ignore[misc]
        [pid] = running_as(service, part)
        assert told in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def test_it_says_where_it_is_and_where_its_docs_are(service: Running) -> None:
    assert f"http://127.0.0.1:{service.port}/docs" in service.said
    assert get(service, "/docs")[0] == http.client.OK


def test_it_is_ready_with_a_broker_of_its_own(service: Running) -> None:
    def is_ready() -> bool:
        found = json.loads(get(service, "/readyz")[1])
        parts = (found["status"], found["database"], found["broker"], found["sandbox"].get("rlimits"))
        return parts == ("ok", True, True, True) and found["workers"] >= 2

    assert in_time(is_ready)


@pytest.mark.parametrize("part", ["app.listen", "engine@", "benchmark@", "control@", "redis.sock"])
def test_every_part_runs_and_knows_its_home(service: Running, part: str) -> None:
    assert in_time(lambda: running_as(service, part))


@pytest.mark.parametrize("part", ["app.listen", "engine@", "redis.sock"])
def test_what_is_killed_is_started_again(service: Running, part: str) -> None:
    assert in_time(lambda: len(running_as(service, part)) == 1)
    [old] = running_as(service, part)
    os.kill(old, signal.SIGKILL)
    assert in_time(lambda: running_as(service, part) not in ([], [old]))
    assert in_time(lambda: b'"ok"' in get(service, "/readyz")[1])


def test_a_second_service_on_the_same_home_is_refused(service: Running) -> None:
    code, said = refused(service.home, 0)
    assert code == 1
    assert str(service.home) in said
    assert "FEWBITS_HOME" in said


def test_a_taken_port_is_refused(service: Running, tmp_path: Path) -> None:
    code, said = refused(tmp_path, service.port)
    assert code == 1
    assert str(service.port) in said
    assert "FEWBITS_PORT" in said


def test_a_setting_that_does_not_fit_is_refused_by_its_name(tmp_path: Path) -> None:
    code, said = refused(tmp_path, 8000, FEWBITS_MAX_JSON_BYTES="a few")
    assert code == 1
    assert "FEWBITS_MAX_JSON_BYTES" in said
    assert "Traceback" not in said


def test_a_database_that_is_away_is_named(tmp_path: Path) -> None:
    code, said = refused(tmp_path, 0, FEWBITS_DATABASE_URL="postgresql+psycopg://nobody@127.0.0.1:9/none")
    assert code == 1
    assert "127.0.0.1" in said
    assert in_time(lambda: not processes(tmp_path))


def test_a_part_that_never_comes_up_ends_the_service_and_says_why(tmp_path: Path) -> None:
    code, said = refused(tmp_path, 0, FEWBITS_STORAGE_URL="tape:/dev/st0")
    assert code == 1
    assert "does not start" in said
    assert "tape" in said
    assert in_time(lambda: not processes(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as service:
        service.supervisor.send_signal(number)
        assert service.supervisor.wait(SECONDS) == 0
    assert in_time(lambda: not processes(tmp_path))
    assert not list((tmp_path / "tmp").iterdir())


def test_all_end_when_the_supervisor_is_killed_and_the_next_one_tidies_up(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        service.supervisor.kill()
        assert in_time(lambda: not processes(tmp_path))
    [left] = (tmp_path / "tmp").iterdir()
    with running(tmp_path) as again:
        assert (again.home / "admin.key").read_text().strip() not in again.said
        assert not left.exists()


@contextmanager
def running(home: Path) -> Iterator[Running]:
    """A service of its own, ready, and stopped at the end."""
    port = free_port()
    output = home / "said"
    with output.open("w") as said:
        supervisor = subprocess.Popen(
            SERVE, cwd=ROOT, env=environment(home, port), stdout=said, stderr=said, text=True, process_group=0
        )
    try:
        assert in_time(lambda: "Logs:" in output.read_text() or supervisor.poll() is not None)
        assert supervisor.poll() is None, output.read_text()
        yield Running(home, port, supervisor, output.read_text())
    finally:
        supervisor.terminate()
        supervisor.wait(SECONDS)


def refused(home: Path, port: int, **settings: str) -> tuple[int, str]:
    """The exit code of a service that does not start, and what it said."""
    done = subprocess.run(
        SERVE,
        cwd=ROOT,
        env=environment(home, port) | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return done.returncode, done.stdout


def environment(home: Path, port: int) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FEWBITS_")}
    temporary = home / "tmp"
    temporary.mkdir(exist_ok=True)
    return inherited | {"FEWBITS_HOME": str(home), "FEWBITS_PORT": str(port), "TMPDIR": str(temporary)}


def processes(home: Path) -> dict[int, str]:
    """The command lines of the processes that belong to this home, the supervisor aside."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            settings = (folder / "environ").read_bytes().split(b"\0")
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        # The broker writes its title over its environment; its socket is in this home's temporary folder.
        if "app.serve" not in words and (f"FEWBITS_HOME={home}".encode() in settings or str(home) in words):
            found[int(folder.name)] = words
    return found


def running_as(service: Running, part: str) -> list[int]:
    return [pid for pid, words in processes(service.home).items() if part in words]


def get(service: Running, path: str, key: str = "") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=SECONDS)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
        response = connection.getresponse()
        return response.status, response.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
