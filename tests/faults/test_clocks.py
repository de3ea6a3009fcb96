"""Clocks of API and workers that jump by two hours, forwards and back, while jobs run."""

import importlib.util
import itertools
from pathlib import Path

import pytest

from app.storage import LocalStorage
from tests.faults import parts
from tests.faults.conftest import Report
from tests.faults.promises import Log, submitting, verify
from tests.faults.rhythm import Every

JOBS = 40
SUBMIT_EVERY_S = 0.5
JUMP_EVERY_S = 5.0
LIBRARY = "vendor/libfaketime/src/libfaketime.so.1"

pytestmark = pytest.mark.long


def library() -> str:
    """What stands between a process and its clock."""
    spec = importlib.util.find_spec("libfaketime")
    folder = Path(spec.origin).parent if spec and spec.origin else Path("nowhere")
    if not (folder / LIBRARY).exists():
        pytest.skip("libfaketime is not there for this platform: pip install libfaketime")
    return str(folder / LIBRARY)


def test_clocks_that_jump_cost_no_lease(home: Path, postgres: parts.Postgres, figure: Report) -> None:
    """Leases and deadlines go by the database's clock, waits by one that does not jump."""
    log, clock = Log(), home / "clock"
    clock.write_text("+0")
    jumping = {
        "LD_PRELOAD": library(),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    offsets = itertools.cycle(["+2h", "-2h", "+0"])

    def jump() -> None:
        (home / "clock.new").write_text(next(offsets))
        (home / "clock.new").rename(clock)

    with (
        parts.cluster(home, postgres, parts.Shape(more=jumping)) as cluster,
        submitting(cluster, log, JOBS, SUBMIT_EVERY_S, slow={"build": 1}) as settled,
    ):
        jumps = Every(JUMP_EVERY_S, jump)
        assert cluster.until(settled, jumps)
        found = verify(log, cluster.database_url, LocalStorage(home / "blobs"))
    assert jumps.times > 0
    assert found.states == {"succeeded": JOBS}
    assert found.losses == 0
    figure(f"{jumps.times} jumps: {found}")
