"""What was made before of the same content serves again: inspections, preparations, builds, measurements.

All but measurements are functions of content. A measurement serves for a week, from a job that succeeded, and
only while a host like the one that measured it benchmarks here. Either all of a job's candidates were
measured on one kind of host, or all are measured anew: figures of two hosts do not stand side by side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy.orm import Session

from app.db import queries
from app.db.models import Artifact, Candidate, Dataset, Job, Version, VersionFile
from app.db.queries import reuse
from app.domain.note import MEASURED
from app.domain.recipe import Recipe, reads_ranges
from app.domain.report import Figures, Latency
from app.services import artifacts, candidates, manifest


def inspection(db: Session, row: Version | Dataset) -> bool:
    """Accept an upload as the same content was accepted before; False: it has to be inspected."""
    if isinstance(row, Dataset):
        row.content_key = manifest.dataset_key(row)
        seen = reuse.inspected(db, row, manifest.tools())
        if seen is None:
            return False
        row.summary, row.preprocess, row.state = seen.summary, seen.preprocess, "ready"
        row.preview = seen.preview
    else:
        row.content_key = manifest.version_key(row)
        found = reuse.inspected(db, row, manifest.tools())
        if found is None:
            return False
        row.examination, row.state = found.examination, "ready"
        row.files = [
            VersionFile(position=f.position, path=f.path, sha256=f.sha256, size=f.size) for f in found.files
        ]
    row.inspected_by = manifest.tools()
    return True


def take(db: Session, job: Job, kind: str, subject_id: str) -> bool:
    """Fill in a step's result from an earlier job; False: the step has to be run."""
    if job.spec.reuse == "never":
        return False
    match kind:
        case "prepare":
            return _preparation(db, job)
        case "build":
            return _build(db, job, db.get_one(Candidate, subject_id))
        case "benchmark":
            return _measurements(db, job)
        case _:
            return False


def _preparation(db: Session, job: Job) -> bool:
    recipes = manifest.asked_recipes(list(queries.candidates(db, job.id)))
    key = manifest.preparation_key(db, job, recipes)
    donors = (d for d in reuse.prepared_jobs(db, job, key) if _same_target(db, job, d))
    found = ((d, queries.artifacts(db, d.id)) for d in donors)
    donor, made = next((pair for pair in found if _suffices(pair[1], recipes)), (None, {}))
    if donor is None or not artifacts.share(db, job, job.id, made.values()):
        return False
    job.isa, job.batch, job.notes = donor.isa, donor.batch, donor.notes
    candidates.prepared(db, job.id, _unmeasured(queries.baseline(db, donor.id).figures))
    return True


def _build(db: Session, job: Job, candidate: Candidate) -> bool:
    if candidate.recipe is None:
        return False
    key = manifest.build_key(db, job, candidate.recipe)
    for donor, model in reuse.built_candidates(db, candidate, key):
        made = queries.artifacts(db, donor.id) | {"candidate": model}  # it may expire meanwhile
        if artifacts.share(db, job, candidate.id, made.values()):
            candidates.start_building(db, candidate.id)
            candidates.built_before(db, candidate, donor, _unmeasured(donor.figures))
            return True
    return False


def _measurements(db: Session, job: Job) -> bool:
    """Whether all candidates were measured on one kind of host that is here; else all are measured anew."""
    built = [c for c in queries.lock_candidates(db, job.id) if c.state == "built"]
    environments = reuse.environments(db) if built else ()
    found = (_measured_on(db, job, built, environment) for environment in environments)
    donors = next((those for those in found if len(those) == len(built)), None)
    if donors is None:
        return False
    latest = max(donors, key=lambda donor: donor.id)
    for candidate, donor in zip(built, donors, strict=True):
        candidates.measured_before(db, candidate, donor)
    candidates.measured_before(db, queries.baseline(db, job.id), queries.baseline(db, latest.job_id))
    job.environment = latest.job.environment
    return True


def _measured_on(
    db: Session, job: Job, built: Sequence[Candidate], environment: Mapping[str, str]
) -> list[Candidate]:
    """For each candidate, in order, one that was measured there and serves; those without are left out."""
    models = queries.candidate_artifacts(db, job.id)
    every = (reuse.measured_candidates(db, job, models[c.id].sha256) for c in built)
    serving = ((c for c in some if c.job.environment == environment and _serves(job, c)) for some in every)
    return [first for some in serving if (first := next(some, None))]


def _serves(job: Job, donor: Candidate) -> bool:
    latency = donor.figures.latency
    if latency is None or donor.job.spec.benchmark != job.spec.benchmark:
        return False
    if donor.reused is not None and donor.reused.measured_at is not None:
        return False  # the job that did measure is found by itself, with its own time
    return _decides(job, donor.job, latency)


def _decides(job: Job, donor: Job, latency: Latency) -> bool:
    """A measurement went on until it could tell the limit that it was made for."""
    limit = job.spec.gate.speedup_over_float() if job.spec.gate else None
    before = donor.spec.gate.speedup_over_float() if donor.spec.gate else None
    return limit is None or limit == before or not latency.ci[0] <= limit <= latency.ci[1]


def _suffices(made: Mapping[str, Artifact], recipes: Sequence[Recipe]) -> bool:
    """A preparation has statistics only if a recipe of its job read ranges."""
    return "statistics" in made or not any(reads_ranges(recipe) for recipe in recipes)


def _same_target(db: Session, job: Job, donor: Job) -> bool:
    """`auto` was resolved on the donor's host: one like it must still be there."""
    if job.spec.target != donor.spec.target:
        return False
    known = {environment["isa"] for environment in reuse.environments(db)}
    return job.spec.target.isa != "auto" or donor.isa in known


def _unmeasured(figures: Figures) -> Figures:
    notes = tuple(note for note in figures.notes if note.about not in MEASURED)
    elsewhere = figures.runs_elsewhere and replace(figures.runs_elsewhere, openvino=None)
    return replace(figures, latency=None, memory=None, runs_elsewhere=elsewhere, notes=notes)
