"""How long a project's bytes stay, in days. Digests, reports, verdicts and the audit stay for good."""

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import get_args

from app.domain.states import EvidenceKind

DAY_US = 24 * 3600 * 1_000_000
# Of what a job made, these hold neither weights nor samples, and later gates and the report need them.
EVIDENCE = get_args(EvidenceKind)


@dataclass(frozen=True, kw_only=True)
class Retention:
    """What one project keeps; None is the operator's default, and without one it stays for good.

    Models and datasets stay for so long after their upload, or after the last job that took them was made.
    What a job made stays for so long after its end.
    """

    models_days: int | None = None
    datasets_days: int | None = None
    artifacts_days: int | None = None

    def over(self, defaults: "Retention") -> "Retention":
        """This, and the defaults where it says nothing."""
        mine = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(defaults, **mine)


def day(moment_us: int) -> str:
    """The day of a stored time, as sentences name it."""
    return datetime.fromtimestamp(moment_us / 1_000_000, UTC).date().isoformat()
