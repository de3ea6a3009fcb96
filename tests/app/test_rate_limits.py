"""How often a key may ask: told with every answer, the same on all processes, harmless without Redis."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.db.session import Database
from app.services import keys, projects
from app.settings import Settings
from tests.app.conftest import serving
from tests.app.problems import problem

POLICY = '"reads";q=5;w=60'


@pytest.fixture(autouse=True)
def one_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """No minute ends during a test."""
    monkeypatch.setattr("app.api.rates.time", lambda: 1_800_000_012.0)


@pytest.fixture
def settings(tmp_path: Path, migrated_sqlite: Path) -> Settings:
    """Five reads, two writes and three failed authentications a minute."""
    shutil.copy(migrated_sqlite, tmp_path / "fewbits.db")
    return Settings(home=tmp_path, rate_reads=5, rate_writes=2, rate_failures=3)


@pytest.fixture
def shared(settings: Settings, redis_url: str) -> Settings:
    """The same, counted in Redis."""
    return settings.model_copy(update={"redis_url": redis_url})


@pytest.fixture
def authorized(settings: Settings) -> Iterator[dict[str, str]]:
    database = Database(settings.database)
    with database.writing() as db:
        text = keys.create(db, projects.named(db, "limited"), "a test's", ("read", "write")).text
    yield {"Authorization": f"Bearer {text}"}
    database.dispose()


def used_up(url: str, headers: dict[str, str]) -> None:
    for left in (4, 3, 2, 1, 0):
        answer = httpx.get(f"{url}/v1/me", headers=headers)
        assert answer.status_code == 200
        assert answer.headers["ratelimit"] == f'"reads";r={left};t=48'
        assert answer.headers["ratelimit-policy"] == POLICY


def test_a_key_that_asks_too_often_is_told_when_to_come_back(
    settings: Settings, authorized: dict[str, str]
) -> None:
    with serving(settings) as url:
        used_up(url, authorized)
        refused = httpx.get(f"{url}/v1/me", headers=authorized)
        written = httpx.post(f"{url}/v1/jobs", headers=authorized, json={})
        alive = httpx.get(f"{url}/healthz")

    assert "5 reads a minute" in problem(refused, 429, "rate_limited")["detail"]
    assert refused.json()["retryable"]
    assert (refused.headers["retry-after"], refused.headers["ratelimit"]) == ("48", '"reads";r=0;t=48')
    assert written.status_code == 422
    assert re.match('"writes";r=1', written.headers["ratelimit"])
    assert "ratelimit" not in alive.headers


def test_the_count_holds_on_all_processes(shared: Settings, authorized: dict[str, str]) -> None:
    with serving(shared) as one, serving(shared) as other:
        used_up(one, authorized)

        problem(httpx.get(f"{other}/v1/me", headers=authorized), 429, "rate_limited")


def test_without_redis_each_process_counts_for_itself(settings: Settings, authorized: dict[str, str]) -> None:
    away = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    with serving(away) as url:
        used_up(url, authorized)

        problem(httpx.get(f"{url}/v1/me", headers=authorized), 429, "rate_limited")


def test_a_minute_later_all_is_forgotten(
    shared: Settings, authorized: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(shared) as url:
        used_up(url, authorized)
        monkeypatch.setattr("app.api.rates.time", lambda: 1_800_000_060.0)

        assert httpx.get(f"{url}/v1/me", headers=authorized).headers["ratelimit"] == '"reads";r=4;t=60'


def test_an_address_that_guesses_keys_is_slowed_but_a_right_key_behind_it_is_not(
    settings: Settings, authorized: dict[str, str]
) -> None:
    with serving(settings) as url:
        guesses = [httpx.get(f"{url}/v1/me", headers={"Authorization": f"Bearer fb_{i}_x"}) for i in range(5)]
        right = httpx.get(f"{url}/v1/me", headers=authorized)

    assert [answer.status_code for answer in guesses] == [401, 401, 401, 429, 429]
    assert "127.0.0.1" in problem(guesses[-1], 429, "rate_limited")["detail"]
    assert guesses[-1].headers["retry-after"] == "48"
    assert right.status_code == 200
