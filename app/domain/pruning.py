"""How long what happened stays readable, in days. Jobs, results, verdicts and the audit stay for good."""

from dataclasses import dataclass

DAY_US = 24 * 3600 * 1_000_000
LONGEST_JOB_DAYS = 8  # a job ends within seven, and must find its own steps until then


@dataclass(frozen=True)
class Kept:
    """What the engine printed; steps and passing events; deliveries with their attempts."""

    printed: int = 90
    timeline: int = 365
    deliveries: int = 90
