"""Models and their versions: stored at once, inspected by a worker before anything uses them."""

import re
from collections.abc import Mapping, Sequence

from sqlalchemy.orm import Session

from app.db import queries
from app.db.models import Blob, Version, VersionFile
from app.domain.errors import Expired, Problem
from app.domain.job import check_transition
from app.domain.report import Examination
from app.domain.retention import day
from app.services import blobs, events, manifest, reuse, steps
from app.storage import Received, Storage

# A version keeps its bytes by reference; the project's own right to them is as short as it may be.
GRACE_SECONDS = 3600
ENDING = re.compile(r"\.(onnx|zip|tar|tgz|tar\.(gz|bz2|xz))$")
NAME = 200


def add_version(
    db: Session, project_id: str, name: str, files: Sequence[tuple[str, Blob]], labels: Mapping[str, str]
) -> Version:
    """Store a new version of a model and queue its inspection; without a name, the main file gives it."""
    ordered = _main_first(files)
    model = queries.ensure_model(db, project_id, name or _bare(ordered[0][0]))
    version = Version(project_id=project_id, model=model, labels=dict(labels))
    version.files = _files(ordered)
    db.add(version)
    db.flush()
    events.record(db, project_id, version.id, "version.created", state=version.state)
    if reuse.inspection(db, version):
        events.record(db, project_id, version.id, "version.ready", state="ready")
    else:
        steps.enqueue(db, project_id, "inspect_version", version.id)
    return version


def unpacked(db: Session, storage: Storage, version_id: str, files: Sequence[tuple[str, Received]]) -> None:
    """A version that came as an archive has these files now, its main file first; the archive expires."""
    version = db.get_one(Version, version_id, with_for_update=True)
    version.files = []
    db.flush()
    received = [file for _, file in files]
    kept = blobs.keep_all(db, storage, version.project_id, received, GRACE_SECONDS)
    version.files = _files([(path, kept[file.key]) for path, file in files])
    db.flush()


def accept(db: Session, version_id: str, examination: Examination) -> None:
    """The inspection found nothing wrong."""
    version = db.get_one(Version, version_id, with_for_update=True)
    check_transition("version", version.state, "ready")
    version.state, version.examination, version.inspected_by = "ready", examination, manifest.tools()
    events.record(db, version.project_id, version.id, "version.ready", state="ready")


def reject(db: Session, storage: Storage, version_id: str, problem: Problem) -> None:
    """The upload cannot be used: the row stays with its problem, the bytes go.

    Where trying again may help they stay for a day from now on.
    """
    version = db.get_one(Version, version_id, with_for_update=True)
    check_transition("version", version.state, "rejected")
    version.state, version.problem = "rejected", problem
    digests = [file.sha256 for file in version.files]
    version.files = []
    db.flush()
    blobs.let_go(db, storage, version.project_id, digests, again=problem.retryable)
    events.record(db, version.project_id, version.id, "version.rejected", state="rejected", code=problem.code)


def refuse_expired(version: Version) -> None:
    """Raises Expired when its bytes went because no job took it for long."""
    if version.expired_at:
        when = day(version.expired_at)
        raise Expired(
            f"The files of {version.id} expired on {when}: no job had taken it for as long as this project "
            "keeps models. Their SHA-256 and the reports of its jobs are kept; upload it again to use it."
        )


def _main_first(files: Sequence[tuple[str, Blob]]) -> list[tuple[str, Blob]]:
    """The model before its external data: the first `.onnx`, else the first file."""
    return sorted(files, key=lambda file: not file[0].endswith(".onnx"))


def _bare(path: str) -> str:
    """A file's name as a model's name."""
    return ENDING.sub("", path)[:NAME]


def _files(files: Sequence[tuple[str, Blob]]) -> list[VersionFile]:
    return [
        VersionFile(position=i, path=path, sha256=blob.sha256, size=blob.size)
        for i, (path, blob) in enumerate(files)
    ]
