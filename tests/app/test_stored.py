"""JSON columns of domain dataclasses."""

from typing import Any

from sqlalchemy import select, type_coerce, update

from app.db.base import Json, adapter
from app.db.models import Candidate, Job
from app.db.session import Database
from app.domain.job import JobSpec
from app.domain.recipe import DynamicInt8, Ranges, StaticInt8
from app.domain.report import Figures
from tests import factories


def test_dataclasses_come_back_as_they_were(database: Database) -> None:
    project = factories.make_project(database)
    job = factories.make_job(database, project, recipes=(DynamicInt8(weight="int8", per_channel=True),))
    with database.writing() as db:
        db.add(Candidate(project_id=project, job_id=job, position=7, name="x", figures=factories.figures()))

    assert factories.job_row(database, job).spec.recipes == (DynamicInt8(weight="int8", per_channel=True),)
    found = next(c for c in factories.candidates_of(database, job) if c.position == 7)
    assert (found.figures, found.recipe, found.problem) == (factories.figures(), None, None)


def stored_spec(database: Database, job: str) -> dict[str, Any]:
    with database.reading() as db:
        found: Any = db.scalars(select(type_coerce(Job.__table__.c.spec, Json)).where(Job.id == job)).one()
        return dict(found)


def test_what_was_left_out_is_not_stored_so_that_the_release_before_can_read_it(database: Database) -> None:
    recipes = (StaticInt8(ranges=Ranges(method="percentile", percentile=99.9)), DynamicInt8())
    job = factories.make_job(database, factories.make_project(database), recipes=recipes)

    stored = stored_spec(database, job)

    assert set(stored) == {"version", "evaluation", "recipes"}
    assert stored["recipes"] == [
        {"method": "static_int8", "ranges": {"method": "percentile", "percentile": 99.9}},
        {"method": "dynamic_int8"},
    ]
    assert factories.job_row(database, job).spec.recipes == recipes


def test_a_field_that_only_a_newer_release_knows_is_passed_over(database: Database) -> None:
    job = factories.make_job(database, factories.make_project(database), recipes=(DynamicInt8(),))
    spec = stored_spec(database, job)
    spec["evaluation"]["new"] = spec["recipes"][0]["new"] = spec["new"] = {"also": ["new"]}
    with database.writing() as db:
        db.execute(update(Job).values(spec=type_coerce(spec, Json)))

    assert factories.job_row(database, job).spec.recipes == (DynamicInt8(),)


def test_the_reader_of_a_type_is_made_once() -> None:
    for kind in (JobSpec, Figures):
        assert adapter(kind) is adapter(kind)
