"""Candidates: planned, building, built, measured, each transition with its event."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sqlalchemy.orm import Session

from app.db import queries
from app.db.models import Candidate, Job
from app.domain import gate
from app.domain.against import Earlier, NoEarlier
from app.domain.errors import Problem
from app.domain.job import check_transition
from app.domain.note import Note
from app.domain.recipe import Recipe, title
from app.domain.report import (
    Figures,
    Latency,
    Memory,
    OpenVINO,
    Reused,
    RunsElsewhere,
    causes_of_slowness,
)
from app.services import artifacts, events, manifest
from app.storage import Received, Storage

NOTHING: Mapping[str, Received] = MappingProxyType({})
FIRST_JOB = "gate: this is the model's first job, so limits against an earlier one were left out"


def start_building(db: Session, candidate_id: str) -> None:
    """A worker took the candidate's build."""
    candidate = db.get_one(Candidate, candidate_id, with_for_update=True)
    if candidate.state == "planned":
        _move(db, candidate, "building")


def prepared(db: Session, job_id: str, figures: Figures) -> None:
    """The baseline was evaluated; nothing is built for it."""
    job, baseline = db.get_one(Job, job_id), queries.baseline(db, job_id)
    asked = manifest.asked_recipes(list(queries.candidates(db, job_id)))
    job.prepare_key = manifest.preparation_key(db, job, asked)
    baseline.figures = figures
    for state in ("building", "built"):
        _move(db, baseline, state)


def built(
    db: Session,
    storage: Storage,
    candidate_id: str,
    recipe: Recipe,
    figures: Figures,
    received: Received,
    more: Mapping[str, Received] = NOTHING,
) -> None:
    """The quantized model exists and was evaluated; `more` are JSON files about it, by kind."""
    candidate = db.get_one(Candidate, candidate_id, with_for_update=True)
    filename = f"{candidate.position:02d}-{recipe.method}.onnx"
    job = db.get_one(Job, candidate.job_id)
    artifacts.add(db, storage, job, candidate.id, "candidate", filename, received)
    for kind, file in more.items():
        artifacts.add(db, storage, job, candidate.id, kind, f"{candidate.position:02d}-{kind}.json", file)
    if candidate.recipe:
        candidate.build_key = manifest.build_key(db, job, candidate.recipe)
    candidate.recipe, candidate.name, candidate.figures = recipe, title(recipe), figures
    _move(db, candidate, "built")


def built_before(db: Session, candidate: Candidate, donor: Candidate, figures: Figures) -> None:
    """Another job built the same candidate of the same content."""
    candidate.recipe, candidate.name, candidate.build_key = donor.recipe, donor.name, donor.build_key
    candidate.figures = figures
    candidate.reused = Reused(donor.reused.job if donor.reused else donor.job_id, None)
    _move(db, candidate, "built")


def failed(db: Session, candidate_id: str, problem: Problem) -> None:
    """The candidate cannot be built; the job goes on without it."""
    candidate = db.get_one(Candidate, candidate_id, with_for_update=True)
    candidate.problem = problem
    _move(db, candidate, "failed")


def measured(
    db: Session,
    candidate_id: str,
    latency: Latency | None,
    memory: Memory | None,
    notes: tuple[Note, ...],
    openvino: OpenVINO | None = None,
) -> None:
    """The benchmark is done; what could not be measured has its reason in `notes`."""
    candidate = db.get_one(Candidate, candidate_id, with_for_update=True)
    elsewhere = replace(candidate.figures.runs_elsewhere or RunsElsewhere(), openvino=openvino)
    every = (*candidate.figures.notes, *notes, *causes_of_slowness(candidate.figures.kernels, latency))
    candidate.figures = replace(
        candidate.figures, latency=latency, memory=memory, runs_elsewhere=elsewhere, notes=every
    )
    _move(db, candidate, "measured")


def measured_before(db: Session, candidate: Candidate, donor: Candidate) -> None:
    """Another job measured the same model under the same conditions."""
    candidate.figures = donor.figures
    candidate.reused = Reused(donor.job_id, donor.job.finished_at)
    _move(db, candidate, "measured")


def canceled(db: Session, candidate: Candidate) -> None:
    """The job ended before the candidate did."""
    _move(db, candidate, "canceled")


def conclude(db: Session, job: Job, against: Earlier | NoEarlier | None = None) -> None:
    """Decide the gate, mark the Pareto front, and name the best candidate."""
    rows = {c.id: c for c in queries.lock_candidates(db, job.id) if c.state == "measured"}
    figures: Mapping[str, Figures] = {c.id: c.figures for c in rows.values()}
    front = gate.pareto(figures)
    for candidate in rows.values():
        candidate.pareto = candidate.id in front
    job.verdict = gate.decide(job.spec.gate, figures, against)
    job.best_id = job.verdict.best
    if isinstance(against, NoEarlier) and against.first:
        job.notes = [*job.notes, FIRST_JOB]


def _move(db: Session, candidate: Candidate, state: str) -> None:
    check_transition("candidate", candidate.state, state)
    candidate.state = state
    events.record(
        db, candidate.project_id, candidate.job_id, f"candidate.{state}", candidate=candidate.id, state=state
    )
