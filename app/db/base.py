"""What all tables share: naming of constraints, ids, times, and JSON columns of domain dataclasses."""

from functools import cache, partial
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import JSON, BigInteger, Dialect, MetaData, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator
from ulid import ULID

MICROSECONDS = 1_000_000
TELLS_APART = "method"  # the field of recipes and ranges


class Base(DeclarativeBase):
    """Constraints are named, so that migrations can name them too."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


Id = String(40)
Json = JSON().with_variant(JSONB(), "postgresql")


def new_id(prefix: str) -> str:
    """A prefixed id that sorts by time: `job_01j…`."""
    return f"{prefix}_{str(ULID()).lower()}"


def first_id(prefix: str, moment_us: int) -> str:
    """The smallest id that can be made at this time: what is made later sorts after it."""
    milliseconds = max(moment_us, 0) // 1000
    return f"{prefix}_{str(ULID.from_bytes(milliseconds.to_bytes(6) + bytes(10))).lower()}"


def made_at(row_id: str) -> int:
    """When a row with this id was made, to the millisecond, in microseconds."""
    return ULID.from_str(row_id.rpartition("_")[2].upper()).milliseconds * 1000


class now_us(FunctionElement[int]):  # noqa: N801 - reads as a SQL function
    """The database's clock in integer microseconds since 1970, the same for every process of a cluster."""

    type = BigInteger()
    inherit_cache = True


@compiles(now_us, "sqlite")
def _now_on_sqlite(_element: now_us, _compiler: SQLCompiler, **_options: object) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER) * 1000"


@compiles(now_us, "postgresql")
def _now_on_postgres(_element: now_us, _compiler: SQLCompiler, **_options: object) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)"


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - a class or a union of classes
    """Made once for each type: making one takes milliseconds, using it microseconds."""
    return TypeAdapter(kind)


class Stored(TypeDecorator[Any]):
    """A domain dataclass, stored as JSON."""

    impl = Json
    cache_ok = True

    def __init__(self, kind: Any, read_as: Any = None) -> None:  # noqa: ANN401 - classes, or unions of them
        super().__init__()
        self.kind = kind
        self.read_as = read_as or kind

    def process_bind_param(self, value: Any, _dialect: Dialect) -> Any:  # noqa: ANN401
        """To JSON."""
        return None if value is None else adapter(self.kind).dump_python(value, mode="json")

    def process_result_value(self, value: Any, _dialect: Dialect) -> Any:  # noqa: ANN401
        """From JSON; a field that only a newer release knows is passed over."""
        return None if value is None else adapter(self.read_as).validate_python(value, extra="ignore")


class Asked(Stored):
    """What a user asks for, stored without what was left out, whose meaning must never change.

    So a release that refuses fields which it does not know reads what a newer one writes.
    """

    cache_ok = True

    def process_bind_param(self, value: Any, _dialect: Dialect) -> Any:  # noqa: ANN401
        """To JSON."""
        if value is None:
            return None
        dump = partial(adapter(self.kind).dump_python, value, mode="json")
        return _given(dump(), dump(exclude_defaults=True))


def _given(full: Any, lean: Any) -> Any:  # noqa: ANN401 - JSON with all fields, and without defaults
    """JSON without defaults, but with what tells one method from another."""
    if isinstance(lean, dict):
        kept = [name for name in full if name in lean or name == TELLS_APART]
        return {name: _given(full[name], lean.get(name, full[name])) for name in kept}
    if isinstance(lean, list):
        return [_given(*pair) for pair in zip(full, lean, strict=True)]
    return lean
