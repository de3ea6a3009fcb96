"""Paired latency: rounds of interleaved blocks in fresh processes, and the interval of their median.

Contention on a shared host lasts seconds, so blocks of one process agree with each other more than they
should, and an interval over them is far too narrow. The unit of evidence is therefore a round (one process,
one median log-ratio for each contestant), with the distribution-free interval of the median over rounds.
"""

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import numpy as np

from app.domain.intervals import median_interval
from app.domain.report import Latency
from worker.engine.evaluate.cores import allowed_cores, pinned, throttled_periods
from worker.engine.evaluate.progress import Progress
from worker.engine.evaluate.ready import Feed, read_feeds
from worker.engine.load import open_session
from worker.engine.requests import Contestant, MeasureRound, Round

Session: TypeAlias = Any  # ONNX Runtime ships no types
LEAST_ROUNDS = 9
MOST_ROUNDS = 21  # without a limit to clear
NARROW = 0.02  # half the interval's width, as a share of the speed-up
TOLERABLE_NOISE = 0.02
LEVEL = 0.05
TWO_SIDED_95 = 0.025
BLOCK_SECONDS = 0.010
SLOW_RUN_SECONDS = 0.005  # from here on, cold caches are a small part of a run
WARM_UP_SECONDS = 0.020
LEAST_CYCLES = 3
MS = 1e3


@dataclass
class Track:
    """One contestant's session, and what its runs took."""

    session: Session
    load_seconds: float
    seconds: list[float] = field(default_factory=list)  # of each counted run
    blocks: list[float] = field(
        default_factory=list
    )  # median of each block's runs, by the clock that compares
    cpu_seconds: float = 0.0


def measure_round(request: MeasureRound) -> Round:
    """One round in this process, which should be fresh.

    Cycles go over the baseline, the baseline again and the candidates in random order, with blocks of equal
    duration, so that each block has a baseline block near in time. The first run of a quick model's block
    pays for the caches that the contestant before it left, and is not counted.

    With one thread, runs are compared by the thread's CPU time: it is the latency without the time in which
    other processes held the core, which hits contestants at random. With more, and in the percentiles, it is
    wall time.

    Raises:
        Refused: a model cannot be loaded.
    """
    draw = random.Random(request.seed)  # noqa: S311  # an order, no secret
    feeds = read_feeds(request.feeds)
    before = throttled_periods()
    with pinned(request.threads, request.seed):
        tracks = [_open(path, request.threads) for path in (request.models[0], *request.models)]
        slowest = max(_warm_up(track, feeds) for track in tracks)
        with _no_garbage_collection():
            _run_cycles(tracks, feeds, draw, slowest, request)
    baseline, noise, *candidates = (_contestant(track, tracks[0]) for track in tracks)
    throttled = throttled_periods() > before
    return Round(noise=noise, baseline=baseline, candidates=tuple(candidates), throttled=throttled)


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
) -> Latency | str:
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
    )


def _too_many_threads(threads: int, cores: int) -> str | None:
    if threads <= cores:
        return None
    return f"latency: {threads} threads exceed the {cores} cores allowed here; lower benchmark.threads"


def _too_few(usable: Sequence[Round], rounds: Sequence[Round], max_seconds: float | None) -> str | None:
    if len(usable) >= LEAST_ROUNDS:
        return None
    if len(usable) < len(rounds):
        throttled = len(rounds) - len(usable)
        return (
            f"latency: the process was throttled in {throttled} of {len(rounds)} rounds; raise its CPU quota"
        )
    budget = "the time allowed" if max_seconds is None else f"max_seconds {max_seconds:g}"
    return f"latency: {len(rounds)} of {LEAST_ROUNDS} rounds fit into {budget}"


def _noisy(rounds: Sequence[Round]) -> str | None:
    lower, upper = _noise(rounds)
    if lower <= 1 + TOLERABLE_NOISE and upper >= 1 - TOLERABLE_NOISE:
        return None
    return (
        f"latency: the baseline against itself came out as {lower:.3f} to {upper:.3f} times as fast, "
        f"so this host is too noisy to tell; measure again on a quiet one"
    )


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


def _open(path: Path, threads: int) -> Track:
    start = time.perf_counter()
    session = open_session(path, threads=threads)
    return Track(session, time.perf_counter() - start)


def _warm_up(track: Track, feeds: Sequence[Feed]) -> float:
    """Run until first allocations are over; returns the seconds of a typical run."""
    taken: list[float] = []
    while sum(taken) < WARM_UP_SECONDS or not taken:
        taken.append(_timed(track.session, feeds[len(taken) % len(feeds)]))
    return min(taken)


def _run_cycles(
    tracks: Sequence[Track],
    feeds: Sequence[Feed],
    draw: random.Random,
    slowest: float,
    request: MeasureRound,
) -> None:
    touches = 1 if slowest < SLOW_RUN_SECONDS else 0
    length = max(BLOCK_SECONDS, slowest)
    clock = time.thread_time if request.threads == 1 else time.perf_counter
    for cycle in range(max(LEAST_CYCLES, math.ceil(request.seconds / length))):
        for track in draw.sample(tracks, len(tracks)):
            for touch in range(touches):
                track.session.run(None, feeds[(cycle + touch) % len(feeds)])
            _run_block(track, feeds, cycle, length, clock)


def _run_block(
    track: Track, feeds: Sequence[Feed], cycle: int, length: float, clock: Callable[[], float]
) -> None:
    """Runs for about `length` seconds, at least one; contestants get the same samples in the same cycle."""
    cpu, end = time.process_time(), time.perf_counter() + length
    compared: list[float] = []
    while not compared or time.perf_counter() + track.seconds[-1] <= end:
        begun = clock()
        track.seconds.append(_timed(track.session, feeds[(cycle + len(compared)) % len(feeds)]))
        compared.append(clock() - begun)
    track.cpu_seconds += time.process_time() - cpu
    track.blocks.append(median(compared))


def _timed(session: Session, inputs: Feed) -> float:
    start = time.perf_counter()
    session.run(None, inputs)
    return time.perf_counter() - start


def _contestant(track: Track, baseline: Track) -> Contestant:
    pairs = zip(baseline.blocks, track.blocks, strict=True)
    return Contestant(
        log_ratio=median(math.log(reference / mine) for reference, mine in pairs),
        p50_ms=median(track.seconds) * MS,
        p90_ms=float(np.quantile(track.seconds, 0.9)) * MS,
        load_ms=track.load_seconds * MS,
        cpu_ms=track.cpu_seconds / len(track.seconds) * MS,
    )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
