"""JSON columns of domain dataclasses."""

from app.db.base import adapter
from app.db.models import Candidate
from app.db.session import Database
from app.domain.job import JobSpec
from app.domain.recipe import DynamicInt8
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


def test_the_reader_of_a_type_is_made_once() -> None:
    for kind in (JobSpec, Figures):
        assert adapter(kind) is adapter(kind)
