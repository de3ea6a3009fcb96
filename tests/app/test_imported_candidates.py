"""Models quantized elsewhere become candidates of a job."""

import pytest

from app.db.session import Database
from app.domain.errors import InvalidInput
from app.domain.job import JobSpec
from app.domain.recipe import Imported
from app.services import jobs
from app.storage import LocalStorage
from tests import factories


def create(database: Database, project: str, *imported: str) -> str:
    spec = JobSpec(
        version=factories.make_version(database, project),
        recipes=factories.TWO_RECIPES[:1],
        candidates=imported,
    )
    with database.writing() as db:
        return jobs.create(db, project, spec).id


def test_each_imported_model_is_a_candidate_after_the_recipes(
    database: Database, storage: LocalStorage, project: str
) -> None:
    imported = [factories.make_version(database, project) for _ in range(2)]
    job = create(database, project, *imported)

    factories.work_off(database, storage, job)

    assert factories.job_row(database, job).state == "succeeded"
    recipes = [candidate.recipe for candidate in factories.candidates_of(database, job)]
    assert recipes[1:] == [Imported(version=version) for version in imported]


def test_a_job_waits_for_the_inspection_of_an_imported_model(database: Database, project: str) -> None:
    imported = factories.make_version(database, project, ready=False)
    job = create(database, project, imported)
    assert factories.steps_of(database, job) == []

    factories.accept(database, imported)

    assert [step.kind for step in factories.steps_of(database, job)] == ["prepare"]


@pytest.mark.parametrize("wrong", ["ver_nobodys", "dst_no_version"])
def test_an_imported_model_that_is_not_there_is_pointed_at(
    database: Database, project: str, wrong: str
) -> None:
    known = factories.make_version(database, project)

    with pytest.raises(InvalidInput) as refusal:
        create(database, project, known, wrong)

    assert [error.pointer for error in refusal.value.errors] == ["/candidates/1"]


def test_another_projects_model_is_not_there(database: Database, project: str) -> None:
    theirs = factories.make_version(database, factories.make_project(database))

    with pytest.raises(InvalidInput) as refusal:
        create(database, project, theirs)

    assert [error.pointer for error in refusal.value.errors] == ["/candidates/0"]
