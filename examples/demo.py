"""The main job on a sample model, over HTTP as any client would do it: `make demo`.

It starts the service, uploads a model that reads handwritten digits together with labelled images, has the
model quantized in two ways, and prints what each one costs and wins. With ONCE=1 it stops there; else the
service stays up until Ctrl-C.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from runpy import run_path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "examples" / "digits"
TETHER = ROOT / "app" / "embedded" / "tether.py"
DEFAULT_PORT = 8000
READY_SECONDS = 150.0
STOP_SECONDS = 30.0
JOB_SECONDS = 600.0
POLL_SECONDS = 0.1
ANSWER_SECONDS = 60.0
LOG_TAIL = 15
EXACT_DB = 200
JSON = "application/json"
STEP = 0.1  # progress is printed when it has grown by a tenth
RECIPES: list[dict[str, Any]] = [
    # Dynamic quantization leaves convolutions alone unless it is asked to take them: here is why.
    {"method": "dynamic_int8", "include": {"op_types": ["Conv", "Gemm"]}},
    {"method": "static_int8"},
]
SPEC: dict[str, Any] = {
    "recipes": RECIPES,
    "benchmark": {"max_seconds": 12},
    "gate": {"max_accuracy_drop": 0.02, "min_speedup": 1.1},
}
# A proxy that the environment names is not for this machine.
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
Json = dict[str, Any]


class Trouble(Exception):
    """The demo cannot go on."""


@dataclass(frozen=True)
class Service:
    """Where the service is, the key to it, and the process that runs it."""

    url: str
    key: str
    process: subprocess.Popen[bytes]


def main() -> int:
    """Run the demo; 0 when it did what it promises."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    home = Path(os.environ.get("FEWBITS_HOME") or ROOT / "var" / "demo").absolute()
    try:
        with running(home) as service:
            links = run(service, home)
            if os.environ.get("ONCE", "") in {"", "0"}:
                stay(service, links)
    except KeyboardInterrupt:
        return 130
    except (Trouble, OSError) as error:
        print(f"\nThe demo failed: {error}\nLogs: {home / 'log'}", file=sys.stderr)
        return 1
    return 0


def run(service: Service, home: Path) -> Json:
    """Upload, quantize, measure, show; returns where the job's results are."""
    print(f"Uploading a model and its data to {service.url}", flush=True)
    version = upload(service, "/v1/models", DIGITS / "digits.onnx", {"name": "digits"})
    dataset = upload(service, "/v1/datasets", labelled_digits(home), {"name": "digits", "preprocess": "unit"})
    data = {"dataset": dataset["id"]}
    spec = SPEC | {"version": version["id"], "calibration": data, "evaluation": data | {"metric": "top1"}}
    job = follow(service, ask(service, "POST", "/v1/jobs", json.dumps(spec).encode()))
    report = ask(service, "GET", f"/v1/jobs/{job['id']}/report")
    best = best_model(service, job, home)
    print("", table(report), "", verdict(report), "", f"Best model: {best}", sep="\n", flush=True)
    links: Json = job["links"]
    return links


def stay(service: Service, links: Json) -> None:
    """Keep the service up until Ctrl-C."""
    print(f"\nThe service stays up at {service.url} until Ctrl-C.")
    print(f"Docs    {service.url}/docs\nKey     {service.key}")
    report = f"{service.url}{links['report']}?format=md"
    print(f'Report  curl -H "Authorization: Bearer {service.key}" "{report}"', flush=True)
    try:
        service.process.wait()
    except KeyboardInterrupt:
        return
    raise Trouble("the service ended by itself")


# The service


@contextmanager
def running(home: Path) -> Iterator[Service]:
    """The service on a free port, stopped at the end."""
    port = free_port()
    log = home / "log" / "serve.log"
    print(f"Starting the service, with its state in {home}", flush=True)
    process = start(home, port, log)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process, log)
        yield Service(url, (home / "admin.key").read_text().strip(), process)
    finally:
        stop(process)


