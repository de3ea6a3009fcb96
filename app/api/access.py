"""What keys, projects, limits and events look like in requests and answers."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StrictBool

from app.api.schemas import Name, moment, moment_or_none
from app.db.models import ApiKey, Event, Project
from app.domain.quota import Quotas
from app.services.keys import Issued
from app.services.quotas import Usage
from app.settings import Settings

Scope = Literal["read", "write", "admin", "operator"]
Scopes = Annotated[
    list[Scope],
    Field(
        min_length=1,
        max_length=4,
        description="`read` for GET, `write` for the rest, `admin` for keys, `operator` for projects",
        examples=[["read", "write"]],
    ),
]
Amount = Annotated[int | None, Field(ge=0, le=2**62)]


class KeyCreate(BaseModel):
    """A key to be made, with scopes that yours has too."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[Name, Field(examples=["nightly pipeline"])]
    scopes: Scopes = ["read", "write"]
    expires_at: Annotated[
        AwareDatetime | None, Field(description="null: never", examples=["2027-11-21T00:00:00Z"])
    ] = None


class KeyChange(BaseModel):
    """What is to change; what is not named stays."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[Name, Field(examples=["nightly pipeline"])] = ""
    scopes: Scopes = []
    expires_at: Annotated[AwareDatetime | None, Field(description="null: never")] = None


class KeyRotation(BaseModel):
    """How long the old key goes on."""

    model_config = ConfigDict(extra="forbid")
    overlap_s: Annotated[int, Field(ge=3600, le=30 * 24 * 3600, description="seconds that both work")] = 86400


class KeyRead(BaseModel):
    """A key; its text is shown only when it is made."""

    id: str
    name: str
    scopes: list[str]
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: Annotated[datetime | None, Field(description="to the minute")]
    created_at: datetime
    links: dict[str, str]

    @classmethod
    def fields(cls, row: ApiKey) -> dict[str, Any]:
        """A row's fields as shown."""
        return {
            "id": row.id,
            "name": row.name,
            "scopes": row.scopes,
            "expires_at": moment_or_none(row.expires_at),
            "revoked_at": moment_or_none(row.revoked_at),
            "last_used_at": moment_or_none(row.last_used_at),
            "created_at": moment(row.created_at),
            "links": {"self": f"/v1/api-keys/{row.id}"},
        }

    @classmethod
    def of(cls, row: ApiKey) -> "KeyRead":
        """A row as shown."""
        return cls(**cls.fields(row))


class KeyIssued(KeyRead):
    """A key that was just made: `key` is what to send, shown this once."""

    key: Annotated[str, Field(examples=["fb_01k…_…"])]

    @classmethod
    def issued(cls, issued: Issued) -> "KeyIssued":
        """A key and its text."""
        return cls(**cls.fields(issued.key), key=issued.text)


class QuotasModel(BaseModel):
    """What a project may have and do at once; null is the operator's default."""

    model_config = ConfigDict(extra="forbid")
    bytes: Annotated[Amount, Field(description="stored in all", examples=[100_000_000_000])] = None
    jobs_per_day: Annotated[Amount, Field(description="from midnight UTC", examples=[1000])] = None
    unfinished_jobs: Annotated[Amount, Field(description="queued or running", examples=[50])] = None
    running_candidates: Annotated[
        int | None, Field(ge=1, le=2**31, description="builds at once; the others wait", examples=[4])
    ] = None

    @classmethod
    def of(cls, quotas: Quotas) -> "QuotasModel":
        """Quotas as shown."""
        return cls.model_validate(quotas, from_attributes=True)

    def quotas(self) -> Quotas:
        """As the domain has them."""
        return Quotas(**self.model_dump())


class ProjectCreate(BaseModel):
    """A project to be opened."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[Name, Field(examples=["speech team"])]
    quotas: QuotasModel = QuotasModel()


def _open(closed: bool) -> bool:
    if closed:
        raise ValueError("close a project with DELETE")
    return closed


class ProjectChange(BaseModel):
    """What is to change; what is not named stays."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[Name, Field(examples=["speech team"])] = ""
    quotas: QuotasModel = QuotasModel()
    closed: Annotated[
        StrictBool,
        AfterValidator(_open),
        Field(description="false opens a closed project again", json_schema_extra={"const": False}),
    ] = False


