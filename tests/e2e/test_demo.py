"""`make demo` as a newcomer runs it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import onnx

ROOT = Path(__file__).parent.parent.parent
SECONDS = 900.0


def test_the_demo_does_the_whole_job_beside_a_service_that_has_its_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = demo(tmp_path, FEWBITS_PORT=str(port))
    assert done.returncode == 0, done.stdout
    for row in ("size", "top-1 accuracy", "fidelity", "median latency", "speed-up", "memory", "gate"):
        assert f"\n{row}" in done.stdout
    assert f":{port}" not in done.stdout
    assert "Verdict: " in done.stdout
    onnx.checker.check_model(tmp_path / "best.onnx")


def test_a_demo_that_fails_says_why_and_where_the_logs_are(tmp_path: Path) -> None:
    done = demo(tmp_path, FEWBITS_STORAGE_URL="tape:/dev/st0")
    assert done.returncode == 1
    assert "tape" in done.stdout
    assert f"Logs: {tmp_path / 'log'}" in done.stdout


def demo(home: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FEWBITS_")}
    return subprocess.run(
        [sys.executable, "examples/demo.py"],
        cwd=ROOT,
        env=inherited | {"FEWBITS_HOME": str(home), "ONCE": "1"} | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
