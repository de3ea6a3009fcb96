"""One round of paired latency: interleaved blocks of all contestants in this one process."""

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

from app.domain.processor import throttled_periods
from worker.engine.elsewhere import openvino
from worker.engine.evaluate.cores import pinned
from worker.engine.interface import as_fed
from worker.engine.ready import Feed, read_feeds
from worker.engine.requests import Contestant, MeasureRound, Round
from worker.engine.session import open_session

Session: TypeAlias = Any  # ONNX Runtime ships no types
BLOCK_SECONDS = 0.020
SLOW_RUN_SECONDS = 0.005  # from here on, cold caches are a small part of a run
WARM_UP_SECONDS = 0.020
LEAST_CYCLES = 3
MS = 1e3


@dataclass
class Track:
    """One contestant's session, and what its runs took."""

    session: Session
    feeds: Sequence[Feed]  # as the model takes them
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
    wall time. OpenVINO computes on the calling thread too, when it is given one.

    Raises:
        Refused: a model cannot be loaded.
    """
    draw = random.Random(request.seed)  # noqa: S311  # an order, no secret
    feeds = read_feeds(request.feeds)
    before = throttled_periods()
    with pinned(request.threads, request.seed):
        tracks = [_open(path, feeds, request.threads) for path in (request.models[0], *request.models)]
        tracks += [_in_openvino(request, tracks[0])] if request.openvino else []
        slowest = max(_warm_up(track) for track in tracks)
        with _no_garbage_collection():
            _run_cycles(tracks, draw, slowest, request)
    baseline, noise, *candidates = (_contestant(track, tracks[0]) for track in tracks)
    throttled = throttled_periods() > before
    return Round(noise=noise, baseline=baseline, candidates=tuple(candidates), throttled=throttled)


def _open(path: Path, feeds: Sequence[Feed], threads: int) -> Track:
    start = time.perf_counter()
    session = open_session(path, threads=threads)
    seconds = time.perf_counter() - start
    return Track(session, as_fed(session, feeds), seconds)


def _in_openvino(request: MeasureRound, baseline: Track) -> Track:
    openvino.runtime()  # to import it is no part of the load time
    start = time.perf_counter()
    session = openvino.compiled(request.models[0], baseline.session, request.threads)
    return Track(session, baseline.feeds, time.perf_counter() - start)


def _warm_up(track: Track) -> float:
    """Run until first allocations are over; returns the seconds of a typical run."""
    taken: list[float] = []
    while sum(taken) < WARM_UP_SECONDS or not taken:
        taken.append(_timed(track, len(taken)))
    return min(taken)


def _run_cycles(
    tracks: Sequence[Track],
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
                _timed(track, cycle + touch)
            _run_block(track, cycle, length, clock)


def _run_block(track: Track, cycle: int, length: float, clock: Callable[[], float]) -> None:
    """Runs for about `length` seconds, at least one; contestants get the same samples in the same cycle."""
    cpu, end = time.process_time(), time.perf_counter() + length
    compared: list[float] = []
    while not compared or time.perf_counter() + track.seconds[-1] <= end:
        begun = clock()
        track.seconds.append(_timed(track, cycle + len(compared)))
        compared.append(clock() - begun)
    track.cpu_seconds += time.process_time() - cpu
    track.blocks.append(median(compared))


def _timed(track: Track, turn: int) -> float:
    inputs = track.feeds[turn % len(track.feeds)]
    start = time.perf_counter()
    track.session.run(None, inputs)
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
