"""What an operation wants done, and what came of it: the vocabulary between `calls` and the two clients.

An operation is a generator. It yields effects and is sent their outcomes, so it does no input or output of
its own and is written once; `client` and `async_client` carry effects out, each in its own way.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Write = Callable[[bytes], object]


@dataclass(frozen=True)
class Slice:
    """`size` bytes of a file from `offset` on; `told` hears how many were read after each piece."""

    path: Path
    offset: int
    size: int
    told: Callable[[int], object]


@dataclass(frozen=True)
class Request:
    """One HTTP request below the service's URL.

    `json` or `body` is what is sent; `into` is asked, once the answer is good, where its bytes go. An answer
    may take `patience_s` seconds, and so may each piece of it.
    """

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    body: Slice | None = None
    into: "Callable[[Answer], Write] | None" = None
    patience_s: float = 60.0


@dataclass(frozen=True)
class Answer:
    """What the service answered; names of headers are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Broken:
    """There was no whole answer."""

    reason: str


@dataclass(frozen=True)
class Send:
    """Outcome: an Answer or Broken."""

    request: Request


@dataclass(frozen=True)
class Pause:
    """Wait this long. Outcome: nothing."""

    seconds: float


@dataclass(frozen=True)
class Work:
    """Do something slow on this computer. Outcome: what it returns."""

    function: Callable[[], object]


@dataclass(frozen=True)
class Sender:
    """Outcome: who sends, and where to, as `unfinished.sender` names it."""


@dataclass(frozen=True)
class Open:
    """Begin to read a stream of events. Outcome: a Stream, an Answer that is none, or Broken."""

    request: Request


@dataclass(frozen=True)
class Stream:
    """A stream that was opened; `source` belongs to the client that opened it, and closes it at the end."""

    source: Any


@dataclass(frozen=True)
class Message:
    """One message of a stream; `id` is that of the last message which had one."""

    id: str
    data: str


@dataclass(frozen=True)
class Next:
    """Outcome: a Message, None at the end of the stream, or Broken."""

    stream: Stream


@dataclass(frozen=True)
class Found(Generic[T]):
    """One item for whoever iterates. Outcome: nothing."""

    item: T


Effect = Send | Pause | Work | Sender | Open | Next
Steps = Generator[Effect, Any, T]
Items = Generator[Effect | Found[T], Any, None]
