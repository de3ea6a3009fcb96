"""What a project may have and do at once."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Quotas:
    """Limits of one project; None is the operator's default, and without one no limit."""

    bytes: int | None = None
    jobs_per_day: int | None = None
    unfinished_jobs: int | None = None
    running_candidates: int | None = None

    def over(self, defaults: "Quotas") -> "Quotas":
        """These limits, and the defaults where they say nothing."""
        return Quotas(
            bytes=defaults.bytes if self.bytes is None else self.bytes,
            jobs_per_day=defaults.jobs_per_day if self.jobs_per_day is None else self.jobs_per_day,
            unfinished_jobs=defaults.unfinished_jobs
            if self.unfinished_jobs is None
            else self.unfinished_jobs,
            running_candidates=defaults.running_candidates
            if self.running_candidates is None
            else self.running_candidates,
        )
