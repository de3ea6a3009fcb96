"""What does a second worker bring, what does a backlog of 10,000 jobs cost, and what breaks first?

    PYTHONPATH=. python benchmarks/scale.py [--parts queue plane workers …] [--jobs 10000] [--each 8]

On a real Postgres and a real Redis-protocol server, with real workers where something is quantized. Limits:

queue    Claiming a step, writing its end, a sweep and lists of jobs take at most twice as long beside 10,000
         queued jobs as beside 100. Ten minutes of sweeps while nobody works leave at most 200 messages.
plane    None: CPU time to begin a step, renew its lease and end it, in a worker and in Postgres.
workers  Two workers of one core each build at least 1.8 times as many candidates a minute as one.
store    None: bytes a second into and out of the folder and the database, and what CPU they take.
years    None: bytes of the database for each job, when it has ended and when what is not kept was pruned.

CPU times hold on a busy host too; both backlogs are measured in turns.
Exits 1 when a limit does not hold. docs/scale.md says what follows from the figures.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from app import broker
from benchmarks import scale_queue, scale_rates, scale_workers, scale_years
from benchmarks.scale_place import Place
from tests import servers
from tests.conftest import migrate


def main() -> int:
    """Run the parts, and say what did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--jobs", type=int, default=10_000, help="of the long backlog")
    parser.add_argument(
        "--each", type=int, default=8, help="jobs of two candidates for one worker, and for two"
    )
    options = parser.parse_args()
    held = []
    for name in options.parts:
        print(f"{name}: {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
        with _place() as place:
            held.append(PARTS[name](place, options))
    return 0 if all(held) else 1


@contextmanager
def _place() -> Iterator[Place]:
    with ExitStack() as stack:
        server, redis_url = (stack.enter_context(begin()) for begin in (servers.postgres, servers.redis))
        urls = [stack.enter_context(servers.fresh_postgres(server, name)) for name in ("scale", "few")]
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fewbits-scale-"))
        for url in urls:
            migrate(url)
        broker.celery.conf.broker_url = redis_url
        yield Place(urls[0], urls[1], redis_url, Path(folder))


PARTS: dict[str, Callable[[Place, argparse.Namespace], bool]] = {
    "queue": lambda place, options: scale_queue.run(place, options.jobs),
    "plane": lambda place, _options: scale_rates.plane(place),
    "workers": lambda place, options: scale_workers.run(place, options.each),
    "store": lambda place, _options: scale_rates.store(place),
    "years": lambda place, _options: scale_years.run(place),
}

if __name__ == "__main__":
    sys.exit(main())
