"""find earlier jobs too by model, conclusion and label."""

import sqlalchemy as sa
from alembic import op

from migrations.batches import batches
from migrations.live import create_index, drop_index, outside_transaction

revision = "0054"
down_revision = "0053"
branch_labels = None
depends_on = None

MODEL = (
    "UPDATE jobs SET model_id = (SELECT model_id FROM versions WHERE versions.id = jobs.version_id) "
    "WHERE id BETWEEN :first AND :last"
)
CONCLUSION = (
    "UPDATE jobs SET conclusion = verdict ->> 'conclusion' "
    "WHERE id BETWEEN :first AND :last AND finished_at IS NOT NULL AND verdict IS NOT NULL"
)
PAIRS = {
    "sqlite": "json_each(jobs.spec, '$.labels')",
    "postgresql": "jsonb_each_text(jobs.spec -> 'labels')",
}
LONGEST = 200  # a longer name was accepted before, and cannot be asked for
INDEXES = (
    ("ix_jobs_model_id_id", ["model_id", "id"]),
    ("ix_jobs_project_id_conclusion_id", ["project_id", "conclusion", "id"]),
)


def upgrade() -> None:
    pairs = PAIRS[op.get_bind().dialect.name]
    labels = (
        "INSERT INTO job_labels (job_id, name, value, project_id) "  # noqa: S608 - our words
        f"SELECT jobs.id, label.key, label.value, jobs.project_id FROM jobs CROSS JOIN {pairs} AS label "
        f"WHERE jobs.id BETWEEN :first AND :last AND length(label.key) <= {LONGEST} ON CONFLICT DO NOTHING"
    )
    with outside_transaction():
        for batch in batches("jobs"):
            for fill in (MODEL, CONCLUSION, labels):
                op.get_bind().execute(sa.text(fill), batch)
        for name, columns in INDEXES:
            create_index(name, "jobs", columns)


def downgrade() -> None:
    with outside_transaction():
        for name, _ in INDEXES:
            drop_index(name, "jobs")
