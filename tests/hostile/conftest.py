"""A service under attack: what must be as before after each attack is looked at around every test."""

import hashlib
import secrets
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import serving
from tests.hostile import inputs
from tests.waiting import in_time

BUILD_SECONDS = 20  # what one engine call of a job may take: the endless ones end by it
OURS = ("blobs", "fewbits.db", "locks", "log", "work")  # below the home folder: what a service writes to


@dataclass(frozen=True)
class Service:
    """A service, the folder around its home, and its supervisor's process."""

    around: Path
    http: httpx.Client
    supervisor: int

    @property
    def home(self) -> Path:
        """Where the service keeps its state."""
        return self.around / "home"

    def objects(self) -> set[Path]:
        """Everything in the blob store, finished or not."""
        return {path for path in (self.home / "blobs").rglob("*") if path.is_file()}

    def others(self) -> dict[str, str]:
        """Every file around and in the home folder that requests and jobs have no business with."""
        files = (path for path in self.around.rglob("*") if path.is_file())
        found = {str(path.relative_to(self.home.parent)): path for path in files}
        kept = {name: path for name, path in found.items() if not name.removeprefix("home/").startswith(OURS)}
        return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in kept.items()}

    def processes(self) -> dict[int, str]:
        """API, broker and workers: their ids, and when each was started."""
        stats = [stat for path in Path("/proc").glob("[0-9]*/stat") if (stat := _stat(path))]
        return {pid: started for pid, parent, started in stats if parent == self.supervisor}

    def is_idle(self) -> bool:
        """Whether no step has a folder."""
        return not any((self.home / "work").glob("*"))


def _stat(path: Path) -> tuple[int, int, str] | None:
    """A process's id, its parent's, and when it was started; None when it has ended meanwhile."""
    try:
        fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return int(path.parent.name), int(fields[1]), fields[19]


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="fewbits-hostile-") as folder:
        around = Path(folder)
        (around / "canary").write_text("not yours")
        limits = {"FEWBITS_SANDBOX_SECONDS": str(BUILD_SECONDS), "FEWBITS_SANDBOX_OUTPUT": str(2**28)}
        with serving(around / "home", **limits) as (url, supervisor):
            key = (around / "home" / "admin.key").read_text().strip()
            with httpx.Client(base_url=url, headers=_bearer(key), timeout=900) as client:
                yield Service(around, client, supervisor)


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def http(service: Service) -> httpx.Client:
    """The attacker: a project of its own, and a key that may do everything in it."""
    return service.http


@pytest.fixture(scope="session")
def neighbour(service: Service) -> Iterator[httpx.Client]:
    """Somebody else on the same service."""
    made = service.http.post("/v1/projects", json={"name": f"neighbour {secrets.token_hex(4)}"}).json()
    with httpx.Client(
        base_url=service.http.base_url, headers=_bearer(made["key"]["key"]), timeout=900
    ) as client:
        yield client


@pytest.fixture(autouse=True)
def undisturbed(service: Service, work_of_neighbour: Callable[[], bool]) -> Iterator[None]:
    """After the attack the same processes run, no file lies elsewhere, and the neighbour's work was done."""
    before = service.processes(), service.others()
    yield
    assert in_time(work_of_neighbour)
    assert in_time(service.is_idle)
    assert (service.processes(), service.others()) == before
    assert len(before[0]) == 5, "the broker, the API, and three workers"


@pytest.fixture
def work_of_neighbour(neighbour: httpx.Client) -> Callable[[], bool]:
    """A model, sent before the attack: whether it was inspected, and comes back byte for byte."""
    sent = inputs.small(secrets.token_hex(8))
    version = neighbour.post("/v1/models", files={"file": ("good.onnx", sent)}).json()

    def is_done() -> bool:
        shown = neighbour.get(version["links"]["self"]).json()
        return shown["state"] == "ready" and neighbour.get(shown["links"]["content"]).content == sent

    return is_done


def rejected(http: httpx.Client, path: str, name: str, content: bytes) -> dict[str, Any]:
    """The problem of an upload that is taken, inspected, and rejected; its bytes are gone."""
    return problem(http, taken(http, path, name, content), content)


def taken(http: httpx.Client, path: str, name: str, content: bytes) -> str:
    """Where an upload is found that is taken, and not yet looked into."""
    answer = http.post(path, files={"file": (name, content)})
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


def problem(http: httpx.Client, here: str, content: bytes) -> dict[str, Any]:
    """Why an upload is rejected; its bytes are gone."""
    assert in_time(lambda: http.get(here).json()["state"] != "inspecting")
    shown = http.get(here).json()
    assert shown["state"] == "rejected", shown
    assert http.head(f"/v1/blobs/{hashlib.sha256(content).hexdigest()}").status_code == 404
    found: dict[str, Any] = shown["error"]
    return found


def descendants(pid: int) -> Iterator[int]:
    """The processes that this one and those that it has started have started."""
    stats = [stat for path in Path("/proc").glob("[0-9]*/stat") if (stat := _stat(path))]
    for child in [child for child, parent, _ in stats if parent == pid]:
        yield child
        yield from descendants(child)
