"""What API keys and browser sessions look like."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from app.api.schemas.values import Name, Time, moment, moment_or_none
from app.db.keys import ApiKey
from app.domain.states import Scope
from app.services.keys import Issued

Scopes = Annotated[
    list[Scope],
    Field(
        min_length=1,
        max_length=4,
        description="`read` for GET, `write` for the rest, `admin` for keys, `operator` for projects",
        examples=[["read", "write"]],
    ),
]


class KeyCreate(BaseModel):
    """A key to be made, with scopes that yours has too."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[Name, Field(examples=["nightly pipeline"])]
    scopes: Scopes = ["read", "write"]
    expires_at: Annotated[
        Time | None, Field(description="null: never", examples=["2027-11-21T00:00:00Z"])
    ] = None


class KeyChange(BaseModel):
    """What is to change; what is not named stays."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[Name, Field(examples=["nightly pipeline"])] = ""
    scopes: Scopes = []
    expires_at: Annotated[Time | None, Field(description="null: never")] = None


class KeyRotation(BaseModel):
    """How long the old key goes on."""

    model_config = ConfigDict(extra="forbid")
    overlap_s: Annotated[
        int, Field(strict=True, ge=3600, le=30 * 24 * 3600, description="seconds that both work")
    ] = 86400


class KeyRead(BaseModel):
    """A key; its text is shown only when it is made."""

    id: str
    name: str
    scopes: list[Scope]
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


class CallerRead(BaseModel):
    """Who a key is."""

    key: str
    name: str
    project: str
    project_name: str
    scopes: list[Scope]
    expires_at: datetime | None


class SessionRead(BaseModel):
    """A cookie that lets this browser read, and nothing else."""

    expires_at: datetime
