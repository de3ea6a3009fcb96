"""What routes ask for, as annotated types.

FastAPI gives each plain function a thread: what does not wait is `async` here.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Header, Query, Request, Response
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query as QueryOf
from fastapi.routing import APIRoute
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api.digests import Digests
from app.api.metrics import Metrics
from app.api.middleware import caller_of
from app.api.schemas.values import A_LINE, ANY_ID, Page
from app.api.waiting import Watch, seconds_preferred
from app.db.session import Database
from app.domain.errors import InvalidInput, pointer
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


async def _the_app(request: Request) -> App:
    found = request.app.state.fewbits
    assert isinstance(found, App)  # noqa: S101 - create_app put it there
    return found


async def _caller(request: Request) -> Caller:
    return caller_of(request)


Service = Annotated[App, Depends(_the_app)]
Who = Annotated[Caller, Depends(_caller)]


def _reading(service: Service) -> Iterator[Session]:
    with service.database.reading() as db:
        yield db


def _writing(service: Service) -> Iterator[Session]:
    with service.database.writing() as db:
        yield db


async def _seconds(
    response: Response, prefer: Annotated[str | None, Header(description=PREFER, examples=["wait=5"])] = None
) -> float:
    seconds = seconds_preferred(prefer)
    if seconds:
        response.headers["Preference-Applied"] = f"wait={seconds:.0f}"
    return seconds


ReadDb = Annotated[Session, Depends(_reading, scope="function")]
WriteDb = Annotated[Session, Depends(_writing, scope="function")]  # commits before the answer is sent
Wait = Annotated[float, Depends(_seconds)]


@dataclass(frozen=True)
class Paging:
    """The page of a list that a request asks for."""

    request: Request
    response: Response
    limit: int
    cursor: str | None

    def show(self, rows: Sequence[Row], show: Callable[[Row], Shown]) -> Page[Shown]:
        """The page, with the link to the next one where there is one row more than the limit."""
        items = [show(row) for row in rows[: self.limit]]
        more = len(rows) > self.limit
        cursor = str(getattr(rows[self.limit - 1], "id")) if more else None  # noqa: B009 - any row has one
        if cursor:
            following = self.request.url.include_query_params(cursor=cursor, limit=self.limit)
            self.response.headers["Link"] = f'<{following}>; rel="next"'
        return Page[Shown](items=items, next_cursor=cursor)


def _paging(default: int, most: int, of: str, place: str) -> Callable[..., Awaitable[Paging]]:
    async def asked(
        request: Request,
        response: Response,
        limit: Annotated[int, Query(ge=1, le=most, description=f"{of} on one page")] = default,
        cursor: Annotated[
            str | None, Query(pattern=place, description="`next_cursor` of the page before")
        ] = None,
    ) -> Paging:
        _refuse_unknown(request)
        return Paging(request, response, limit, cursor)

    return asked


def _refuse_unknown(request: Request) -> None:
    """A filter that is misspelt would let everything through.

    Raises:
        InvalidInput: The list has no parameter of this name.
    """
    known = _parameters(request.scope["route"]) if request.query_params else frozenset()
    for name in request.query_params:
        family = name.partition(".")[0] + "."  # what is said of label.branch holds for any label
        if not {name, family} & known:
            detail = f"there is no parameter of this name; known are {', '.join(sorted(known))}"
            raise InvalidInput.at(pointer(name), detail)


def _parameters(route: APIRoute) -> frozenset[str]:
    """The names of a list's parameters in the query."""
    ours = {
        field.alias for field in get_flat_params(route.dependant) if isinstance(field.field_info, QueryOf)
    }
    more = (given["name"] for given in (route.openapi_extra or {}).get("parameters", ()))
    return frozenset(ours | {name.partition(".")[0] + "." for name in more})


Paged = Annotated[Paging, Depends(_paging(20, 100, "Rows", ANY_ID))]
PagedMany = Annotated[Paging, Depends(_paging(100, 100, "Rows", ANY_ID))]
PagedLines = Annotated[Paging, Depends(_paging(1000, 1000, "Lines", A_LINE))]
