"""What a gate compares with: the float model, or the best candidate of an earlier job of the same model."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote

from app.domain.report import Figures

FLOAT = "float"
LATEST = "latest"
PATTERN = f"^({FLOAT}|(ver|job)_[0-9a-z]+|{LATEST}(:[^,=]+=[^,]*(,[^,=]+=[^,]*)*)?)$"
COMPARED = frozenset(
    {"max_accuracy_drop", "max_relative_drop", "min_speedup", "max_size_ratio", "max_memory_ratio"}
)


@dataclass(frozen=True)
class Against:
    """A parsed `against`: the float model, one version, one job, or the latest job with these labels."""

    kind: Literal["float", "version", "job", "latest"]
    id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def parse(text: str) -> Against:
    """Read what `PATTERN` lets through.

    Labels follow `latest:` as `key=value`, separated by commas; a comma, `=` in a key, or `%` that belongs to
    a label is percent-encoded (RFC 3986).
    """
    if text == FLOAT:
        return Against("float")
    if text.startswith("ver_"):
        return Against("version", text)
    if text.startswith("job_"):
        return Against("job", text)
    pairs = [pair.partition("=") for pair in text.removeprefix(LATEST).removeprefix(":").split(",") if pair]
    return Against("latest", labels={unquote(key): unquote(value) for key, _, value in pairs})


@dataclass(frozen=True)
class Outcomes:
    """Which evaluation samples a candidate got right, kept so that a later job can be paired with it.

    `key` is equal exactly when two evaluations have the same samples, labels, metric and output. `right` is a
    bitmap in base64, in an order that depends on the samples' content alone; null for metrics that do not
    call a sample right or wrong.
    """

    key: str
    samples: int
    right: str | None = None


@dataclass(frozen=True)
class Paired:
    """Samples that were right with the earlier candidate and are wrong now, and the other way round."""

    lost: int
    gained: int
    samples: int


@dataclass(frozen=True)
class Earlier:
    """The best candidate of an earlier job.

    `same_host` says whether speed and memory were measured on the same kind of host with the same threads and
    batch. `outcomes` are its own; `now` holds those of the candidates that are judged, by id.
    """

    candidate: str
    figures: Figures
    same_host: bool = True
    outcomes: Outcomes | None = None
    now: Mapping[str, Outcomes] = field(default_factory=dict)


@dataclass(frozen=True)
class NoEarlier:
    """There is no job to compare with. `first`: the model has none at all, so there is nothing to protect."""

    reason: str
    first: bool = False


def same_samples(a: Outcomes | None, b: Outcomes | None) -> bool:
    """Whether both were evaluated on the same samples, by the same metric and output."""
    return a is not None and b is not None and (a.key, a.samples) == (b.key, b.samples)


def pair(earlier: Outcomes | None, now: Outcomes | None) -> Paired | None:
    """Count the samples that changed; None where they cannot be paired."""
    if earlier is None or now is None or not same_samples(earlier, now):
        return None
    if earlier.right is None or now.right is None:
        return None
    before, after = (int.from_bytes(base64.b64decode(text)) for text in (earlier.right, now.right))
    return Paired((before & ~after).bit_count(), (after & ~before).bit_count(), now.samples)


def bitmap(right: list[bool]) -> str:
    """The `right` of `Outcomes`: one bit per sample, the first is the highest."""
    bits = int("".join("1" if one else "0" for one in right) or "0", 2)
    return base64.b64encode(bits.to_bytes(-(-len(right) // 8) or 1)).decode()
