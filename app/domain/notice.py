"""What webhooks say: ids, states and links, no names and no figures. Who wants to know more asks."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class JobNotice:
    """A job ended. `conclusion` is its gate's, `best` its best candidate, `code` why it did not succeed.

    `sequence` counts the job's events: of two messages about one job, the higher number is the later.
    """

    job: str
    version: str
    state: str
    conclusion: str | None
    best: str | None
    code: str | None
    sequence: int
    links: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class VersionNotice:
    """An uploaded version cannot be used; `code` says why."""

    version: str
    model: str
    state: str
    code: str
    sequence: int
    links: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class DatasetNotice:
    """An uploaded dataset cannot be used; `code` says why."""

    dataset: str
    state: str
    code: str
    sequence: int
    links: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class PingNotice:
    """A test of an endpoint: nothing happened."""

    endpoint: str
    links: dict[str, str]


Notice = JobNotice | VersionNotice | DatasetNotice | PingNotice
KINDS: Mapping[str, type[Notice]] = {
    "job.succeeded": JobNotice,
    "job.failed": JobNotice,
    "job.canceled": JobNotice,
    "job.expired": JobNotice,
    "gate.failed": JobNotice,
    "version.rejected": VersionNotice,
    "dataset.rejected": DatasetNotice,
    "ping": PingNotice,
}


def payload(kind: str, timestamp: str, notice: Notice) -> dict[str, Any]:
    """The message, as it is stored: with links that are paths. `timestamp` is when it happened, RFC 3339."""
    return {"type": kind, "timestamp": timestamp, "data": asdict(notice)}


def absolute(stored: Mapping[str, Any], public_url: str) -> dict[str, Any]:
    """The message as it is sent: its links begin with the service's public URL, where it has one."""
    data = dict(stored["data"])
    data["links"] = {name: public_url.rstrip("/") + path for name, path in data["links"].items()}
    return {**stored, "data": data}
