"""What routes ask for, as annotated types."""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, TypeVar

from fastapi import Depends, Header, Query, Request, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api.digests import Digests
from app.api.metrics import Metrics
from app.api.middleware import caller_of
from app.api.schemas import Page
from app.api.waiting import Watch, seconds_preferred
from app.db.session import Database
from app.services.keys import Caller
from app.settings import Settings
from app.storage import Storage

Result = TypeVar("Result")
Row = TypeVar("Row")
Shown = TypeVar("Shown")


PREFER = "`wait=N` holds the answer until the end, at most N seconds (600)"


class App:
    """What the application holds for its routes."""

    def __init__(self, settings: Settings, database: Database, storage: Storage) -> None:
        self.settings = settings
        self.database = database
        self.storage = storage
        self.watch = Watch(database)
        self.metrics = Metrics(database)
        self.digests = Digests()

    async def read(self, function: Callable[[Session], Result]) -> Result:
        """Run a function with a reading session in a thread."""
        return await run_in_threadpool(self._read, function)

    async def write(self, function: Callable[[Session], Result]) -> Result:
        """Run a function as one transaction in a thread."""
        return await run_in_threadpool(self._write, function)

    def _read(self, function: Callable[[Session], Result]) -> Result:
        with self.database.reading() as db:
            return function(db)

    def _write(self, function: Callable[[Session], Result]) -> Result:
        with self.database.writing() as db:
            return function(db)


def the_app(request: Request) -> App:
    """The application of this request."""
    found = request.app.state.fewbits
    assert isinstance(found, App)  # noqa: S101 - create_app put it there
    return found


def _reading(request: Request) -> Iterator[Session]:
    with the_app(request).database.reading() as db:
        yield db


def _writing(request: Request) -> Iterator[Session]:
    with the_app(request).database.writing() as db:
        yield db


def _seconds(
    response: Response, prefer: Annotated[str | None, Header(description=PREFER, examples=["wait=5"])] = None
) -> float:
    seconds = seconds_preferred(prefer)
    if seconds:
        response.headers["Preference-Applied"] = f"wait={seconds:.0f}"
    return seconds


ReadDb = Annotated[Session, Depends(_reading, scope="function")]
WriteDb = Annotated[Session, Depends(_writing, scope="function")]  # commits before the answer is sent
Service = Annotated[App, Depends(the_app)]
Who = Annotated[Caller, Depends(caller_of)]
Wait = Annotated[float, Depends(_seconds)]
Limit = Annotated[int, Query(ge=1, le=100, description="Rows on one page")]
Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before", max_length=40)]


def page(
    request: Request, response: Response, rows: Sequence[Row], limit: int, show: Callable[[Row], Shown]
) -> Page[Shown]:
    """A page of shown rows; one row more than the limit means that there is a next page."""
    items = [show(row) for row in rows[:limit]]
    cursor = str(getattr(rows[limit - 1], "id")) if len(rows) > limit else None  # noqa: B009 - any row has one
    if cursor:
        following = request.url.include_query_params(cursor=cursor, limit=limit)
        response.headers["Link"] = f'<{following}>; rel="next"'
    return Page[Shown](items=items, next_cursor=cursor)
