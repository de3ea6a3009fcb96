"""Which workers are there, and what holds the engine calls of a step."""

import httpx
from sqlalchemy import select, update

from app.db.models import Step, Worker
from app.db.queries import workers
from app.services import outcomes, sweeper
from tests import factories
from tests.app.conftest import Service, Tenant

ALL = {"rlimits": True, "landlock": True, "seccomp": True}


def see(service: Service, name: str, sandbox: dict[str, bool]) -> None:
    with service.database.writing() as db:
        workers.see_worker(db, name, ["default"], sandbox)


def ready(service: Service) -> dict[str, object]:
    found: dict[str, object] = httpx.get(f"{service.url}/readyz", timeout=60).json()
    return found


def forget_all(service: Service) -> None:
    with service.database.writing() as db:
        for name in db.scalars(select(Worker.name)).all():
            workers.forget_worker(db, name)


def test_readiness_counts_workers_and_names_the_layers_that_all_of_them_have(service: Service) -> None:
    forget_all(service)
    see(service, "a:1", ALL)
    see(service, "a:1", ALL)
    see(service, "b:1", ALL | {"landlock": False})

    shown = ready(service)

    assert shown["workers"] == 2
    assert shown["sandbox"] == ALL | {"landlock": False}
    forget_all(service)


def test_readiness_says_when_there_is_no_worker(service: Service) -> None:
    forget_all(service)

    assert (ready(service)["workers"], ready(service)["sandbox"]) == (0, {})


def test_a_silent_worker_is_not_counted_and_is_swept_away(service: Service) -> None:
    forget_all(service)
    see(service, "gone:1", ALL)
    with service.database.writing() as db:
        db.execute(update(Worker).values(seen_at=Worker.seen_at - workers.SEEN_FOR - 1))

    assert ready(service)["workers"] == 0
    sweeper.sweep(service.database, service.storage)

    with service.database.reading() as db:
        assert db.scalars(select(Worker)).all() == []


def test_a_step_shows_what_held_its_engine_calls(service: Service, tenant: Tenant) -> None:
    job = factories.make_job(service.database, tenant.project)
    (step,) = factories.steps_of(service.database, job, "prepare")
    with service.database.writing() as db:
        assert outcomes.begin(db, step.id, "a:1", sandbox=("rlimits", "seccomp"))

    (shown,) = tenant.http.get(f"/v1/jobs/{job}/steps").json()["items"]

    assert shown["sandbox"] == ["rlimits", "seccomp"]
    with service.database.reading() as db:
        assert db.get_one(Step, step.id).worker == "a:1"
