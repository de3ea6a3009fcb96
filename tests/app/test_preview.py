"""The first samples of a dataset, as an inspection kept them."""

import base64

import httpx

from app.domain.preview import ArrayPreview, Preview, SamplePreview
from app.services import datasets
from tests import factories
from tests.app.conftest import Service, Tenant
from tests.app.problems import pointers, problem

PNG = b"\x89PNG\r\n\x1a\n and so on"
PICTURE = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
PIXELS = ArrayPreview("image", "uint8", (3, 4, 4), 0.0, 255.0, 100.0, (1.0, 2.0), PICTURE)
NUMBERS = ArrayPreview("x", "float32", (2,), None, None, None, (None, None), None)
SHOWN = Preview(
    (
        SamplePreview(0, 'cat/ä "1".png', 0, "cat", (PIXELS,)),
        SamplePreview(1, None, None, None, (NUMBERS,)),
    )
)


def previewed(service: Service, tenant: Tenant) -> str:
    dataset = factories.make_dataset(service.database, tenant.project, ready=False)
    claim = factories.take(
        service.database, factories.step_of(service.database, dataset, "inspect_dataset").id
    )
    factories.finish(
        service.database, claim, lambda db: datasets.accept(db, dataset, factories.SUMMARY, SHOWN)
    )
    return dataset


def test_the_preview_shows_pictures_labels_names_and_values(
    service: Service, tenant: Tenant, http: httpx.Client
) -> None:
    dataset = previewed(service, tenant)

    link = http.get(f"/v1/datasets/{dataset}").json()["links"]["preview"]
    first, second = http.get(link).json()["samples"]

    assert (first["name"], first["label_name"]) == ('cat/ä "1".png', "cat")
    assert first["arrays"][0]["picture"] == PICTURE
    assert second["arrays"][0]["values"] == [None, None]


def test_one_picture_can_be_asked_for_by_itself(service: Service, tenant: Tenant, http: httpx.Client) -> None:
    dataset = previewed(service, tenant)

    answer = http.get(f"/v1/datasets/{dataset}/preview", params={"index": 0})

    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, "image/png", PNG)


def test_a_sample_without_a_picture_or_beyond_the_end_is_not_found(
    service: Service, tenant: Tenant, http: httpx.Client
) -> None:
    dataset = previewed(service, tenant)

    for index in (1, 5):
        problem(http.get(f"/v1/datasets/{dataset}/preview", params={"index": index}), 404, "not_found")
    for index in (8, -1):
        assert pointers(http.get(f"/v1/datasets/{dataset}/preview", params={"index": index})) == ["/index"]


def test_a_dataset_that_is_not_inspected_or_was_rejected_has_no_preview(
    service: Service, tenant: Tenant, http: httpx.Client
) -> None:
    dataset = factories.make_dataset(service.database, tenant.project, ready=False)
    waiting = http.get(f"/v1/datasets/{dataset}/preview")
    step = factories.step_of(service.database, dataset, "inspect_dataset")
    factories.fail(service.database, service.storage, step.id, "bad")
    rejected = http.get(f"/v1/datasets/{dataset}/preview")

    problem(waiting, 409, "not_inspected")
    assert "rejected" in problem(rejected, 404, "not_found")["detail"]


def test_somebody_elses_preview_is_not_there(service: Service, tenant: Tenant, stranger: Tenant) -> None:
    dataset = previewed(service, tenant)

    problem(stranger.http.get(f"/v1/datasets/{dataset}/preview"), 404, "not_found")
