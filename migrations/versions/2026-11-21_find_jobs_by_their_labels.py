"""find jobs by their labels, each of which has a row."""

import sqlalchemy as sa
from alembic import op

from migrations.batches import batches

revision = "0053"
down_revision = "0052"
branch_labels = None
depends_on = None

LABELS = {
    "sqlite": "json_each(jobs.spec, '$.labels')",
    "postgresql": "jsonb_each_text(jobs.spec -> 'labels')",
}
LONGEST = 200  # a longer name was accepted before, and cannot be asked for


def upgrade() -> None:
    op.create_table(
        "job_labels",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("value", sa.String(length=200), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_labels_job_id")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_job_labels_project_id")),
        sa.PrimaryKeyConstraint("job_id", "name", name=op.f("pk_job_labels")),
    )
    columns = ["project_id", "name", "value", "job_id"]
    op.create_index("ix_job_labels_project_id_name_value_job_id", "job_labels", columns)
    bind = op.get_bind()
    fill = sa.text(
        "INSERT INTO job_labels (job_id, name, value, project_id) "  # noqa: S608 - our words
        f"SELECT jobs.id, label.key, label.value, jobs.project_id "
        f"FROM jobs CROSS JOIN {LABELS[bind.dialect.name]} AS label "
        f"WHERE jobs.id BETWEEN :first AND :last AND length(label.key) <= {LONGEST}"
    )
    with op.get_context().autocommit_block():
        for batch in batches("jobs"):
            op.get_bind().execute(fill, batch)


def downgrade() -> None:
    op.drop_table("job_labels")
