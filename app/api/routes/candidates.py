"""Candidates and the models that they are."""

from typing import Any

from fastapi import APIRouter, Request, Response

from app.api.deps import ReadDb, Service, Who
from app.api.download import ANSWERS, MAY_EXPIRE
from app.api.refusals import refuses
from app.api.routes.artifacts import send_artifact
from app.api.schemas.candidates import CandidateRead
from app.db import queries
from app.db.models import Candidate
from app.db.queries import retention, timeline
from app.domain.errors import NoLayers, NotFound
from app.domain.flips import Flips
from app.services import artifacts

router = APIRouter()
LAYERS: dict[int | str, dict[str, Any]] = refuses("no_layers") | {
    200: {
        "description": "One entry per layer",
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": {"layers": {"type": "array", "items": {}}}}
            }
        },
    }
}
FLIPS: dict[int | str, dict[str, Any]] = {
    200: {"model": Flips, "description": "The samples that changed"},
    206: {"description": "The bytes of `Range`", "content": {"application/json": {}}},
}


@router.get("/candidates/{candidate_id}")
def read_candidate(candidate_id: str, caller: Who, db: ReadDb) -> CandidateRead:
    """One candidate: its resolved recipe and what was measured."""
    row = queries.get_owned(db, Candidate, caller.project_id, candidate_id)
    return CandidateRead.of(row, timeline.model_of(db, row.id))


@router.get("/candidates/{candidate_id}/content", responses=MAY_EXPIRE, response_class=Response)
@router.head("/candidates/{candidate_id}/content", include_in_schema=False)
def download_candidate(
    candidate_id: str, request: Request, caller: Who, db: ReadDb, service: Service
) -> Response:
    """The quantized model. Takes `Range`, `If-Range`, `If-None-Match` and HEAD."""
    row = queries.get_owned(db, Candidate, caller.project_id, candidate_id)
    artifact = queries.artifacts(db, row.id).get("candidate")
    if left := retention.expired_artifact_of(db, row.id, "candidate"):
        raise artifacts.gone(left)
    if artifact is None:
        message = f"The candidate {candidate_id} is {row.state} and has no model."
        raise NotFound(message)
    return send_artifact(request, service, db, artifact)


@router.get("/candidates/{candidate_id}/layers", responses=LAYERS, response_class=Response)
def read_layers(candidate_id: str, request: Request, caller: Who, db: ReadDb, service: Service) -> Response:
    """What each layer does to the outputs, as the job found it; 404 `no_layers` when it did not look."""
    row = queries.get_owned(db, Candidate, caller.project_id, candidate_id)
    artifact = queries.artifacts(db, row.id).get("layers")
    if artifact is None:
        message = f"The candidate {candidate_id} is {row.state} and nothing is known of its layers."
        raise NoLayers(message)
    return send_artifact(request, service, db, artifact)


@router.get("/candidates/{candidate_id}/flips", responses=ANSWERS | FLIPS, response_class=Response)
def read_flips(candidate_id: str, request: Request, caller: Who, db: ReadDb, service: Service) -> Response:
    """Which samples changed from right to wrong and from wrong to right, at most 100.

    Lost ones come first. Without labels, these are the samples whose best class changed; where the output
    holds no class scores, the samples whose output differs most from the float model's.
    """
    row = queries.get_owned(db, Candidate, caller.project_id, candidate_id)
    artifact = queries.artifacts(db, row.id).get("flips")
    if artifact is None:
        raise NotFound(_without_flips(row))
    return send_artifact(request, service, db, artifact)


def _without_flips(row: Candidate) -> str:
    if row.baseline:
        return f"{row.id} is the float model, which others are compared with; ask for a candidate's flips."
    return f"{row.id} is {row.state} and was not compared with float; that needs data and a build."
