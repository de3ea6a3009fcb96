"""Which samples calibrate and which decide accuracy: by content, never by position."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from app.domain.dataset import calibration_share
from app.domain.errors import Refused

SEED = b"fewbits"
AT_LEAST = 2


def order(hashes: Sequence[bytes], labels: Sequence[int | None] | None) -> list[list[int]]:
    """Groups of equal samples, in an order of which every prefix is stratified by label.

    Within a label, groups follow a seeded hash of their content; the k-th of n stands at (k + 1/2) / n of the
    whole order. So a shuffled dataset gives the same samples in the same order.
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    for index, content in enumerate(hashes):
        groups[content].append(index)
    strata: dict[int, list[tuple[bytes, list[int]]]] = defaultdict(list)
    for content, members in groups.items():
        strata[_stratum(members, labels)].append((_key(content), members))
    placed = [
        ((rank + 0.5) / len(stratum), key, members)
        for stratum in strata.values()
        for rank, (key, members) in enumerate(sorted(stratum))
    ]
    return [members for _, _, members in sorted(placed)]


def split(
    hashes: Sequence[bytes], labels: Sequence[int | None] | None, calibration: int | None
) -> tuple[list[int], list[int]]:
    """Indices for calibration and for evaluation of one dataset that serves both.

    Calibration gets `calibration` (128 when None) samples, at most a fifth of all. Equal samples stay on one
    side.

    Raises:
        Refused: `too_few_samples`, when one side would stay empty.
    """
    wanted = calibration_share(len(hashes), calibration)
    groups = order(hashes, labels)
    if len(groups) < AT_LEAST:
        detail = (
            f"The dataset has {len(groups)} distinct sample; calibration and evaluation need one each. "
            f"Send at least {AT_LEAST} different samples."
        )
        raise Refused("too_few_samples", detail)
    first: list[int] = []
    taken = 0
    while len(first) < wanted and taken < len(groups) - 1:
        first += groups[taken]
        taken += 1
    return first, [index for members in groups[taken:] for index in members]


def choose(hashes: Sequence[bytes], labels: Sequence[int | None] | None, samples: int | None) -> list[int]:
    """The first `samples` (all when None) in the stratified order."""
    return [index for members in order(hashes, labels) for index in members][:samples]


def check_disjoint(calibration: Sequence[bytes], evaluation: Sequence[bytes]) -> None:
    """Refuse two datasets that share samples: accuracy on calibration data flatters.

    Raises:
        Refused: `overlapping_datasets`.
    """
    known = set(calibration)
    shared = [index for index, content in enumerate(evaluation) if content in known]
    if shared:
        detail = (
            f"{len(shared)} of {len(evaluation)} evaluation samples are also in the calibration dataset, "
            f"the first at {shared[0]}; remove them from one, or give one dataset for both uses."
        )
        raise Refused("overlapping_datasets", detail)


def _stratum(members: list[int], labels: Sequence[int | None] | None) -> int:
    """The label of a group; the lowest, should equal samples be labelled differently."""
    known = [label for i in members if labels is not None and (label := labels[i]) is not None]
    return min(known, default=-1)


def _key(content: bytes) -> bytes:
    return hashlib.blake2b(content, key=SEED, digest_size=16).digest()
