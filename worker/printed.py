"""What the engine's children printed in one attempt of a step, as users may read it."""

import re
from pathlib import Path
from threading import Lock

KEPT_BYTES = 64 * 1024
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Printed:
    """The last 64 kB of several children's standard error; they may run side by side."""

    def __init__(self) -> None:
        self._tail = b""
        self._guard = Lock()

    def add(self, tail: bytes) -> None:
        """What one child printed."""
        if tail.strip():
            with self._guard:
                self._tail = (self._tail + tail.rstrip() + b"\n")[-KEPT_BYTES:]

    def text(self, folder: Path) -> str:
        """Plain text of at most 64 kB: no control characters, paths relative to the step's folder."""
        text = self._tail.decode(errors="replace").replace("\r\n", "\n").replace(f"{folder}/", "")
        plain = CONTROLS.sub("", ESCAPES.sub("", text))
        return plain.encode()[-KEPT_BYTES:].decode(errors="ignore")
