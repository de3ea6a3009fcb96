"""Do uploads stream, keep up with the disk, and survive being cut anywhere?

    python benchmarks/uploads.py [--gib 4] [--broken 100] [--seed 4] [--folder /a/disk/with/space]

Starts a service of its own in a temporary folder. Limits, by each way in (PUT, tus, multipart): the API's
memory grows by at most 64 MiB; the upload runs at 60 % or more of the speed of `sha256sum` and
`dd conv=fsync` on the same file just before. Of 100 uploads cut at random bytes (80 lose their connection,
the API of 20 is killed), none is visible as a blob, and each one ends right. Exits 1 when one of these is
missed. Needs curl.
"""

import argparse
import base64
import hashlib
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

ROOT = Path(__file__).parents[1]
MIB = 2**20
GROWTH_LIMIT = 64 * MIB
SPEED_LIMIT = 0.6
LARGEST_BROKEN = 32 * MIB
RETRY_SECONDS = 0.5
TUS = {"Tus-Resumable": "1.0.0"}
CHUNK = TUS | {"Content-Type": "application/offset+octet-stream"}


@dataclass(frozen=True)
class Service:
    """A service that is ready."""

    home: Path
    url: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        """What lets a request in."""
        return {"Authorization": f"Bearer {self.key}"}

    def api(self) -> int:
        """The process that answers."""
        found = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and self._serves(p)]
        return max(found, key=lambda pid: memory(pid, "VmRSS"))

    def _serves(self, process: Path) -> bool:
        try:
            command, told = ((process / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            return False
        return b"app.main:create_app" in command and f"FEWBITS_HOME={self.home}\0".encode() in told


def main() -> int:
    """Run all three checks and print the ratios."""
    asked = _arguments()
    with tempfile.TemporaryDirectory(prefix="fewbits-uploads-", dir=asked.folder) as folder:
        here = Path(folder)
        with serving(here / "home") as service:
            broken = break_many(service, asked.broken, asked.seed)
            large = stream_large(service, here / "large", asked.gib * 1024 * MIB)
    print("good" if broken and large else "a limit was missed")
    return 0 if broken and large else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gib", type=int, default=4)
    parser.add_argument("--broken", type=int, default=100)
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--folder", type=Path)
    return parser.parse_args()


Way = Callable[[Service, Path, str], None]


@contextmanager
def serving(home: Path) -> Iterator[Service]:
    """The whole service, as an operator starts it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FEWBITS_")}
    settings = {"FEWBITS_HOME": str(home), "FEWBITS_PORT": "0"}
    command = [sys.executable, "-m", "app.serve"]
    with subprocess.Popen(  # noqa: S603 - the command is ours
        command, cwd=ROOT, env=kept | settings, stdout=subprocess.PIPE, text=True
    ) as supervisor:
        try:
            told = iter(supervisor.stdout or ())
            url = next(line for line in told if "ready at" in line).split()[-1]
            yield Service(home, url, (home / "admin.key").read_text().strip())
        finally:
            supervisor.send_signal(signal.SIGTERM)
            supervisor.communicate(timeout=60)


def memory(pid: int, field: str) -> int:
    """Bytes of a process, by a field of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), 0)


def stream_large(service: Service, path: Path, size: int) -> bool:
    """Send a large file in every way and compare with standard tools."""
    _fill(path, size)
    ways: dict[str, Way] = {"PUT": put, "tus": tus, "multipart": multipart}
    print(
        f"{size / 2**30:.0f} GiB | tools s | upload s | speed of tools (≥ {SPEED_LIMIT}) | memory +MiB (≤ 64)"
    )
    return all([_compare(service, path, name, way) for name, way in ways.items()])  # noqa: C419 - run all


def _compare(service: Service, path: Path, name: str, way: Way) -> bool:
    with path.open("r+b") as file:
        file.write(name.encode())  # bytes that are here already would not be stored again
    tools = _tools(path)
    sha256 = _run("sha256sum", str(path)).split()[0]
    pid = service.api()
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the high-water mark starts from now
    before = memory(pid, "VmRSS")
    seconds = _timed(lambda: way(service, path, sha256))
    growth = memory(pid, "VmHWM") - before
    ratio = tools / seconds
    print(f"{name:9} | {tools:7.1f} | {seconds:8.1f} | {ratio:10.2f} | {growth / MIB:6.1f}", flush=True)
    return ratio >= SPEED_LIMIT and growth <= GROWTH_LIMIT and service.api() == pid


def _fill(path: Path, size: int) -> None:
    chosen = random.Random(0)  # noqa: S311 - the same bytes in each run
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(chosen.randbytes(MIB))


