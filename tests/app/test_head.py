"""HEAD is there wherever GET is."""

import httpx
import pytest

from tests import factories
from tests.app.conftest import Service, Tenant
from tests.waiting import SECONDS


@pytest.mark.parametrize(
    "path",
    ["/v1/jobs", "/v1/jobs/{job}", "/v1/jobs/job_0", "/v1/limits", "/healthz", "/docs", "/openapi.json"],
)
def test_head_tells_what_get_would_and_sends_no_body(service: Service, tenant: Tenant, path: str) -> None:
    url = path.format(job=factories.make_job(service.database, tenant.project))

    got, told = tenant.http.get(url), tenant.http.head(url)

    assert (told.status_code, told.content) == (got.status_code, b"")
    kept = ("content-type", "content-length", "location", "allow")
    assert [told.headers.get(name) for name in kept] == [got.headers.get(name) for name in kept]


def test_head_of_a_stream_ends_at_once(service: Service, tenant: Tenant) -> None:
    job = factories.make_job(service.database, tenant.project)

    told = tenant.http.head(f"/v1/jobs/{job}/events")

    assert (told.status_code, told.content) == (200, b"")
    assert told.headers["content-type"].startswith("text/event-stream")


def test_head_needs_a_key_where_get_does(service: Service) -> None:
    assert httpx.head(f"{service.url}/v1/jobs", timeout=SECONDS).status_code == 401


def test_where_there_is_no_get_there_is_no_head(http: httpx.Client) -> None:
    told = http.head("/v1/quantize")

    assert (told.status_code, told.headers["allow"]) == (405, "POST")