def start(home: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    """In a process group of its own, so that Ctrl-C reaches the demo alone, and tied to the demo's life."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    log.parent.mkdir(exist_ok=True)
    where = {"FEWBITS_HOME": str(home), "FEWBITS_HOST": "127.0.0.1", "FEWBITS_PORT": str(port)}
    tie = [sys.executable, "-IS", str(TETHER), str(int(signal.SIGTERM)), str(os.getpid())]
    with log.open("wb") as output:
        return subprocess.Popen(  # noqa: S603 - the command is ours
            [*tie, f"{os.getuid()}:{os.getgid()}", sys.executable, "-m", "app.serve"],
            cwd=ROOT,
            env=os.environ | where,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            process_group=0,
        )


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the service can take requests."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Trouble("\n".join(log.read_text().splitlines()[-LOG_TAIL:]))
        with suppress(OSError), direct.open(f"{url}/readyz", timeout=ANSWER_SECONDS):
            return
        time.sleep(POLL_SECONDS)
    raise Trouble(f"the service was not ready after {READY_SECONDS:.0f} s")


def stop(process: subprocess.Popen[bytes]) -> None:
    """The supervisor ends what it started; without it, the kernel does."""
    process.terminate()
    try:
        process.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def free_port() -> int:
    """The asked port, or any other when that one is taken."""
    asked = int(os.environ.get("FEWBITS_PORT") or DEFAULT_PORT)
    for port in (asked, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise Trouble("there is no free port on 127.0.0.1")


# Its client


def labelled_digits(home: Path) -> Path:
    """Images of handwritten digits with their labels, made once."""
    path = home / "digits.npz"
    if not path.exists():
        data = run_path(str(DIGITS / "data.py"))
        data["write"](data["held_out"](), path)
    return path


def upload(service: Service, path: str, file: Path, fields: dict[str, str]) -> Json:
    """Post a file and its fields as a form."""
    boundary = uuid.uuid4().hex
    disposition = f"--{boundary}\r\nContent-Disposition: form-data; name="
    parts = [f'{disposition}"{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items()]
    head = f'{disposition}"file"; filename="{file.name}"\r\n\r\n'.encode()
    body = b"".join([*parts, head, file.read_bytes(), f"\r\n--{boundary}--\r\n".encode()])
    return ask(service, "POST", path, body, f"multipart/form-data; boundary={boundary}")


def follow(service: Service, job: Json) -> Json:
    """Print how the job gets on, until it has ended."""
    print(f"Job {job['id']}", flush=True)
    deadline, shown = time.monotonic() + JOB_SECONDS, ("", -1.0)
    while not job["finished_at"]:
        now = (job["phase"] or job["state"], job["progress"])
        if now[0] != shown[0] or now[1] >= shown[1] + STEP:
            print(f"  {now[1]:4.0%}  {now[0]}", flush=True)
            shown = now
        if time.monotonic() > deadline:
            raise Trouble(f"the job did not end within {JOB_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)
        job = ask(service, "GET", f"/v1/jobs/{job['id']}")
    if job["state"] != "succeeded":
        raise Trouble(f"the job {job['state']}: {(job['error'] or {}).get('detail', '')}")
    return job


def best_model(service: Service, job: Json, home: Path) -> Path:
    """Download the best candidate."""
    path = home / "best.onnx"
    request = request_to(service, "GET", f"/v1/candidates/{job['best']}/content")
    with opened(request) as answer, path.open("wb") as file:
        shutil.copyfileobj(answer, file)
    return path


def ask(service: Service, method: str, path: str, body: bytes | None = None, kind: str = JSON) -> Json:
    """Send a request and read the JSON that it is answered with."""
    request = request_to(service, method, path, body, kind)
    with opened(request) as answer:
        loaded: Json = json.load(answer)
        return loaded


def request_to(
    service: Service, method: str, path: str, body: bytes | None = None, kind: str = JSON
) -> urllib.request.Request:
    """A request with the key."""
    headers = {"Authorization": f"Bearer {service.key}", "Content-Type": kind}
    url = service.url + path
    return urllib.request.Request(url, body, headers, method=method)  # noqa: S310 - our own http://


def opened(request: urllib.request.Request) -> HTTPResponse:
    """The answer; a refusal in the service's own words."""
    try:
        answer: HTTPResponse = direct.open(request, timeout=ANSWER_SECONDS)
    except urllib.error.HTTPError as error:
        with error:
            raise Trouble(f"{request.full_url} answered {error.code}: {error.read().decode()}") from None
    return answer


# What it prints


def table(report: Json) -> str:
    """One column per model, one row per figure."""
    candidates, checks = report["candidates"], report["verdict"]["checks"]
    models = [report["job"]["baseline"], *candidates]
    rows = [
        ["", "float, as uploaded", *(candidate["name"] for candidate in candidates)],
        *([title, *map(cell, models)] for title, cell in FIGURES.items()),
        ["gate", "", *(gate(checks, candidate["id"]) for candidate in candidates)],
    ]
    return "\n".join([aligned(rows), *reasons(models), *origins(candidates)])


def origins(candidates: list[Json]) -> list[str]:
    """From which jobs figures were taken over, each once."""
    taken = [(c["reused"]["job"], c["reused"]["measured_at"]) for c in candidates if c["reused"]]
    words = "Nothing has changed since {} measured it at {}: its figures were taken over."
    return [words.format(job, when[:16]) for job, when in dict.fromkeys(taken) if when]


def reasons(models: list[Json]) -> list[str]:
    """Why figures are missing, each reason once."""
    missing = {group for model in models for group in GROUPS if not model[group]}
    notes = [note for model in models for note in model["notes"] if note.partition(":")[0] in missing]
    return [f"– {note}" for note in dict.fromkeys(notes)]


def aligned(rows: list[list[str]]) -> str:
    """Columns under each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in padded)


def cell(group: str, words: Callable[[Any], str]) -> Callable[[Any], str]:
    """How a row shows a model; a dash for a figure that is missing."""
    return lambda model: words(model[group]) if model[group] else "–"


def percent(share: float) -> str:
    return f"{share:.1%}".replace("-0.0%", "0.0%")


def points(share: float) -> str:
    """Percentage points, in which shares differ."""
    return f"{100 * share:.1f} pt".replace("-0.0 pt", "0.0 pt")


def with_interval(value: float, ci: Sequence[float], words: Callable[[float], str]) -> str:
    """A figure, and its interval if it has one."""
    return words(value) if ci[0] == ci[1] else f"{words(value)} ({words(ci[0])} … {words(ci[1])})"


FIGURES: dict[str, Callable[[Any], str]] = {
    "size": cell("size", lambda s: f"{s['bytes'] / 1000:.0f} kB, {s['ratio']:.2f} of float"),
    "top-1 accuracy": cell("accuracy", lambda a: percent(a["value"])),
    "accuracy drop (95 % CI)": cell("accuracy", lambda a: with_interval(a["drop"], a["ci"], points)),
    "fidelity (SQNR)": cell(
        "fidelity", lambda f: "exact" if f["sqnr_db"] >= EXACT_DB else f"{f['sqnr_db']:.1f} dB"
    ),
    "median latency": cell("latency", lambda t: f"{t['p50_ms']:.2f} ms"),
    "speed-up (95 % CI)": cell("latency", lambda t: with_interval(t["speedup"], t["ci"], "{:.2f}×".format)),
    "load time": cell("latency", lambda t: f"{t['load_ms']:.1f} ms"),
    "memory": cell("memory", lambda m: f"{m['model_bytes'] / 1e6:.1f} MB"),
}


GROUPS = ("accuracy", "fidelity", "latency", "memory")


def gate(checks: list[Any], candidate: str) -> str:
    """What the gate says of one candidate, and which limits it does not clear."""
    short = {c["name"]: c["conclusion"] for c in checks if c["candidate"] == candidate}
    missed = [name for name, conclusion in short.items() if conclusion != "pass"]
    if not missed:
        return "pass"
    word = "fail" if "fail" in short.values() else "inconclusive"
    return f"{word}: {', '.join(missed)}"


def verdict(report: Json) -> str:
    """The result in a sentence."""
    found, limits = report["verdict"], SPEC["gate"]
    lost = points(limits["max_accuracy_drop"])
    asked = f"at most {lost} of accuracy lost and {limits['min_speedup']}× the speed"
    if found["conclusion"] != "pass":
        return f"Verdict: {found['conclusion']}. No candidate is sure to keep {asked}."
    best = next(c for c in report["candidates"] if c["id"] == found["best"])
    bounds = {c["name"]: c["bound"] for c in found["checks"] if c["candidate"] == found["best"]}
    return (
        f"Verdict: pass. {best['name']} is at least {bounds['min_speedup']:.2f}× as fast and loses "
        f"at most {points(bounds['max_accuracy_drop'])} of accuracy, 95 % sure.\nAsked were {asked}."
    )


if __name__ == "__main__":
    sys.exit(main())
