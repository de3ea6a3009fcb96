"""One claimed step at work: its folder, its lease, and what it may do with them."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from app.db.queries import scrubbing
from app.domain import processor
from app.domain.errors import Problem
from app.services import blobs
from app.services.steps import Claim
from app.storage import Received
from app.storage.base import add, chunks
from worker import footprint, sandbox
from worker.confine import MIB, Limits
from worker.lease import Lease
from worker.printed import Printed
from worker.process import Process
from worker.sandbox import Interrupted, Refusal

Answer = TypeVar("Answer")
MEMORY_PER_BYTE = 3
FILES_TOGETHER = 2  # times the largest file: gptq keeps three copies of a model for a while


@dataclass(frozen=True)
class Work:
    """What a step function gets."""

    process: Process
    claim: Claim
    lease: Lease
    folder: Path
    printed: Printed = field(default_factory=Printed)
    staged: list[int] = field(default_factory=list)  # bytes of each file; a child could change the files
    published: list[str] = field(default_factory=list)  # keys of what is in the store before a row names it

    def stage(self, sha256: str, path: str) -> Path:
        """Copy a blob into the step's folder and check its digest.

        Raises:
            OSError: There is no room, or the store's bytes are not what they were; the sweeper looks at them.
            BlobDamaged: It has looked.
            Refusal: The path leads out of the folder, by its name or by links that a child has made.
            Interrupted: The step was taken away, or the worker stops.
        """
        with self.process.database.reading() as db:
            blob = blobs.whole(db, sha256)
        target = self.folder / path
        if self.folder not in target.resolve().parents:
            raise Refusal(Problem("engine_crashed", f"{path[:100]!r} leads out of the step's folder."))
        target.parent.mkdir(parents=True, exist_ok=True)
        self._expect(blob.size)
        digest = hashlib.sha256()
        store = self.process.storage
        with suppress(FileNotFoundError), store.open(blob.key) as source, target.open("xb") as copy:
            for chunk in self._while_ours(chunks(source)):
                digest.update(chunk)
                copy.write(chunk)
        if digest.hexdigest() != sha256:
            with self.process.database.writing() as db:
                scrubbing.suspect_blob(db, sha256)
            message = f"blob {sha256} is damaged in the store"
            raise OSError(message)
        return target

    def _expect(self, size: int) -> None:
        """Count a file that is about to be staged, if there is room."""
        if size > footprint.spare(self.folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.staged.append(size)

    def publish(self, path: Path) -> Received:
        """Copy a file that the step made into the store.

        Raises:
            Refusal: It is no regular file below the step's folder; the child that made it is not trusted.
            Interrupted: The step was taken away, or the worker stops.
        """
        if path.is_symlink() or not path.is_file() or self.folder not in path.resolve().parents:
            detail = f"The engine's result {path.name[:100]!r} is no regular file of its own."
            raise Refusal(Problem("engine_crashed", detail))
        with path.open("rb") as source:
            return self._noted(add(self.process.storage, self._while_ours(chunks(source))))

    def keep(self, value: object) -> Received:
        """Write a dataclass into the store as JSON."""
        return self._noted(add(self.process.storage, [TypeAdapter(type(value)).dump_json(value)]))

    def _while_ours(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Copies of gigabytes take longer than a stop waits."""
        for piece in pieces:
            if self._is_interrupted():
                raise Interrupted
            yield piece

    def _is_interrupted(self) -> bool:
        return self.lease.lost or self.process.stopping.is_set()

    def _noted(self, received: Received) -> Received:
        self.published.append(received.key)
        return received

    def call(
        self, name: str, request: object, answer: type[Answer], share: tuple[float, float] = (0.0, 1.0)
    ) -> Answer:
        """Run an engine call in the sandbox; its progress fills `share` of the step's."""
        return sandbox.run(
            name,
            request,
            answer,
            folder=self.folder,
            limits=self._limits(),
            on_progress=self._progress(share),
            on_log=self.printed.add,
            interrupted=self._is_interrupted,
        )

    def _progress(self, share: tuple[float, float]) -> Callable[[float], None]:
        low, high = share

        def report(value: float) -> None:
            self.lease.progress = low + (high - low) * value

        return report

    def _limits(self) -> Limits:
        settings = self.process.settings
        inspects = self.claim.kind.startswith("inspect")
        seconds = settings.inspect_seconds if inspects else settings.sandbox_seconds
        return Limits(
            memory=min(
                max(settings.sandbox_memory, MEMORY_PER_BYTE * footprint.taken(self.folder) + 1024 * MIB),
                processor.allowed_memory(),
            ),
            cpu_s=seconds * processor.allowed_cores(),
            file=settings.sandbox_output,
            folder=FILES_TOGETHER * settings.sandbox_output + sum(self.staged),
            wall_s=seconds,
        )
