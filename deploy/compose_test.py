"""The compose file, run for real: `make compose-test`.

Builds the image, starts everything in order, does the main job through the published port, kills a worker in
the middle of another one, takes everything down and up again with four workers, and leaves nothing behind.
Where base images cannot be pulled, BASE_IMAGES names a command that makes stand-ins for them.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "examples" / "digits"
PATIENCE_S = 900.0
POLL_S = 0.1
ONE_OF_EACH = {"postgres": 1, "redis": 1, "api": 1, "worker": 1, "benchmark": 1, "control": 1}
TRIES = 5
# A proxy that the environment names is not for this machine.
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
Json = dict[str, Any]
Found = TypeVar("Found")


class Trouble(Exception):
    """The compose file does not do what it promises."""


@dataclass
class Stack:
    """A compose project of its own: a copy of the file with its `.env`, an API on a free port, its key."""

    folder: Path
    command: tuple[str, ...]
    url: str = ""
    key: str = ""

    def compose(self, *words: str, check: bool = True) -> str:
        """Run a compose command on it; what it prints."""
        return ran([*self.command, "-p", self.folder.name, *words], self.folder, check=check)

    def get(self, path: str) -> bytes:
        """What the API answers."""
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {self.key}"})  # noqa: S310 - our own http://
        with direct.open(request, timeout=PATIENCE_S) as answer:
            body: bytes = answer.read()
            return body

    def read(self, path: str) -> Json:
        """The JSON that the API answers."""
        found: Json = json.loads(self.get(path))
        return found


def main() -> int:
    """Do all of it; 0 when it holds."""
    try:
        with stack() as here:
            run(here)
    except (Trouble, OSError) as error:
        print(f"compose-test failed: {error}", file=sys.stderr)
        return 1
    print("compose-test: all of it holds")
    return 0


def run(here: Stack) -> None:
    """The life of one installation."""
    told("refuses to start without its secrets", refuse_without_secrets, here)
    told("healthy in order", start, here, ONE_OF_EACH)
    told("no container may do more than it has to", check_confinement, here)
    told("the first key", make_key, here)
    first = told("main job through the published port", do_main_job, here)
    told("a job whose worker was killed ended well", kill_a_worker, here)
    model = here.get(f"/v1/candidates/{first['best']}/content")
    told("stopped", here.compose, "down")
    told("healthy again, with four workers", start, here, ONE_OF_EACH | {"worker": 4})
    if here.get(f"/v1/candidates/{first['best']}/content") != model:
        raise Trouble("the best model is another one after down and up")
    told("a job on four workers", finished, here, quantize(here, samples=TRIES + 1))


def refuse_without_secrets(here: Stack) -> None:
    """An `.env` that nobody filled in starts nothing; then it is filled in."""
    example = (ROOT / ".env.example").read_text()
    names = re.findall(r"^(\w*(?:PASSWORD|SECRET)\w*)=$", example, re.MULTILINE)
    for name in names:
        (here.folder / ".env").write_text(filled(example, {*names} - {name}))
        refused = subprocess.run(
            [*here.command, "config"], cwd=here.folder, capture_output=True, text=True, check=False
        )
        if not refused.returncode or f"{name} is missing" not in refused.stderr:
            raise Trouble(f"it starts without {name}: {refused.stderr}")
    (here.folder / ".env").write_text(filled(example, names) + "\nFEWBITS_PORT=0\n")


def filled(example: str, names: Sequence[str] | set[str]) -> str:
    """The example with these secrets."""
    for name in names:
        secret = b64encode(secrets.token_bytes(32)).decode() if "KEY" in name else secrets.token_hex(24)
        example = example.replace(f"\n{name}=\n", f"\n{name}={secret}\n")
    return re.sub(r"^FEWBITS_PORT=.*\n", "", example, flags=re.MULTILINE)


def start(here: Stack, services: dict[str, int]) -> None:
    """Start as many containers of each service, and wait until all are healthy."""
    here.compose("up", "--detach", "--no-build", "--scale", f"worker={services['worker']}")
    here.url = "http://" + here.compose("port", "api", "8000").strip()  # another one after each start
    waited(lambda: healthy(here) == sorted(name for name, count in services.items() for _ in range(count)))
    workers = sum(services[name] for name in ("worker", "benchmark", "control"))
    ready = waited(lambda: (found := here.read("/readyz"))["workers"] >= workers and found)
    if ready["status"] != "ok" or not all(ready["sandbox"].values()):
        raise Trouble(f"not ready: {ready}")
    print("  " + json.dumps(ready), flush=True)


def healthy(here: Stack) -> list[str]:
    """The services of the containers that are healthy."""
    label = "com.docker.compose"
    chosen = ["--filter", f"label={label}.project={here.folder.name}", "--filter", "health=healthy"]
    return sorted(ran(["docker", "ps", *chosen, "--format", f'{{{{.Label "{label}.service"}}}}']).split())


def make_key(here: Stack) -> None:
    """The first key, made as docs/deploy.md says."""
    scopes = ["--scopes", "read", "write", "admin"]
    command = ["python", "-m", "app.admin", "create-key", "--name", "first", *scopes]
    here.key = here.compose("exec", "-T", "api", *command).strip()


def check_confinement(here: Stack) -> None:
    """Each of our processes is an ordinary user's, without capabilities, on files that nobody can change."""
    look = "id -u; grep -hE '^(CapEff|NoNewPrivs)' /proc/self/status; touch ./written 2>/dev/null; ls"
    for service in ("api", "worker", "benchmark", "control"):
        seen = here.compose("exec", "-T", service, "sh", "-c", look).split()
        if seen[:5] != ["10001", "CapEff:", f"{0:016x}", "NoNewPrivs:", "1"] or "written" in seen:
            raise Trouble(f"{service} may do more than it has to: {seen}")


