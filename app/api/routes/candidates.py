"""Candidates and the files that jobs made."""

from fastapi import APIRouter, Request, Response

from app.api.deps import ReadDb, Service, Who
from app.api.download import send_blob
from app.api.schemas import CandidateRead
from app.db import queries
from app.db.models import Artifact, Candidate
from app.domain.errors import NotFound

router = APIRouter(tags=["candidates"])


@router.get("/candidates/{candidate_id}")
def read_candidate(candidate_id: str, caller: Who, db: ReadDb) -> CandidateRead:
    """One candidate: its resolved recipe and what was measured."""
    row = queries.get_owned(db, Candidate, caller.project_id, candidate_id)
    return CandidateRead.of(row, queries.artifacts(db, row.id).get("candidate"))


@router.get("/candidates/{candidate_id}/content")
def download_candidate(
    candidate_id: str, request: Request, caller: Who, db: ReadDb, service: Service
) -> Response:
    """The quantized model."""
    row = queries.get_owned(db, Candidate, caller.project_id, candidate_id)
    artifact = queries.artifacts(db, row.id).get("candidate")
    if artifact is None:
        message = f"The candidate {candidate_id} is {row.state} and has no model."
        raise NotFound(message)
    return _send(request, service, db, artifact)


@router.get("/artifacts/{artifact_id}/content")
def download_artifact(
    artifact_id: str, request: Request, caller: Who, db: ReadDb, service: Service
) -> Response:
    """A file that a job made; its ETag is its SHA-256."""
    return _send(request, service, db, queries.get_owned(db, Artifact, caller.project_id, artifact_id))


def _send(request: Request, service: Service, db: ReadDb, artifact: Artifact) -> Response:
    blob = queries.blob(db, artifact.sha256)
    found = (blob.sha256, blob.key, blob.size)
    return send_blob(request, service.storage, found, artifact.filename, artifact.media_type)
