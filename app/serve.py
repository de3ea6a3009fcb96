"""The whole service under one supervisor, with nothing else installed: `python -m app.serve`."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from app import start
from app.embedded import address, children, home, lineup, redis_server
from app.embedded.address import Address
from app.embedded.children import Child
from app.embedded.tether import tether
from app.settings import Settings, faults

ROOT = Path(__file__).resolve().parent.parent
STOPPING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
BROKER_SECONDS = 10.0
READY_SECONDS = 120.0
READY_POLL_SECONDS = 0.1
EARLY_DEATHS = 3
LOG_TAIL = 15
LOG_LOOK_SECONDS = 30.0
WORKER_PATIENCE = 10.0
API_PATIENCE = start.DRAIN_SECONDS + 2.0
BROKER_PATIENCE = 5.0


class CannotServe(Exception):
    """The service does not start, for a reason that the operator can change."""


def main() -> int:
    """Serve until told to stop; what goes wrong is said in a sentence, not in a traceback."""
    try:
        serve(Settings())
    except ValidationError as error:
        return _refuse(faults(error))
    except (CannotServe, address.NotFree, home.HomeTaken, redis_server.NoServer, PermissionError) as error:
        return _refuse(str(error))
    return 0


def serve(settings: Settings) -> None:
    """Prepare the home folder, and keep everything running on it until a signal says to stop."""
    signals = _listen_for_signals()
    folder = settings.home.absolute()
    with home.sole_owner(folder) as lock, home.private_folder(lock) as private:
        here = address.claim(settings.host, settings.port)
        os.environ |= _environment(folder, here, settings.redis_url or redis_server.url(private))
        os.environ["FEWBITS_SECRET_KEY"] = settings.secret_key or home.secret_key(folder)
        os.chdir(ROOT)
        broker = [] if settings.redis_url else [lineup.broker(folder, private)]
        api = lineup.api(folder, here, settings.listeners)
        engine, soloists = lineup.engine(folder), lineup.soloists(folder)
        first = [*broker, api, engine]
        try:
            _start_broker(broker, private)
            key = _prepare(folder)
            if _come_up(first, here, signals):
                if "home" not in settings.model_fields_set:
                    home.tell_clients(folder)
                with home.announced(folder, here.url):
                    _say(f"Fewbits is ready at {here.url}\nDocs: {here.url}/docs\n{key}")
                    _say(f"Logs: {folder / 'log'}")
                    _keep_up([*first, *soloists], signals)  # nobody needs these in the first seconds
        finally:
            children.end([engine, *soloists], WORKER_PATIENCE)
            children.end([api], API_PATIENCE)
            children.end(broker, BROKER_PATIENCE)


def _start_broker(broker: Sequence[Child], private: Path) -> None:
    for child in broker:
        children.revive(child)
        if not redis_server.wait(private, BROKER_SECONDS):
            raise CannotServe(f"the broker does not answer\n{home.tail(child.log, LOG_TAIL)}")


def _prepare(folder: Path) -> str:
    """Prepare the database and the key; says where the key is, and what it is when it is new."""
    key = home.admin_key(folder)
    known = key.exists()
    done = subprocess.run(  # noqa: S603 - the command is ours
        tether([sys.executable, "-m", "app.embedded.prepare"]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CannotServe("\n".join(["cannot prepare the database", *done.stdout.splitlines()[-LOG_TAIL:]]))
    return f"Admin key: in {key}" if known else f"Admin key: {key.read_text().strip()} (kept in {key})"


def _come_up(everything: Sequence[Child], here: Address, signals: socket.socket) -> bool:
    """Start everything; False when told to stop before it was ready."""
    deadline, deaths = time.monotonic() + READY_SECONDS, Counter[str]()
    while not address.is_ready(here):
        for child, death in _revive(everything):
            deaths[child.name] += 1
            if deaths[child.name] >= EARLY_DEATHS:
                raise CannotServe(f"{child.name} does not start ({death})\n{home.tail(child.log, LOG_TAIL)}")
        if time.monotonic() > deadline:
            raise CannotServe(f"not ready after {READY_SECONDS:.0f} s; see {everything[0].log.parent}")
        if _told_to_stop(signals, READY_POLL_SECONDS):
            return False
    return True


def _keep_up(everything: Sequence[Child], signals: socket.socket) -> None:
    """Start again whatever dies, since what was up once can be up again; let no log fill the disk."""
    while not _told_to_stop(signals, _pause(everything)):
        for child, death in _revive(everything):
            _warn(f"{child.name} ended ({death}) and is started again")
        for child in everything:
            children.bound_log(child)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the wait
    _say("Stopping …")


def _pause(everything: Sequence[Child]) -> float:
    due = children.due(everything)
    return LOG_LOOK_SECONDS if due is None else min(due, LOG_LOOK_SECONDS)


def _revive(everything: Sequence[Child]) -> list[tuple[Child, str]]:
    deaths = [(child, children.revive(child)) for child in everything]
    return [(child, death) for child, death in deaths if death]


def _environment(folder: Path, here: Address, redis_url: str) -> dict[str, str]:
    """What every child is told, beside what the supervisor was told."""
    return {
        "FEWBITS_HOME": str(folder),
        "FEWBITS_HOST": here.host,
        "FEWBITS_PORT": str(here.port),
        "FEWBITS_REDIS_URL": redis_url,
        "ORT_DISABLE_TELEMETRY": "1",
    }


def _listen_for_signals() -> socket.socket:
    """A socket that yields the numbers of the signals that arrive; waiting for it costs nothing."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    for number in (*STOPPING, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return reader


def _told_to_stop(signals: socket.socket, seconds: float | None) -> bool:
    readable, _, _ = select.select([signals], [], [], seconds)
    return bool(readable) and not STOPPING.isdisjoint(signals.recv(64))


def _refuse(reason: str) -> int:
    _warn(f"fewbits: {reason}")
    return 1


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the operator's terminal


def _warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - the operator's terminal


if __name__ == "__main__":
    sys.exit(main())
