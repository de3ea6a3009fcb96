"""A line to a server's socket that can be cut without a word: no end, no error, and later it goes on.

Whoever holds a connection through it sees what a partition of the network shows: nothing.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PIECE = 64 * 1024


class Line:
    """Carries bytes between sockets while it is whole."""

    def __init__(self, here: Path, there: Path) -> None:
        self._here, self._there = here, there
        self._loop = asyncio.new_event_loop()
        self._whole = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """From now on nothing passes, and who connects hears nothing."""
        self._loop.call_soon_threadsafe(self._whole.clear)

    def mend(self) -> None:
        """What waited passes now."""
        self._loop.call_soon_threadsafe(self._whole.set)

    def run(self) -> None:
        """Listen until `stop`."""
        asyncio.set_event_loop(self._loop)
        self._whole.set()
        self._loop.run_until_complete(asyncio.start_unix_server(self._accept, self._here))
        self._loop.run_forever()
        self._loop.run_until_complete(self._hang_up())
        self._loop.close()

    def stop(self) -> None:
        """End every connection."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._whole.wait()
        far_reader, far_writer = await asyncio.open_unix_connection(self._there)
        for source, target in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.ensure_future(self._carry(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await source.read(PIECE):
                await self._whole.wait()
                target.write(piece)
                await target.drain()
        target.close()

    async def _hang_up(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextmanager
def line_to(there: Path, folder: Path) -> Iterator[Line]:
    """A line to this socket; its own end has the same name, in the folder."""
    folder.mkdir()
    line = Line(folder / there.name, there)
    thread = threading.Thread(target=line.run)
    thread.start()
    try:
        yield line
    finally:
        line.stop()
        thread.join()
