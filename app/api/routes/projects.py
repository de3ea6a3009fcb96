"""Projects, for operators."""

from fastapi import APIRouter, Response
from sqlalchemy.orm import Session

from app.api.deps import Paged, ReadDb, Service, Who, WriteDb
from app.api.idempotency import Once, OncePerKey
from app.api.refusals import refuses
from app.api.schemas.keys import KeyIssued
from app.api.schemas.projects import ProjectChange, ProjectCreate, ProjectOpened, ProjectRead, UsageRead
from app.api.schemas.values import Page
from app.db.queries import projects as stored
from app.services import keys, projects, quotas

router = APIRouter(prefix="/projects", route_class=OncePerKey)


@router.post("", status_code=201, responses=refuses("already_created", "conflict"))
async def create_project(body: ProjectCreate, response: Response, once: Once) -> ProjectOpened:
    """Open a project. Its first admin key is in this answer and nowhere else."""
    made: list[ProjectOpened] = []

    def make(db: Session) -> str:
        project = projects.create(db, body.name, body.quotas.quotas(), body.retention.retention())
        issued = keys.create(db, project, "first", keys.FIRST_SCOPES)
        made.append(ProjectOpened(**ProjectRead.fields(project), key=KeyIssued.issued(issued)))
        return project.id

    project_id = await once.write(make, secret=True)
    response.headers["Location"] = f"/v1/projects/{project_id}"
    return made[0]


@router.get("")
def list_projects(db: ReadDb, paging: Paged) -> Page[ProjectRead]:
    """All projects, newest first, the closed ones too."""
    rows = stored.projects_page(db, paging.cursor, paging.limit)
    return paging.show(rows, ProjectRead.of)


@router.get("/{project_id}")
def read_project(project_id: str, db: ReadDb) -> ProjectRead:
    """One project, its quotas and its retention."""
    return ProjectRead.of(stored.project(db, project_id))


@router.get("/{project_id}/usage")
def read_project_usage(project_id: str, db: ReadDb, service: Service) -> UsageRead:
    """What a project has and does now, beside its quotas."""
    project = stored.project(db, project_id)
    allowed = project.quotas.over(service.settings.quotas)
    return UsageRead.of(project.id, quotas.measure(db, project.id), allowed)


@router.patch("/{project_id}", responses=refuses("conflict"))
def change_project(project_id: str, body: ProjectChange, db: WriteDb) -> ProjectRead:
    """Change a project's name, quotas or retention, each as a whole; or open a closed one again."""
    changes: dict[str, object] = body.model_dump(exclude_unset=True, include={"name"})
    if "quotas" in body.model_fields_set:
        changes["quotas"] = body.quotas.quotas()
    if "retention" in body.model_fields_set:
        changes["retention"] = body.retention.retention()
    if "closed" in body.model_fields_set:
        changes["closed_at"] = None
    return ProjectRead.of(projects.change(db, project_id, changes))


@router.delete("/{project_id}", status_code=204, responses=refuses("conflict"))
def close_project(project_id: str, caller: Who, db: WriteDb) -> None:
    """Close a project: its keys stop, its open jobs are canceled. PATCH opens it again with all it has."""
    projects.close(db, caller, project_id)
