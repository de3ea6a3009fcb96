"""What the service answers, as frozen dataclasses.

They hold what this client works with. A newer service may say more, and may name states that are not known
here: both are kept as they are, and `raw` has the whole answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from fewbits.errors import ServiceError

Interval = tuple[float, float]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An answer; `raw` is its JSON as it came."""

    raw: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Page:
    """A part of a list, and where the next one begins."""

    items: tuple[dict[str, Any], ...]
    next_cursor: str | None = None


@dataclass(frozen=True, kw_only=True)
class FieldError:
    """One thing wrong in what was sent: where (a JSON pointer) and what."""

    pointer: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why something failed or was rejected."""

    code: str
    detail: str
    errors: tuple[FieldError, ...] = ()
    retryable: bool = False


@dataclass(frozen=True, kw_only=True)
class Me(Shown):
    """Who a key is."""

    key: str
    name: str
    project: str
    project_name: str
    scopes: tuple[str, ...]
    expires_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Model(Shown):
    """A name with versions."""

    id: str
    name: str
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Version(Shown):
    """One uploaded state of a model: inspecting, ready, or rejected with its `error`."""

    id: str
    model: str
    name: str
    state: str
    error: Problem | None = None


@dataclass(frozen=True, kw_only=True)
class Dataset(Shown):
    """Uploaded samples: inspecting, ready, or rejected with its `error`."""

    id: str
    name: str
    state: str
    error: Problem | None = None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing to know about a dataset and a version; an `error` would fail a job."""

    level: str
    pointer: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Fit(Shown):
    """Whether a dataset fits a version."""

    fits: bool
    findings: tuple[Finding, ...] = ()
    decidable: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Size:
    """Bytes on disk, and their share of the upload's."""

    bytes: int
    ratio: float


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """A metric of the candidate; `drop` above 0 is worse than the float model, with its 95 % interval."""

    metric: str
    value: float
    baseline: float
    drop: float
    ci: Interval
    samples: int


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How close the outputs stay to the float model's, in dB of signal to noise."""

    sqnr_db: float
    cosine: float | None = None
    agreement: float | None = None


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of one run, and the speed-up over the float model with its 95 % interval."""

    p50_ms: float
    speedup: float
    ci: Interval
    baseline_p50_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Resident bytes of the loaded model."""

    model_bytes: int


@dataclass(frozen=True, kw_only=True)
class Candidate(Shown):
    """One way of quantizing and what it costs and wins; a figure is null with a reason in `notes`.

    `snippet` is Python that loads and runs its model.
    """

    id: str
    job: str
    name: str
    state: str
    error: Problem | None = None
    pareto: bool | None = None
    notes: tuple[str, ...] = ()
    size: Size | None = None
    accuracy: Accuracy | None = None
    fidelity: Fidelity | None = None
    latency: Latency | None = None
    memory: Memory | None = None
    artifact: str | None = None
    snippet: str | None = None


@dataclass(frozen=True, kw_only=True)
class Job(Shown):
    """A job: its state, and once it has ended what came of it."""

    id: str
    state: str
    phase: str | None = None
    progress: float | None = None
    conclusion: str | None = None
    error: Problem | None = None
    best: str | None = None
    created_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether it changes no more, whatever its last state is called."""
        return self.finished_at is not None


@dataclass(frozen=True, kw_only=True)
class Step(Shown):
    """One unit of a job's work; `name` is the candidate's that it is about."""

    id: str
    kind: str
    state: str
    progress: float = 0.0
    name: str | None = None
    seconds: float | None = None
    error: Problem | None = None


@dataclass(frozen=True, kw_only=True)
class Event(Shown):
    """Something that happened to a job; `seq` is that of the last event which had one."""

    type: str
    seq: int
    data: dict[str, Any] = field(default_factory=dict)
    progress: float | None = None


@dataclass(frozen=True, kw_only=True)
class Check:
    """One limit held against one candidate."""

    candidate: str
    name: str
    conclusion: str
    limit: float | None = None
    value: float | None = None
    bound: float | None = None
    samples_needed: int | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict(Shown):
    """The gate's answer; `blocking` says whether a pipeline should stop."""

    job: str
    conclusion: str
    blocking: bool
    best: str | None = None
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One figure of two candidates; `change` is b / a or b - a by `kind`, null with a `reason`."""

    figure: str
    kind: str
    a: float | None = None
    b: float | None = None
    change: float | None = None
    ci: Interval | None = None
    better: str | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison(Shown):
    """Two candidates side by side."""

    a: Candidate
    b: Candidate
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """A job's report, of which this client shows these parts."""

    job: dict[str, Any]
    candidates: tuple[dict[str, Any], ...]
    verdict: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Result(Shown):
    """What came of a job that succeeded; `raw` is its report."""

    job: Job
    candidates: tuple[Candidate, ...]
    verdict: Verdict

    @property
    def best(self) -> Candidate | None:
        """The candidate that the verdict names."""
        return next((c for c in self.candidates if c.id == self.verdict.best), None)


def read(kind: type[T], value: object) -> T:
    """A parsed answer; fields that `kind` does not have stay in `raw` alone.

    Raises:
        ServiceError: It is no such answer, as one of another service would be.
    """
    if not isinstance(value, Mapping):
        raise ServiceError(f"The service did not answer a {kind.__name__.lower()}; is this URL a Fewbits?")
    try:
        return msgspec.convert({**value, "raw": value}, kind)
    except msgspec.ValidationError as error:
        raise ServiceError(
            f"The service's answer is no {kind.__name__.lower()} as this client knows it ({error}); "
            "update the client: pip install --upgrade fewbits"
        ) from error
