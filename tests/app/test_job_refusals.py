"""Jobs that are refused when they are asked for, and the place in them that is wrong."""

from typing import Any

import pytest

from app.db.session import Database
from app.domain.errors import InvalidInput
from app.domain.job import Calibration, Evaluation, JobSpec
from app.domain.recipe import DynamicInt8, StaticInt8
from app.services import jobs
from app.storage import LocalStorage
from tests import factories


@pytest.mark.parametrize("version", ["", "ver_unknown", "dst_wrong"])
def test_a_job_on_a_version_that_is_not_there_is_refused(
    database: Database, project: str, version: str
) -> None:
    with pytest.raises(InvalidInput) as refusal, database.writing() as db:
        jobs.create(db, project, JobSpec(version=version))

    assert [error.pointer for error in refusal.value.errors] == ["/version"]


@pytest.mark.parametrize(
    ("pointer", "named"),
    [
        ("/calibration/dataset", {"calibration": Calibration(dataset="dst_unknown")}),
        ("/evaluation/dataset", {"evaluation": Evaluation(dataset="ver_wrong")}),
    ],
)
def test_a_job_that_names_a_dataset_that_is_not_there_is_refused(
    database: Database, project: str, pointer: str, named: dict[str, Any]
) -> None:
    version = factories.make_version(database, project)

    with pytest.raises(InvalidInput) as refusal, database.writing() as db:
        jobs.create(db, project, JobSpec(version=version, **named))

    assert [error.pointer for error in refusal.value.errors] == [pointer]


def test_a_job_on_a_rejected_version_is_refused(
    database: Database, storage: LocalStorage, project: str
) -> None:
    version = factories.make_version(database, project, ready=False)
    inspection = factories.step_of(database, version, "inspect_version")
    problem = factories.fail(database, storage, inspection.id, "not_onnx")

    with pytest.raises(InvalidInput) as refusal, database.writing() as db:
        jobs.create(db, project, JobSpec(version=version))

    assert problem.detail in refusal.value.errors[0].detail


def test_a_job_on_another_projects_version_is_refused(database: Database, project: str) -> None:
    foreign = factories.make_version(database, factories.make_project(database))

    with pytest.raises(InvalidInput) as refusal, database.writing() as db:
        jobs.create(db, project, JobSpec(version=foreign))

    assert refusal.value.errors[0].pointer == "/version"


def test_a_recipe_that_needs_data_is_refused_without(database: Database, project: str) -> None:
    version = factories.make_version(database, project)
    spec = JobSpec(version=version, recipes=(DynamicInt8(), StaticInt8()))

    with pytest.raises(InvalidInput) as refusal, database.writing() as db:
        jobs.create(db, project, spec)

    assert [error.pointer for error in refusal.value.errors] == ["/recipes/1"]
