"""show a project its own rows alone: row-level security on Postgres, for the role that requests take.

The owner of the tables is not held by it: workers, sweeps and operators see everything. SQLite has none.
"""

from alembic import op

from migrations.live import outside_transaction

revision = "0094"
down_revision = "0093"
branch_labels = None
depends_on = None

ROLE = "fewbits_tenant"
OWN = "(SELECT current_setting('fewbits.project_id', true))"  # in a SELECT it is found once, not for each row
WITH_PROJECT = (
    "api_keys",
    "artifacts",
    "candidates",
    "datasets",
    "deliveries",
    "events",
    "idempotency_keys",
    "job_labels",
    "jobs",
    "models",
    "project_blobs",
    "steps",
    "uploads",
    "versions",
    "webhook_endpoints",
)
# Rows of these belong to whom the row belongs that they name: its own policy decides.
PARENTS = {
    "browser_sessions": ("api_keys", "key_id"),
    "delivery_attempts": ("deliveries", "delivery_id"),
    "step_logs": ("steps", "step_id"),
    "upload_parts": ("uploads", "upload_id"),
    "version_files": ("versions", "version_id"),
}
POLICIES = {
    "projects": f"id = {OWN}",
    **dict.fromkeys(WITH_PROJECT, f"project_id = {OWN}"),
    **{
        table: f"EXISTS (SELECT FROM {parent} p WHERE p.id = {table}.{column})"
        for table, (parent, column) in PARENTS.items()
    },
}
MAKE_ROLE = f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN
        BEGIN
            CREATE ROLE {ROLE} NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; -- somebody else made it just now
        END;
    END IF;
    -- In Postgres 16 and later, the maker of a role is its member, but may not take it until it is granted.
    IF NOT pg_has_role(current_user, '{ROLE}', CASE
        WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END) THEN
        GRANT {ROLE} TO CURRENT_USER;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN RAISE insufficient_privilege USING
        MESSAGE = format('%I may not make the role {ROLE}', current_user),
        HINT = format('Let a superuser run: CREATE ROLE {ROLE} NOLOGIN; GRANT {ROLE} TO %I;', current_user);
END $$
"""
RIGHTS = "SELECT, INSERT, UPDATE, DELETE"
GRANT = f"""
DO $$ BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO {ROLE}', current_schema());
    EXECUTE format('GRANT {RIGHTS} ON ALL TABLES IN SCHEMA %I TO {ROLE}', current_schema());
    EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT {RIGHTS} ON TABLES TO {ROLE}',
        current_schema());
END $$
"""
REVOKE = f"""
DO $$ BEGIN
    EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I REVOKE ALL ON TABLES FROM {ROLE}',
        current_schema());
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM {ROLE}', current_schema());
    EXECUTE format('REVOKE USAGE ON SCHEMA %I FROM {ROLE}', current_schema());
END $$
"""


def upgrade() -> None:
    if op.get_context().dialect.name != "postgresql":
        return
    with outside_transaction():  # one lock at a time
        for statement in (MAKE_ROLE, GRANT):
            op.execute(statement)
        for table, mine in POLICIES.items():
            op.execute(f"DROP POLICY IF EXISTS own_project ON {table}")
            op.execute(f"CREATE POLICY own_project ON {table} TO {ROLE} USING ({mine})")
            op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")


def downgrade() -> None:
    """The role stays: it belongs to the server, whose other databases may use it."""
    if op.get_context().dialect.name != "postgresql":
        return
    with outside_transaction():
        for table in POLICIES:
            op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
            op.execute(f"DROP POLICY IF EXISTS own_project ON {table}")
        op.execute(REVOKE)