def do_main_job(here: Stack) -> Json:
    """One curl: a model, its data and a limit go in, a verdict comes out."""
    verdict = quantize(here, "-H", "Prefer: wait=600", "-F", "max_accuracy_drop=0.02")
    if not verdict.get("finished_at"):
        verdict = finished(here, verdict)
    if verdict["conclusion"] != "pass":
        raise Trouble(f"the main job does not pass: {verdict}")
    return verdict


def kill_a_worker(here: Stack) -> None:
    """Kill all that runs in the worker's container while it runs a step; both are started again."""
    for samples in range(1, TRIES + 1):
        job = quantize(here, samples=samples)
        waited(lambda job=job: any(step["state"] == "running" for step in steps(here, job)))  # type: ignore[misc]
        here.compose("exec", "-T", "worker", "sh", "-c", "kill -KILL -1", check=False)
        finished(here, job)
        lost = [step for step in steps(here, job) if step["losses"]]
        if lost:
            print("  " + ", ".join(f"{s['kind']} in {s['attempt']} attempts" for s in lost), flush=True)
            return
    raise Trouble(f"in {TRIES} jobs no kill hit a running step")


def steps(here: Stack, job: Json) -> list[Json]:
    """The engine's steps of a job."""
    items: list[Json] = here.read(f"/v1/jobs/{job['id']}/steps")["items"]
    return [step for step in items if step["kind"] in {"prepare", "build"}]


def quantize(here: Stack, *words: str, samples: int = 0) -> Json:
    """Post the digits; other `samples` to calibrate with make a job that reuses nothing."""
    spec = {
        "recipes": [{"method": "dynamic_int8", "include": {"op_types": ["Conv"]}}, {"method": "static_int8"}],
        "calibration": {"samples": 100 + samples},
        "benchmark": {"max_seconds": 12},
    }
    parts = [f"model=@{DIGITS / 'digits.onnx'}", f"data=@{here.folder / 'digits.npz'}", "preprocess=unit"]
    form = [word for part in [*parts, f"spec={json.dumps(spec)}"] for word in ("-F", part)]
    curl = ["curl", "-sS", "--fail-with-body", "--noproxy", "*", "-H", f"Authorization: Bearer {here.key}"]
    job: Json = json.loads(ran([*curl, *form, *words, f"{here.url}/v1/quantize"]))
    return job


