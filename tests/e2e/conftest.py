"""The whole service as its own supervisor runs it, with real workers and the digits."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from examples.digits import data as digits
from tests.waiting import SECONDS

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Service:
    """A service that is ready, and a client with its admin key."""

    home: Path
    http: httpx.Client

    def objects(self) -> set[Path]:
        """Everything in the blob store, finished or not."""
        return {path for path in (self.home / "blobs").rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    with (
        tempfile.TemporaryDirectory(prefix="fewbits-e2e-") as folder,
        serving(Path(folder), FEWBITS_SANDBOX_SECONDS="1200") as (url, _),
    ):
        key = (Path(folder) / "admin.key").read_text().strip()
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=900) as client:
            yield Service(Path(folder), client)


@contextmanager
def serving(home: Path, **more: str) -> Iterator[tuple[str, int]]:
    """A service on this folder with these settings: its URL, and its supervisor's process."""
    settings = {"FEWBITS_HOME": str(home), "FEWBITS_PORT": "0", **more}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FEWBITS_")}
    command = [sys.executable, "-m", "app.serve"]
    with subprocess.Popen(
        command, cwd=ROOT, env=kept | settings, stdout=subprocess.PIPE, text=True
    ) as supervisor:
        try:
            assert supervisor.stdout is not None
            yield next(line for line in supervisor.stdout if "ready at" in line).split()[-1], supervisor.pid
        finally:
            supervisor.send_signal(signal.SIGTERM)
            supervisor.communicate(timeout=SECONDS)


@pytest.fixture
def http(service: Service) -> httpx.Client:
    return service.http


@pytest.fixture(scope="session")
def digits_model() -> bytes:
    return (ROOT / "examples" / "digits" / "digits.onnx").read_bytes()


@pytest.fixture(scope="session")
def digits_data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The held-out digits as an npz."""
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    digits.write(digits.held_out(), path)
    return path.read_bytes()
