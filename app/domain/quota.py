"""What a project may have and do at once."""

from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Quotas:
    """Limits of one project; None is the operator's default, and without one no limit."""

    bytes: int | None = None
    jobs_per_day: int | None = None
    unfinished_jobs: int | None = None
    running_candidates: int | None = None

    def over(self, defaults: "Quotas") -> "Quotas":
        """These limits, and the defaults where they say nothing."""
        mine = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(defaults, **mine)
