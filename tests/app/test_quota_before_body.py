"""What cannot fit into a project's quota is refused before its bytes are sent."""

import secrets

import pytest
from sqlalchemy import update

from app.api.forms import FIELD_BYTES
from app.db.models import Project
from app.domain.quota import Quotas
from tests.app.conftest import Service, Tenant, new_key
from tests.app.sockets import head, talk

ROOM = 1000


@pytest.fixture
def key(service: Service, tenant: Tenant) -> str:
    """A key of a project that may store a thousand bytes."""
    with service.database.writing() as db:
        db.execute(update(Project).where(Project.id == tenant.project).values(quotas=Quotas(bytes=ROOM)))
    return new_key(service, tenant.project, ("write",))


@pytest.mark.parametrize("path", ["/v1/models", "/v1/datasets", "/v1/quantize"])
def test_a_form_larger_than_the_whole_quota_is_refused_unread(service: Service, key: str, path: str) -> None:
    told = ("Content-Type: multipart/form-data; boundary=B", f"Content-Length: {ROOM + FIELD_BYTES + 1}")

    status, found = talk(service, head(path, key, *told))

    assert (status, found["code"]) == (413, "quota_exceeded")
    assert f"may store {ROOM} bytes" in found["detail"]


def test_a_blob_that_has_no_room_is_refused_unread(service: Service, key: str) -> None:
    request = head(f"/v1/blobs/{secrets.token_hex(32)}", key, f"Content-Length: {ROOM + 1}", method="PUT")

    status, found = talk(service, request)

    assert (status, found["code"]) == (413, "quota_exceeded")
    assert f"would have {ROOM + 1} with this upload" in found["detail"]
