"""The tables of operation: what ended in numbers, what was measured now and then, and who takes no work."""

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, now_us


class Tally(Base):
    """How many steps of a kind (or jobs, whose kind is `job`) have ended in one way, ever.

    `count` took at most `up_to` microseconds each and more than the next smaller `up_to`; together they took
    `total`. `losses` says how often their workers were lost.
    """

    __tablename__ = "tallies"
    kind: Mapped[str] = mapped_column(String(20), primary_key=True)
    outcome: Mapped[str] = mapped_column(String(20), primary_key=True)
    code: Mapped[str] = mapped_column(String(40), primary_key=True)
    up_to: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    count: Mapped[int] = mapped_column(BigInteger)
    total: Mapped[int] = mapped_column(BigInteger)
    losses: Mapped[int] = mapped_column(BigInteger)


class Measure(Base):
    """A figure that is too dear to be found whenever somebody asks."""

    __tablename__ = "measures"
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)
    measured_at: Mapped[int] = mapped_column(BigInteger, default=now_us())


class Drain(Base):
    """A worker (`host:pid`) or a host whose workers take nothing more."""

    __tablename__ = "drains"
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    drained_at: Mapped[int] = mapped_column(BigInteger, default=now_us())
