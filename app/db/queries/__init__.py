"""Named statements, session first, one file per noun. Nothing here decides; nothing here commits."""

from app.db.queries.blobs import blob, blob_references, forget_blob, grant_blob, insert_blob, project_blob
from app.db.queries.inputs import job_input, share_job_input
from app.db.queries.jobs import (
    artifacts,
    baseline,
    candidate_artifacts,
    candidates,
    jobs_past_deadline,
    lock_candidates,
    lock_job,
    open_jobs,
    open_jobs_using,
    settled,
)
from app.db.queries.models import ensure_model
from app.db.queries.projects import project_named
from app.db.queries.statements import get_owned, lock_owned, newest_first, now
from app.db.queries.steps import (
    cancel_steps,
    claim_step,
    close_step,
    expired_leases,
    job_steps,
    lease_expired,
    mark_rung,
    renew_lease,
    requeue_step,
    troubles,
    unheard_steps,
)

__all__ = [
    "artifacts",
    "baseline",
    "blob",
    "blob_references",
    "cancel_steps",
    "candidate_artifacts",
    "candidates",
    "claim_step",
    "close_step",
    "ensure_model",
    "expired_leases",
    "forget_blob",
    "get_owned",
    "grant_blob",
    "insert_blob",
    "job_input",
    "job_steps",
    "jobs_past_deadline",
    "lease_expired",
    "lock_candidates",
    "lock_job",
    "lock_owned",
    "mark_rung",
    "newest_first",
    "now",
    "open_jobs",
    "open_jobs_using",
    "project_blob",
    "project_named",
    "renew_lease",
    "requeue_step",
    "settled",
    "share_job_input",
    "troubles",
    "unheard_steps",
]
