"""Files come down whole or not at all: into a file beside, resumed after a break, checked by SHA-256."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from fewbits.effects import Answer, Request, Send, Steps, Write
from fewbits.errors import InvalidInput, ServiceError
from fewbits.progress import Progress, Tell
from fewbits.sending import ATTEMPTS, is_good, pause_or_raise

PARTIAL = 206


@dataclass
class Incoming:
    """What has arrived of a file so far."""

    target: Path
    file: BinaryIO
    tell: Tell
    size: int = 0
    total: int = 0
    etag: str = ""
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def take(self, head: Answer) -> Write:
        """Where the bytes of this answer go: behind what is here, or instead of it."""
        if head.status != PARTIAL:
            self.file.seek(0)
            self.file.truncate()
            self.size, self.digest = 0, hashlib.sha256()
        self.etag = head.headers.get("etag", "")
        self.total = self.size + int(head.headers.get("content-length", 0))
        return self._add

    def headers(self) -> dict[str, str]:
        """What asks for the rest: what lies at a path never changes, and the whole is checked at the end."""
        rest = {"range": f"bytes={self.size}-"} if self.size else {}
        return {"accept-encoding": "identity", **rest}  # what is packed on the way has another length

    @property
    def whole(self) -> bool:
        """Whether these are the bytes that the service holds: its ETag is their SHA-256."""
        return self.etag == f'"{self.digest.hexdigest()}"'

    def _add(self, piece: bytes) -> None:
        with _writing(self.target):
            self.file.write(piece)
        self.digest.update(piece)
        self.size += len(piece)
        self.tell(Progress("downloading", self.target.name, self.size, self.total))


def fetch_file(source: str, target: Path, tell: Tell) -> Steps[Path]:
    """Bring the file at an API path to `target`.

    Raises:
        InvalidInput: The target cannot be written.
        ServiceError: The bytes that came are, each time, not those that the service holds.
    """
    part = target.with_name(target.name + ".part")
    try:
        with _writing(target):
            with part.open("w+b") as file:
                yield from _fill(source, Incoming(target, file, tell))
            part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidInput(f"{target} cannot be written: {error.strerror}.") from error


def _fill(source: str, incoming: Incoming) -> Steps[None]:
    fruitless = damaged = 0
    while True:
        before = incoming.size
        request = Request("GET", source, headers=incoming.headers(), into=incoming.take)
        outcome = yield Send(request)
        if incoming.whole:  # also when the line broke behind the last byte
            return
        if is_good(outcome):
            damaged += 1
            if damaged == ATTEMPTS:
                raise ServiceError(f"{source} arrived damaged: it does not have the SHA-256 {incoming.etag}.")
            incoming.size = 0  # which of the bytes are wrong is not known
            continue
        fruitless = 0 if incoming.size > before else fruitless + 1
        yield from pause_or_raise(request, outcome, fruitless)
