"""Run the model with its activations as outputs, on as many samples at once as there are cores."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from app.domain.errors import Refused
from app.domain.processor import allowed_cores
from worker.engine.calibrate.observers import Extent, Statistics, merge, observe, widen
from worker.engine.calibrate.sessions import Feed, Plan, open_plan

MOST_THREADS = 4  # each holds a sample's activations
_FLOATS = frozenset({np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)})


def collect(
    model: Path,
    feeds: Iterable[Feed],
    *,
    progress: Callable[[float], None] | None = None,
    total: int | None = None,
    threads: int | None = None,
) -> Statistics:
    """Observe every float activation of the main graph, in one pass over the samples.

    Memory does not grow with the number of samples. Tensors are returned in groups under a budget of bytes,
    measured on the first sample; a group is a session of its own and runs only what it needs. Each thread
    takes the next sample and keeps statistics of its own; merged, they do not depend on who took what.

    Args:
        model: the prepared model; its folder takes a file for a moment.
        feeds: inputs by name, one mapping per sample; consumed once.
        progress: called with the share that is done, 0 to 1, when `total` is given.
        total: how many feeds there will be.
        threads: samples at once; None for the cores that this process may use, at most 4.

    Raises:
        Refused: `no_calibration_data` when there is no sample.
    """
    samples = iter(feeds)
    first = next(samples, None)
    if first is None:
        raise Refused(
            "no_calibration_data", "Static recipes need calibration samples, and there are none. Send data."
        )
    threads = threads or min(allowed_cores(), MOST_THREADS)
    plan = open_plan(model, first, threads)
    line = _Line(
        first, samples, lambda seen: progress(min(seen / total, 1.0)) if progress and total else None
    )
    with ThreadPoolExecutor(threads) as pool:
        shares = list(pool.map(lambda _: _observe(plan, line), range(threads)))
    return reduce(merge, shares)


class _Line:
    """Samples that several threads take one by one."""

    def __init__(self, first: Feed, rest: Iterator[Feed], progress: Callable[[int], None]) -> None:
        self._first, self._rest = [first], rest
        self._lock, self._progress, self._seen = Lock(), progress, 0

    def __iter__(self) -> Iterator[Feed]:
        while (feed := self._next()) is not None:
            yield feed
            with self._lock:
                self._seen += 1
                self._progress(self._seen)

    def _next(self) -> Feed | None:
        with self._lock:
            return self._first.pop() if self._first else next(self._rest, None)


def _observe(plan: Plan, line: _Line) -> Statistics:
    tensors: dict[str, Extent] = {}
    seen = 0
    for feed in line:
        _observe_sample(plan, feed, tensors)
        seen += 1
    return Statistics(seen, dict(sorted(tensors.items())))


def _observe_sample(plan: Plan, feed: Feed, tensors: dict[str, Extent]) -> None:
    batch = _batch(feed)
    for session, names in plan.sessions:
        wanted = {value.name for value in session.get_inputs()}
        values = session.run(names, {name: value for name, value in feed.items() if name in wanted})
        for name in reversed(names):  # each is let go of once it was seen
            _add(plan, tensors, name, values.pop(), batch)
    for name, value in feed.items():
        if np.asarray(value).dtype in _FLOATS:
            _add(plan, tensors, name, np.asarray(value), batch)


def _batch(feed: Feed) -> int:
    """How many samples lie in one feed: the first axis, where all inputs agree on it."""
    sizes = {np.shape(value)[0] if np.ndim(value) else 1 for value in feed.values()}
    return int(sizes.pop()) if len(sizes) == 1 else 1


def _add(plan: Plan, tensors: dict[str, Extent], name: str, values: npt.NDArray[Any], batch: int) -> None:
    rows = batch if values.ndim and values.shape[0] == batch else 1
    extent = widen(tensors.get(name), observe(values, axis=plan.axes.get(name), rows=rows))
    if extent:
        tensors[name] = extent
