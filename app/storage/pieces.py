"""Objects that are kept in pieces: cut while they are written, read one piece at a time."""

import io
from collections.abc import Callable, Iterator


class Pieces:
    """Cuts what comes into pieces of one size."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held = bytearray()

    def add(self, chunk: bytes) -> Iterator[bytes]:
        """The pieces that are full with this."""
        self._held += chunk
        while len(self._held) >= self._size:
            with memoryview(self._held) as held:
                piece = bytes(held[: self._size])
            del self._held[: self._size]
            yield piece

    def rest(self) -> bytes:
        """What fills no piece, which is held no longer."""
        held, self._held = bytes(self._held), bytearray()
        return held


class PiecePart:
    """A part that grows from its byte `stored` on; `store(start, piece)` makes a piece durable."""

    def __init__(self, size: int, stored: int, store: Callable[[int, bytes], None]) -> None:
        self._pieces, self._stored, self._store = Pieces(size), stored, store

    def write(self, chunk: bytes) -> None:
        """Append; what fills a piece is stored."""
        for piece in self._pieces.add(chunk):
            self._append(piece)

    def sync(self) -> None:
        """Store the rest too."""
        if rest := self._pieces.rest():
            self._append(rest)

    def _append(self, piece: bytes) -> None:
        self._store(self._stored, piece)
        self._stored += len(piece)


class PieceReader(io.RawIOBase):
    """Reads an object of which `fetch(position)` gives a piece that holds this byte, and the piece's start.

    Beyond the end `fetch` gives a piece that does not reach as far. One piece is held at a time.
    """

    def __init__(self, fetch: Callable[[int], tuple[int, bytes]]) -> None:
        self._fetch = fetch
        self._position = self._start = 0
        self._piece = b""

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """From the beginning, and from where it is."""
        return True

    def tell(self) -> int:
        """The next byte to be read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go on elsewhere.

        Raises:
            OSError: Counted from the end, which is not known.
        """
        if whence == io.SEEK_END:
            message = "the end of the object is not known"
            raise io.UnsupportedOperation(message)
        self._position = offset + (self._position if whence == io.SEEK_CUR else 0)
        return self._position

    def readinto(self, buffer: "memoryview[int]") -> int:  # type: ignore[override]  # io passes nothing else
        """Bytes up to the end of a piece; 0 at the object's end."""
        if not self._start <= self._position < self._start + len(self._piece):
            self._start, self._piece = self._fetch(self._position)
        first = self._position - self._start
        taken = self._piece[first : first + len(buffer)]
        buffer[: len(taken)] = taken
        self._position += len(taken)
        return len(taken)