def _tools(path: Path) -> float:
    """Seconds to hash and write the same bytes with standard tools."""
    copy = path.with_suffix(".copy")
    hashing = _timed(lambda: _run("sha256sum", str(path)))
    writing = _timed(lambda: _run("dd", f"if={path}", f"of={copy}", "bs=1M", "conv=fsync", "status=none"))
    copy.unlink()
    return hashing + writing


def _timed(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603


def _curl(service: Service, *words: str) -> str:
    return _run("curl", "-fsS", "-H", f"Authorization: Bearer {service.key}", *words)


def put(service: Service, path: Path, sha256: str) -> None:
    """One request with the raw bytes."""
    _curl(service, "-T", str(path), f"{service.url}/v1/blobs/{sha256}")


def tus(service: Service, path: Path, _sha256: str) -> None:
    """A resumable upload in one PATCH."""
    url = create(service, path.stat().st_size)
    words = [word for name, value in CHUNK.items() for word in ("-H", f"{name}: {value}")]
    _curl(service, "-X", "PATCH", "-T", str(path), *words, "-H", "Upload-Offset: 0", url)


def multipart(service: Service, path: Path, _sha256: str) -> None:
    """A form, as a browser sends it."""
    _curl(service, "-F", f"file=@{path}", f"{service.url}/v1/datasets")


def create(service: Service, length: int) -> str:
    """A new resumable upload."""
    headers = service.headers | TUS | {"Upload-Length": str(length)}
    answer = httpx.post(f"{service.url}/v1/uploads", headers=headers).raise_for_status()
    return service.url + answer.headers["location"]


def break_many(service: Service, count: int, seed: int) -> bool:
    """Cut uploads at random bytes, look for what should not be there, resume, compare."""
    chosen = random.Random(seed)  # noqa: S311 - the same cuts in each run
    killed = count // 5
    results = [_cut(service, chosen) for _ in range(count - killed)] + _kill(service, chosen, killed)
    visible, wrong = (sum(result[i] for result in results) for i in range(2))
    print(
        f"{count} uploads cut ({killed} by killing the API): {visible} visible as blobs, {wrong} ended wrong"
    )
    return visible == wrong == 0


def _cut(service: Service, chosen: random.Random) -> tuple[bool, bool]:
    content, url, connection = _begin(service, chosen)
    connection.close()
    return _visible(service, content), not resume(service, url, content)


def _kill(service: Service, chosen: random.Random, count: int) -> list[tuple[bool, bool]]:
    begun = [_begin(service, chosen) for _ in range(count)]
    os.kill(service.api(), signal.SIGKILL)
    for _, _, connection in begun:
        connection.close()
    _wait(service)
    return [(_visible(service, sent), not resume(service, url, sent)) for sent, url, _ in begun]


def _begin(service: Service, chosen: random.Random) -> tuple[bytes, str, socket.socket]:
    """An upload of random length of which a random number of bytes was sent."""
    content = chosen.randbytes(chosen.randrange(1, LARGEST_BROKEN))
    url = urlsplit(create(service, len(content)))
    lines = (
        service.headers
        | CHUNK
        | {"Host": url.netloc, "Upload-Offset": "0", "Content-Length": str(len(content))}
    )
    head = f"PATCH {url.path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
    connection = socket.create_connection((url.hostname, url.port))
    connection.sendall(head.encode() + content[: chosen.randrange(len(content))])
    return content, url.geturl(), connection


def _wait(service: Service) -> None:
    while True:
        try:
            httpx.get(f"{service.url}/readyz").raise_for_status()
        except httpx.HTTPError:
            time.sleep(RETRY_SECONDS)
        else:
            return


def _visible(service: Service, content: bytes) -> bool:
    sha256 = hashlib.sha256(content).hexdigest()
    answer = httpx.head(f"{service.url}/v1/blobs/{sha256}", headers=service.headers)
    return answer.status_code != http.HTTPStatus.NOT_FOUND


def resume(service: Service, url: str, content: bytes) -> bool:
    """Send what is missing, as a client does that lost its connection; whether the hash is right then."""
    headers = service.headers | CHUNK
    while True:
        offset = httpx.head(url, headers=headers).raise_for_status().headers["upload-offset"]
        rest = content[int(offset) :]
        checked = base64.b64encode(hashlib.sha256(rest).digest()).decode()
        sent = headers | {"Upload-Offset": offset, "Upload-Checksum": f"sha256 {checked}"}
        answer = httpx.patch(url, content=rest, headers=sent, timeout=60)
        if answer.status_code not in {http.HTTPStatus.LOCKED, http.HTTPStatus.CONFLICT}:
            ended: str | None = answer.headers.get("fewbits-sha256")
            return ended == hashlib.sha256(content).hexdigest()
        time.sleep(RETRY_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
