"""What candidates and the files of a job look like."""

from datetime import datetime

from pydantic import BaseModel

from app.api.schemas.specs import ShownRecipe
from app.api.schemas.values import Problem, moment_or_none
from app.db.models import Artifact, Candidate
from app.db.retention import ExpiredArtifact
from app.domain.flips import Compared
from app.domain.report import (
    Accuracy,
    Fidelity,
    Figures,
    Kernels,
    Latency,
    Memory,
    Requires,
    Reused,
    RunsElsewhere,
    Size,
)
from app.domain.snippet import snippet
from app.domain.states import CandidateState


class ReusedRead(BaseModel):
    """From which job the results come; `measured_at` is null when latency and memory were measured anew."""

    job: str
    measured_at: datetime | None

    @classmethod
    def of(cls, reused: Reused | None) -> "ReusedRead | None":
        """As shown; null when everything was made for this job."""
        if reused is None:
            return None
        return cls(job=reused.job, measured_at=moment_or_none(reused.measured_at))


class CandidateRead(BaseModel):
    """One way of quantizing and what it costs and wins; a figure is null with a reason in `notes`.

    `snippet` is Python that loads and runs the model.
    """

    id: str
    job: str
    name: str
    recipe: ShownRecipe | None
    state: CandidateState
    error: Problem | None
    pareto: bool | None
    reused: ReusedRead | None
    notes: list[str]
    size: Size | None
    accuracy: Accuracy | None
    fidelity: Fidelity | None
    latency: Latency | None
    memory: Memory | None
    kernels: Kernels | None
    requires: Requires | None
    runs_elsewhere: RunsElsewhere | None
    snippet: str | None
    predictions: list[Compared]
    artifact: str | None
    links: dict[str, str]

    @classmethod
    def of(cls, row: Candidate, artifact: Artifact | ExpiredArtifact | None) -> "CandidateRead":
        """A row as shown, with the model it made or what is left of it."""
        figures, here = row.figures, f"/v1/candidates/{row.id}"
        links = {"self": here, "job": f"/v1/jobs/{row.job_id}"}
        links |= {"flips": f"{here}/flips"} if figures.predictions else {}
        return cls(
            id=row.id,
            job=row.job_id,
            name=row.name,
            recipe=row.recipe,
            state=row.state,
            error=Problem.of(row.problem),
            pareto=row.pareto,
            reused=ReusedRead.of(row.reused),
            notes=[str(note) for note in figures.notes],
            size=figures.size,
            accuracy=figures.accuracy,
            fidelity=figures.fidelity,
            latency=figures.latency,
            memory=figures.memory,
            kernels=figures.kernels,
            requires=figures.requires,
            runs_elsewhere=figures.runs_elsewhere,
            snippet=_snippet(figures, artifact),
            predictions=list(figures.predictions),
            artifact=artifact.id if artifact else None,
            links=links | ({"content": f"{here}/content"} if isinstance(artifact, Artifact) else {}),
        )


def _snippet(figures: Figures, artifact: Artifact | ExpiredArtifact | None) -> str | None:
    if not (figures.example and figures.requires and isinstance(artifact, Artifact)):
        return None
    return snippet(artifact.filename, figures.example, figures.requires)
