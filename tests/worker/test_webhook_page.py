"""docs/webhooks.md: its receiver runs as it is written, and its tables say what the code does."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest

from app.domain.webhook import DELAYS_S, EVENT_TYPES, SPREAD, new_secret, signatures
from tests.waiting import in_time
from worker.webhooks.dial import SECONDS, post
from worker.webhooks.exchange import ANSWER_BYTES, HEAD_BYTES, HEADERS

PAGE = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
BODY = b'{"type":"job.succeeded","data":{"job":"job_1"}}'


@dataclass(frozen=True)
class Running:
    """The page's receiver, and where it prints what is new to it."""

    port: int
    printed: Path

    def told(self, message_id: str, *secrets: str, body: bytes = BODY, sent: bytes = BODY) -> int | None:
        """The status that it answers to a message with signatures by these secrets."""
        timestamp = int(time.time())
        headers = {
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signatures(secrets, message_id, timestamp, body),
        }
        return post(f"http://127.0.0.1:{self.port}/", headers, sent, [ip_network("127.0.0.1")]).status


@contextmanager
def running(folder: Path, secret: str) -> Iterator[Running]:
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (folder / "receiver.py").write_text(code)
    environment = {"PATH": os.defpath, "WEBHOOK_SECRET": secret, "PORT": str(port)}
    printed = folder / "printed"
    with printed.open("ab") as out:
        command = [sys.executable, "-W", "error", "receiver.py"]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)
    try:
        assert in_time(lambda: process.poll() is not None or _listens(port))
        yield Running(port, printed)
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_receiver_verifies_and_takes_each_message_once(tmp_path: Path) -> None:
    secret = new_secret()
    with running(tmp_path, secret) as receiver:
        assert receiver.told("msg_1", secret) == 204
        assert receiver.told("msg_1", secret) == 204
        assert receiver.told("msg_2", new_secret()) == 401
        assert receiver.told("msg_3", secret, sent=BODY.replace(b"job_1", b"job_2")) == 401
        assert receiver.told("msg_4", new_secret(), secret) == 204
    with running(tmp_path, secret) as receiver:
        assert receiver.told("msg_1", secret) == 204

    taken = [line for line in receiver.printed.read_text().splitlines() if line.startswith("job.")]
    assert taken == ["job.succeeded {'job': 'job_1'}"] * 2


def test_the_receiver_has_twenty_lines() -> None:
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

    assert len([line for line in code.splitlines() if line]) <= 20


def test_the_page_names_every_event_and_no_other() -> None:
    named = re.findall(r"^\| `([a-z]+\.[a-z]+)` \|", PAGE, re.MULTILINE)

    assert named == list(EVENT_TYPES)


@pytest.mark.parametrize(
    "text",
    [
        f"{len(DELAYS_S) + 1} attempts".replace("10", "ten"),
        "5 seconds, 5 minutes, 30 minutes, 2, 5, 10, 14, 20 and 24 hours",
        f"±{SPREAD:.0%}".replace("%", " %"),
        f"within {SECONDS:.0f} seconds",
        f"up to {ANSWER_BYTES // 1024} kB",
        f"over {HEAD_BYTES // 1024} kB, or more than {HEADERS}",
    ],
)
def test_the_page_tells_the_limits_that_hold(text: str) -> None:
    assert text in " ".join(PAGE.split())
