"""A million jobs for benchmarks/api.py, copied from one by SQL: of 10,000 versions, one after the other."""

from sqlalchemy import text

from app import broker
from app.db.models import Project, Version
from app.db.session import Database
from app.services import keys
from tests import factories

COPIES = {
    "1,000 models": """INSERT INTO models (id, project_id, name, created_at)
SELECT {mdl}, project_id, name || n, models.created_at FROM models, generate_series(1, 1000) n
WHERE models.id = :model""",
    "10,000 versions": """INSERT INTO versions (id, project_id, model_id, state, labels,
    examination, created_at)
SELECT {ver}, project_id, 'mdl_00' || lpad(((n + 9) / 10)::text, 24, '0'), state, labels,
    examination, created_at
FROM versions, generate_series(1, 10000) n WHERE versions.id = :version""",
    "jobs, the versions in order": """INSERT INTO jobs (id, project_id, version_id, model_id, calibration_id,
    evaluation_id, spec, state, conclusion, notes, created_at, finished_at, deadline_at)
SELECT {job}, project_id, 'ver_00' || lpad((1 + (n - 1) * 10000 / :jobs)::text, 24, '0'),
    'mdl_00' || lpad((1 + (n - 1) * 1000 / :jobs)::text, 24, '0'), calibration_id, evaluation_id, spec,
    (ARRAY['succeeded', 'failed', 'canceled'])[n % 3 + 1],
    CASE WHEN n % 3 > 0 THEN NULL WHEN n < :jobs / 20 THEN 'inconclusive' ELSE 'pass' END,
    notes, created_at, created_at, deadline_at
FROM jobs, generate_series(1, :jobs ::bigint) n WHERE jobs.id = :job""",
    "a label on each": """INSERT INTO job_labels (job_id, project_id, name, value)
SELECT {job}, :project, 'branch', 'b' || n % 1000 FROM generate_series(1, :jobs ::bigint) n""",
    "another on the first tenth": """INSERT INTO job_labels (job_id, project_id, name, value)
SELECT {job}, :project, 'era', 'first' FROM generate_series(1, :jobs ::bigint / 10) n""",
    "an event for each": """INSERT INTO events (id, project_id, actor, subject_id, seq, type, data,
    created_at)
SELECT {evt}, :project, 'system', {job}, 1,
    CASE WHEN n <= 50 THEN 'key.created' ELSE 'job.queued' END, '{{}}', 0
FROM generate_series(1, :jobs ::bigint) n""",
}
IDS = {kind: f"'{kind}_00' || lpad(n::text, 24, '0')" for kind in ("mdl", "ver", "job", "evt")}


def fill(database: Database, jobs: int) -> dict[str, str]:
    """One of each as a template, copied by SQL."""
    broker.ring = lambda *_: None  # nobody works here
    project = factories.make_project(database)
    version, dataset = factories.make_version(database, project), factories.make_dataset(database, project)
    job = factories.make_job(database, project, version=version)
    with database.writing() as db:
        key = keys.create(db, db.get_one(Project, project), "load", ["read", "write"]).text
        model = db.get_one(Version, version).model_id
        known = {"project": project, "model": model, "version": version, "dataset": dataset, "job": job}
        db.execute(text("SET LOCAL statement_timeout = 0"))
        db.execute(text("SET LOCAL session_replication_role = replica"))  # copies need no second look
        for statement in COPIES.values():
            copy = text(statement.format(**IDS))
            given = known | {"jobs": jobs}
            db.execute(copy, {name: given[name] for name in copy.compile().params})
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("VACUUM ANALYZE"))  # what autovacuum would have done by now
    return known | {"key": key}