def finished(here: Stack, job: Json) -> Json:
    """The job once it has ended, which has to be well."""
    ended: Json = waited(lambda: (found := here.read(f"/v1/jobs/{job['id']}"))["finished_at"] and found)
    if ended["state"] != "succeeded":
        raise Trouble(f"the job {ended['state']}: {ended['error']}")
    return ended


@contextmanager
def stack() -> Iterator[Stack]:
    """The image, and a project made of it that is gone at the end, with its volumes."""
    command = compose_command()
    told("base images", make_base_images)
    told("image built", build)
    size = int(ran(["docker", "image", "inspect", "--format", "{{.Size}}", "fewbits"]))
    print(f"  {size / 1e6:.0f} MB", flush=True)
    with tempfile.TemporaryDirectory(prefix="fewbits-compose-test-") as folder:
        here = Stack(Path(folder), command)
        shutil.copy(ROOT / "docker-compose.yml", folder)
        ran([sys.executable, str(DIGITS / "data.py"), str(here.folder / "digits.npz")])
        try:
            yield here
        except BaseException:
            print(here.compose("ps", check=False), file=sys.stderr)
            print(here.compose("logs", "--no-color", "--tail", "40", check=False), file=sys.stderr)
            raise
        finally:
            here.compose("down", "--volumes", check=False)


def compose_command() -> tuple[str, ...]:
    """Compose as Docker's plugin, or the older command of its own."""
    for words in (("docker", "compose"), ("docker-compose",)):
        if (
            shutil.which(words[0])
            and not subprocess.run([*words, "version"], capture_output=True, check=False).returncode
        ):
            return words
    raise Trouble("there is no compose. On Debian: apt install docker.io docker-compose")


def make_base_images() -> None:
    """Let BASE_IMAGES make what is missing; without it, Docker pulls."""
    dockerfile, compose = (ROOT / "Dockerfile").read_text(), (ROOT / "docker-compose.yml").read_text()
    python = re.findall(r"^ARG PYTHON=(\S+)", dockerfile, re.MULTILINE)
    names = python + [name for name in re.findall(r"^ +image: (\S+)", compose, re.MULTILINE) if ":" in name]
    there = (
        subprocess.run(["docker", "image", "inspect", *names], capture_output=True, check=False).returncode
        == 0
    )
    if not there and os.environ.get("BASE_IMAGES"):
        ran([os.environ["BASE_IMAGES"], *names])


def build() -> None:
    """Build the image as `docker compose build` does, with the host's network to reach the package index."""
    ran(["docker", "build", "--quiet", "--network", "host", "--tag", "fewbits", str(ROOT)])


def told(what: str, function: Callable[..., Found], *arguments: Any) -> Found:  # noqa: ANN401 - whatever it takes
    """Call the function and say how long it took."""
    began = time.monotonic()
    found = function(*arguments)
    print(f"{what}: {time.monotonic() - began:.0f} s", flush=True)
    return found


def waited(condition: Callable[[], Any]) -> Any:  # noqa: ANN401 - what the condition gives
    """What the condition gives once it is true; a service that is starting may refuse connections."""
    end, refused = time.monotonic() + PATIENCE_S, None
    while time.monotonic() < end:
        try:
            if found := condition():
                return found
        except OSError as error:
            refused = error
        time.sleep(POLL_S)
    raise Trouble(f"nothing came of it in {PATIENCE_S:.0f} s; {refused or ''}")


def ran(words: Sequence[str], cwd: Path = ROOT, *, check: bool = True) -> str:
    """What a command prints; it has to succeed, unless that is not to be checked."""
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode and check:
        raise Trouble(f"{' '.join(words[:6])} … ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
