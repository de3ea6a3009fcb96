"""Peak memory of one model in a fresh process."""

import resource
import sys
from pathlib import Path

from worker.engine.interface import as_fed
from worker.engine.ready import read_feeds
from worker.engine.requests import MeasureMemory, MemoryUse
from worker.engine.session import open_session

STATUS = Path("/proc/self/status")
PEAK = "VmHWM:"
KIB = 1024


def measure_memory(request: MeasureMemory) -> MemoryUse:
    """Load a model and run it once on each feed.

    The process must be fresh: a peak never falls. Feeds are read before the first look, to count for none.

    Raises:
        Refused: the model cannot be loaded.
    """
    feeds = read_feeds(request.feeds)
    before = peak_bytes()
    session = open_session(request.model, threads=request.threads)
    for feed in as_fed(session, feeds):
        session.run(None, feed)
    return MemoryUse(import_bytes=before, peak_bytes=peak_bytes())


def peak_bytes() -> int:
    """The largest resident size that this process ever had, in bytes.

    VmHWM, since `ru_maxrss` starts at the parent's value after fork and exec; without /proc, `ru_maxrss`.
    """
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith(PEAK))
        return int(line.split()[1]) * KIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * KIB
