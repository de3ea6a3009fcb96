"""Rounds of latency: how many are needed, and what they say together. Pure; loads no runtime.

Contention on a shared host lasts seconds, so blocks of one process agree with each other more than they
should, and an interval over them is far too narrow. The unit of evidence is therefore a round (one process,
one median log-ratio for each contestant), with the distribution-free interval of the median over rounds.
"""

import math
import time
from collections.abc import Callable, Sequence
from statistics import median

from app.domain.intervals import median_interval
from app.domain.note import Note
from app.domain.processor import allowed_cores
from app.domain.report import Latency
from worker.engine.evaluate.progress import Progress
from worker.engine.requests import Round

LEAST_ROUNDS = 9
MOST_ROUNDS = 21  # without a limit to clear
NARROW = 0.02  # half the interval's width, as a share of the speed-up
TOLERABLE_NOISE = 0.02
LEVEL = 0.05
TWO_SIDED_95 = 0.025


def measure(
    run_round: Callable[[int], Round],
    candidates: int,
    max_seconds: float,
    limit: float | None,
    progress: Progress,
) -> list[Round]:
    """Run rounds until they decide, or until the time is up.

    Args:
        run_round: runs the round of a seed in a fresh process.
        candidates: how many there are; each adds `max_seconds` to the time that all rounds may take.
        max_seconds: wall seconds for each candidate.
        limit: the speed-up that a gate asks for. With one, rounds go on until every candidate's interval is
            on one side of it; without, until the intervals are narrow or there are 21 rounds.
        progress: told the share of the least rounds that are done.
    """
    budget = max_seconds * max(candidates, 1)
    start = time.monotonic()
    rounds: list[Round] = []
    while not (len(rounds) >= LEAST_ROUNDS and _decided(rounds, candidates, limit)):
        spent = time.monotonic() - start
        if rounds and spent + spent / len(rounds) > budget:
            break
        rounds.append(run_round(len(rounds)))
        progress(min(len(rounds) / LEAST_ROUNDS, 1.0), f"latency round {len(rounds)}")
    return rounds


def summarize(
    rounds: Sequence[Round],
    index: int,
    threads: int,
    batch: int,
    *,
    max_seconds: float | None = None,
    cores: int | None = None,
) -> Latency | Note:
    """The latency of the candidate at `index`, or the reason why there is none.

    Args:
        rounds: what `measure` returned; throttled ones do not count.
        index: the candidate's place in each round.
        threads: threads that each run used.
        batch: samples per run.
        max_seconds: the budget, for the reason's sake.
        cores: cores that the rounds' process may use; None: those of this process.
    """
    usable = [one for one in rounds if not one.throttled]
    reason = _too_many_threads(threads, cores or allowed_cores()) or _too_few(usable, rounds, max_seconds)
    return reason or _noisy(usable) or _latency(usable, index, threads, batch)


def _latency(rounds: Sequence[Round], index: int, threads: int, batch: int) -> Latency:
    mine = [one.candidates[index] for one in rounds]
    ratios = tuple(math.exp(one.log_ratio) for one in mine)
    return Latency(
        p50_ms=median(one.p50_ms for one in mine),
        p90_ms=median(one.p90_ms for one in mine),
        baseline_p50_ms=median(one.baseline.p50_ms for one in rounds),
        speedup=median(ratios),
        ci=_interval(ratios),
        noise=_noise(rounds),
        rounds=len(rounds),
        ratios=ratios,
        load_ms=median(one.load_ms for one in mine),
        cpu_ms=median(one.cpu_ms for one in mine),
        threads=threads,
        batch=batch,
        p50s_ms=tuple(one.p50_ms for one in mine),
    )


def _too_many_threads(threads: int, cores: int) -> Note | None:
    if threads <= cores:
        return None
    detail = f"{threads} threads exceed the {cores} cores allowed here; lower benchmark.threads"
    return Note("latency", detail)


def _too_few(usable: Sequence[Round], rounds: Sequence[Round], max_seconds: float | None) -> Note | None:
    if len(usable) >= LEAST_ROUNDS:
        return None
    if len(usable) < len(rounds):
        throttled = len(rounds) - len(usable)
        detail = f"the process was throttled in {throttled} of {len(rounds)} rounds; raise its CPU quota"
        return Note("latency", detail)
    budget = "the time allowed" if max_seconds is None else f"max_seconds {max_seconds:g}"
    return Note("latency", f"{len(rounds)} of {LEAST_ROUNDS} rounds fit into {budget}")


def _noisy(rounds: Sequence[Round]) -> Note | None:
    lower, upper = _noise(rounds)
    if lower <= 1 + TOLERABLE_NOISE and upper >= 1 - TOLERABLE_NOISE:
        return None
    detail = (
        f"the baseline against itself came out as {lower:.3f} to {upper:.3f} times as fast, "
        f"so this host is too noisy to tell; measure again on a quiet one"
    )
    return Note("latency", detail)


def _noise(rounds: Sequence[Round]) -> tuple[float, float]:
    return _interval([math.exp(one.noise.log_ratio) for one in rounds])


def _interval(ratios: Sequence[float]) -> tuple[float, float]:
    return median_interval(ratios, TWO_SIDED_95) or (min(ratios), max(ratios))


def _decided(rounds: Sequence[Round], candidates: int, limit: float | None) -> bool:
    usable = [one for one in rounds if not one.throttled]
    if len(rounds) >= MOST_ROUNDS and (limit is None or len(usable) < LEAST_ROUNDS):
        return True
    if len(usable) < LEAST_ROUNDS or (_noisy(usable) and len(rounds) < MOST_ROUNDS):
        return False
    series = [[math.exp(one.candidates[index].log_ratio) for one in usable] for index in range(candidates)]
    if limit is None:
        return all(_is_narrow(ratios) for ratios in series)
    return all(_clears(ratios, limit, LEVEL / candidates) for ratios in series)


def _is_narrow(ratios: Sequence[float]) -> bool:
    lower, upper = _interval(ratios)
    return (upper - lower) / 2 < NARROW * median(ratios)


def _clears(ratios: Sequence[float], limit: float, level: float) -> bool:
    interval = median_interval(ratios, level)
    return interval is not None and (interval[0] >= limit or interval[1] < limit)
