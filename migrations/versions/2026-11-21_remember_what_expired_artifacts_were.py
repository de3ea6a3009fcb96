"""remember what expired artifacts were."""

import sqlalchemy as sa
from alembic import op

revision = "0102"
down_revision = "0101"
branch_labels = None
depends_on = None

ROLE = "fewbits_tenant"
OWN = "project_id = (SELECT current_setting('fewbits.project_id', true))"


def upgrade() -> None:
    op.create_table(
        "expired_artifacts",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("subject_id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("filename", sa.String(length=200), nullable=False),
        sa.Column("media_type", sa.String(length=100), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expired_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_expired_artifacts_project_id")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_expired_artifacts_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_expired_artifacts")),
        sa.UniqueConstraint("subject_id", "kind", name=op.f("uq_expired_artifacts_subject_id_kind")),
    )
    op.create_index("ix_expired_artifacts_project_id", "expired_artifacts", ["project_id"])
    op.create_index("ix_expired_artifacts_job_id", "expired_artifacts", ["job_id"])
    if op.get_context().dialect.name == "postgresql":
        op.execute(f"CREATE POLICY own_project ON expired_artifacts TO {ROLE} USING ({OWN})")
        op.execute("ALTER TABLE expired_artifacts ENABLE ROW LEVEL SECURITY")


def downgrade() -> None:
    op.drop_table("expired_artifacts")
