"""What several requests and answers are made of."""

from datetime import UTC, datetime
from typing import Annotated, Generic, TypeVar

from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field

from app.db.base import MICROSECONDS
from app.domain.errors import FieldError
from app.domain.errors import Problem as StoredProblem

Item = TypeVar("Item")


SHA256 = "^[0-9a-f]{64}$"
Sha256 = Annotated[
    str,
    Field(
        pattern=SHA256,
        description="SHA-256 of the bytes, in hex",
        examples=["db01934a02281c10f1c6acdc976a7e1201b8e4cc00315510b9c18752980f26de"],
    ),
]


# Types of events in a query; a NUL, which no database stores, is none of these.
Visible = Annotated[str, Field(max_length=50, pattern="^[ -~]*$")]


# What is no id would find nothing, or everything, without a word.
ULID = "[0-9a-hjkmnp-tv-z]{26}"
ANY_ID, VERSION_ID, MODEL_ID = f"^[a-z]{{3}}_{ULID}$", f"^ver_{ULID}$", f"^mdl_{ULID}$"
A_LINE = "^[0-9]{16}[.][!-~]{1,33}$"
AnyId = Annotated[str, Field(pattern=ANY_ID)]
VersionId = Annotated[str, Field(pattern=VERSION_ID)]
ModelId = Annotated[str, Field(pattern=MODEL_ID)]


Name = Annotated[str, Field(min_length=1, max_length=200)]


InputName = Annotated[str, Field(max_length=500)]


LABEL_CHARACTERS = 200
LabelText = Annotated[str, Field(max_length=LABEL_CHARACTERS)]
Labels = Annotated[dict[LabelText, LabelText], Field(max_length=50)]


def _written_out(value: object) -> object:
    """Pydantic takes numbers too, as seconds since 1970."""
    if isinstance(value, str) and "T" in value.upper():
        return value
    raise ValueError("must be a date and time with its offset, such as 2026-11-21T05:00:00Z")


Time = Annotated[AwareDatetime, BeforeValidator(_written_out)]


class Problem(BaseModel):
    """An error (RFC 9457)."""

    code: str
    detail: str
    errors: list[FieldError] = []
    retryable: bool = False

    @classmethod
    def of(cls, problem: StoredProblem | None) -> "Problem | None":
        """A stored problem as shown."""
        if problem is None:
            return None
        return cls(
            code=problem.code,
            detail=problem.detail,
            errors=list(problem.errors),
            retryable=problem.retryable,
        )


class Page(BaseModel, Generic[Item]):
    """One page of a list; `next_cursor` is null on the last."""

    items: list[Item]
    next_cursor: str | None


def microseconds(time: datetime) -> int:
    """A time as it is stored."""
    return int(time.timestamp() * MICROSECONDS)


def moment(microseconds: int) -> datetime:
    """A stored time as UTC."""
    return datetime.fromtimestamp(microseconds / MICROSECONDS, UTC)


def moment_or_none(microseconds: int | None) -> datetime | None:
    """A stored time as UTC, when there is one."""
    return None if microseconds is None else moment(microseconds)
