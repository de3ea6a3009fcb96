"""One process of the service as a container starts it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app import start
from app.broker import QUEUES
from app.settings import Settings
from tests.waiting import SECONDS, in_time

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_part_takes_the_place_of_what_starts_it_so_that_a_signal_ends_it(
    tmp_path: Path,
) -> None:
    settings = {"FEWBITS_HOME": str(tmp_path), "FEWBITS_PORT": "0"}
    command = [sys.executable, "-m", "app.start", "api"]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | settings) as part:
        words = Path(f"/proc/{part.pid}/cmdline")
        assert in_time(lambda: b"app.start" not in words.read_bytes())
        assert part.poll() is None
        part.send_signal(signal.SIGTERM)
        assert part.wait(SECONDS) in {0, -signal.SIGTERM}


def test_a_part_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    command = [sys.executable, "-m", "app.start", "broker"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert all(part in done.stderr for part in start.PARTS)


def test_every_queue_is_listened_to_by_one_part() -> None:
    commands = [command(Settings()) for command in start.PARTS.values()]
    queues = ",".join(words[words.index("-Q") + 1] for words in commands if "-Q" in words)

    assert sorted(queues.split(",")) == sorted(set(QUEUES.values()))
