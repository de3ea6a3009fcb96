"""A model that is sent as an archive becomes a version with the files in it."""

import hashlib
import io
import zipfile

import httpx
from sqlalchemy.orm import Session

from app.services import models
from tests import factories
from tests.app.conftest import Service
from tests.app.uploading import content


def test_a_version_shows_the_files_of_its_archive(service: Service, http: httpx.Client) -> None:
    members = {"big.onnx": content(), "data/w.bin": content()}
    version = http.post("/v1/models", files={"file": ("big.zip", content())}).json()
    step = factories.step_of(service.database, version["id"], "inspect_version")
    claim = factories.take(service.database, step.id)
    stored = [(path, factories.store(service.storage, value)) for path, value in members.items()]

    def record(db: Session) -> None:
        models.unpacked(db, service.storage, version["id"], stored)
        models.accept(db, version["id"], factories.EXAMINATION)

    factories.finish(service.database, claim, record)

    shown = http.get(version["links"]["self"]).json()
    assert (shown["state"], shown["name"]) == ("ready", "big")
    assert {f["path"]: f["sha256"] for f in shown["files"]} == {
        path: hashlib.sha256(value).hexdigest() for path, value in members.items()
    }
    with zipfile.ZipFile(io.BytesIO(http.get(version["links"]["content"]).content)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == members