class ProjectRead(BaseModel):
    """A project."""

    id: str
    name: str
    quotas: QuotasModel
    created_at: datetime
    closed_at: datetime | None
    links: dict[str, str]

    @classmethod
    def fields(cls, row: Project) -> dict[str, Any]:
        """A row's fields as shown."""
        here = f"/v1/projects/{row.id}"
        return {
            "id": row.id,
            "name": row.name,
            "quotas": QuotasModel.of(row.quotas),
            "created_at": moment(row.created_at),
            "closed_at": moment_or_none(row.closed_at),
            "links": {"self": here, "usage": f"{here}/usage"},
        }

    @classmethod
    def of(cls, row: Project) -> "ProjectRead":
        """A row as shown."""
        return cls(**cls.fields(row))


class ProjectOpened(ProjectRead):
    """A project that was just made: `key` is its first admin key, shown this once."""

    key: KeyIssued


class CallerRead(BaseModel):
    """Who a key is."""

    key: str
    name: str
    project: str
    project_name: str
    scopes: list[str]
    expires_at: datetime | None


class SessionRead(BaseModel):
    """A cookie that lets this browser read, and nothing else."""

    expires_at: datetime


class RateRead(BaseModel):
    """At most this many requests in each window."""

    quota: int
    window_s: int


class SandboxRead(BaseModel):
    """What one engine call may use."""

    memory_bytes: int
    output_bytes: int
    seconds: int
    inspect_seconds: int

    @classmethod
    def of(cls, settings: Settings) -> "SandboxRead":
        """Settings as shown."""
        return cls(
            memory_bytes=settings.sandbox_memory,
            output_bytes=settings.sandbox_output,
            seconds=settings.sandbox_seconds,
            inspect_seconds=settings.inspect_seconds,
        )


class LimitsRead(BaseModel):
    """What is accepted and run; a quota that is null has no limit."""

    max_upload_bytes: int
    max_json_bytes: int
    max_wait_s: int
    rates: dict[str, RateRead]
    quotas: QuotasModel
    sandbox: SandboxRead


class BytesRead(BaseModel):
    """Bytes stored. A blob that serves twice counts in both kinds, and once in all."""

    total: int
    models: int
    datasets: int
    artifacts: int


class UsageRead(BaseModel):
    """What a project has and does now."""

    project: str
    bytes: BytesRead
    jobs_today: Annotated[int, Field(description="since midnight UTC")]
    unfinished_jobs: int
    running_candidates: int
    quotas: QuotasModel

    @classmethod
    def of(cls, project_id: str, usage: Usage, quotas: Quotas) -> "UsageRead":
        """What was counted, beside what is allowed."""
        return cls(
            project=project_id,
            bytes=BytesRead(
                total=usage.bytes,
                models=usage.bytes_of_models,
                datasets=usage.bytes_of_datasets,
                artifacts=usage.bytes_of_artifacts,
            ),
            jobs_today=usage.jobs_today,
            unfinished_jobs=usage.unfinished_jobs,
            running_candidates=usage.running_candidates,
            quotas=QuotasModel.of(quotas),
        )


class EventRead(BaseModel):
    """One transition: what happened to which subject, and who did it."""

    id: str
    type: Annotated[str, Field(examples=["job.succeeded"])]
    subject: str
    seq: Annotated[int, Field(description="counts per subject, without gaps")]
    actor: Annotated[str, Field(description="the key's id, `worker` or `system`")]
    data: dict[str, Any]
    at: datetime

    @classmethod
    def of(cls, row: Event) -> "EventRead":
        """A row as shown."""
        return cls(
            id=row.id,
            type=row.type,
            subject=row.subject_id,
            seq=row.seq,
            actor=row.actor,
            data=row.data,
            at=moment(row.created_at),
        )
