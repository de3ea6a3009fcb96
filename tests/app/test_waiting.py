"""`Prefer: wait`: one poll for everybody, and it survives a database that is away for a moment."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from sqlalchemy.exc import OperationalError
from starlette.types import Message

from app.api import live, waiting
from app.api.live import SharedLooks
from app.api.waiting import News, Watch, seconds_preferred
from app.db.session import Database
from app.domain.errors import Unauthenticated
from tests.waiting import SECONDS

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Scripted(Watch):
    """A watch whose looks are given: subjects that have settled, or an outage."""

    def __init__(self, *looks: Sequence[str] | None) -> None:
        super().__init__(Database("sqlite://"))
        self.asked: list[list[str]] = []
        self._looks = list(looks)

    def _look(
        self, waited_for: Sequence[str], _seen: Mapping[str, int]
    ) -> tuple[Sequence[str], Mapping[str, News]]:
        self.asked.append(sorted(waited_for))
        found = self._looks.pop(0) if self._looks else ()
        if found is None:
            raise OperationalError("SELECT", {}, Exception("the database is away"))
        return found, {}


@pytest.fixture
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.01)


@pytest.mark.usefixtures("quick_polls")
async def test_all_who_wait_share_one_poll_and_leave_when_theirs_has_settled() -> None:
    watch = Scripted((), ["job_1"], ["job_2"])

    await asyncio.gather(*[watch.settled(job, SECONDS) for job in ("job_1", "job_1", "job_2")])

    assert watch.asked == [["job_1", "job_2"], ["job_1", "job_2"], ["job_2"]]


@pytest.mark.usefixtures("quick_polls")
async def test_who_waits_outlives_an_outage_of_the_database() -> None:
    watch = Scripted(None, None, ["job_1"])

    await asyncio.wait_for(watch.settled("job_1", 600), SECONDS)

    assert len(watch.asked) == 3


@pytest.mark.usefixtures("quick_polls")
async def test_the_poll_ends_when_nobody_waits() -> None:
    watch = Scripted()

    await watch.settled("job_1", 0.05)
    assert watch._poll is not None
    await asyncio.wait_for(watch._poll, SECONDS)

    assert len(watch.asked) > 0


async def test_who_does_not_want_to_wait_does_not() -> None:
    watch = Scripted()

    await watch.settled("job_1", 0)

    assert watch.asked == []


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("wait=5", 5),
        ("respond-async, wait=10", 10),
        ("respond-async; wait=10", 10),
        ('wait="7"', 7),
        ("wait = 3", 3),
        ("wait=100000", 600),
        ("wait=99999999999999999999", 600),
        ("Wait=5", 5),
        ("wait=1e9", 0),
        ("wait=-1", 0),
        ("wait=soon", 0),
        ("await=5", 0),
    ],
)
async def test_how_long_a_client_prefers_to_wait(prefer: str | None, seconds: float) -> None:
    assert seconds_preferred(prefer) == seconds


async def test_one_look_at_a_key_serves_all_of_its_open_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SHARED_S", 3600.0)
    looked: list[object] = []

    def look(key: object) -> None:
        looked.append(key)
        if key == "ended":
            raise Unauthenticated

    shared = SharedLooks(look)
    found = await asyncio.gather(*[shared.at(key) for key in ["live", "ended"] * 50], return_exceptions=True)

    assert sorted(map(str, looked)) == ["ended", "live"]
    assert [type(one) for one in found] == [type(None), Unauthenticated] * 50


async def test_a_stream_goes_on_while_nobody_can_look_at_its_key_and_ends_with_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "RECHECK_S", 0.0)
    monkeypatch.setattr(live, "AGAIN_S", 0.0)
    answers: list[Exception] = [OperationalError("SELECT 1", {}, OSError("gone")), Unauthenticated()]
    sent: list[bytes] = []

    async def check() -> None:
        raise answers.pop(0)

    async def send(message: Message) -> None:
        sent.append(message["body"])

    async def refuse(error: Unauthenticated) -> None:
        raise AssertionError(error)

    sending = live.while_live(send, check, refuse)
    for body in (b"one", b"two", b"three"):
        await sending({"type": "http.response.body", "body": body, "more_body": True})

    assert sent == [b"one", b""]
