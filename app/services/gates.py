"""The gate of a job: checked when the job is created, and what it compares with once all is measured."""

from sqlalchemy.orm import Session

from app.db import queries
from app.db.models import Candidate, Job, Version
from app.db.queries import earlier
from app.domain import against, gate
from app.domain.against import Against, Earlier, NoEarlier
from app.domain.errors import FieldError, InvalidInput, NotFound
from app.domain.job import JobSpec

HOST = ("cpu", "isa", "cores", "onnxruntime")


def check(db: Session, project_id: str, spec: JobSpec) -> None:
    """Refuse a gate that cannot be decided whatever is measured.

    Raises:
        InvalidInput: A limit means nothing for the metric, or `against` is no earlier run of this model.
    """
    if spec.gate is None:
        return
    named = against.parse(spec.gate.against)
    errors = list(gate.misfits(spec.gate, spec.evaluation.metric))
    errors += _stranger(db, project_id, spec.version, named)
    if errors:
        raise InvalidInput("; ".join(f"{e.pointer} {e.detail}" for e in errors), errors=tuple(errors))


def compared(db: Session, job: Job) -> Earlier | NoEarlier | None:
    """What the job's gate compares with; None is the float model. `Earlier` still lacks the outcomes."""
    named = against.parse(job.spec.gate.against) if job.spec.gate else Against("float")
    if named.kind == "float":
        return None
    found = earlier.succeeded_job(db, job, named)
    if found is None or found.best_id is None:
        return NoEarlier(_reason(named), first=named.kind == "latest" and not earlier.any_job(db, job))
    best = db.get_one(Candidate, found.best_id)
    return Earlier(best.id, best.figures, same_host=_same_host(job, found))


def _stranger(db: Session, project_id: str, version_id: str, named: Against) -> list[FieldError]:
    """Whether `against` names something that is not this model's."""
    if named.kind not in {"version", "job"}:
        return []
    pointer = "/gate/against"
    try:
        model = _model_of(db, project_id, named)
    except NotFound as error:
        return [FieldError(pointer, error.detail)]
    mine = db.get_one(Version, version_id).model_id
    if model == mine:
        return []
    return [FieldError(pointer, f"{named.id} is of the model {model}, this job's version of {mine}")]


def _model_of(db: Session, project_id: str, named: Against) -> str:
    if named.kind == "version":
        return queries.get_owned(db, Version, project_id, named.id).model_id
    return queries.get_owned(db, Job, project_id, named.id).version.model_id


def _reason(named: Against) -> str:
    if named.kind == "latest":
        asked = ", ".join(f"{key}={value}" for key, value in named.labels.items())
        which = f" with the labels {asked}" if asked else ""
        return f"no_reference: no earlier job of this model{which} has succeeded"
    return f"no_reference: {named.id} has no job that succeeded with a measured candidate"


def _same_host(a: Job, b: Job) -> bool:
    """Whether speed and memory can be compared: one kind of host, the same threads and batch."""
    if a.environment is None or b.environment is None:
        return False
    hosts = [[e.get(name) for name in HOST] for e in (a.environment, b.environment)]
    asked = [(j.spec.benchmark.threads, j.batch or j.spec.benchmark.batch) for j in (a, b)]
    return hosts[0] == hosts[1] and asked[0] == asked[1]
