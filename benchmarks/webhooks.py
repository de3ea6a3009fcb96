"""Do webhooks arrive, whatever their receivers do? On a real API, a real worker, Postgres and Valkey.

    PYTHONPATH=. python benchmarks/webhooks.py

Jobs are canceled over HTTP, which ends them like any other end. Limits:

1. With a healthy receiver, 95 % of the messages arrive within 2 s of the job's end.
2. 1,000 events for receivers that fail 20 %, hang 10 % and reset 5 %: 1,000 distinct ids are taken, every
   signature is valid, and healthy endpoints of the same projects get all of theirs, 95 % within 2 s.
3. 100 endpoints that hang, with ten messages each: from the first second on, new and healthy endpoints beside
   them get theirs within 2 s (95 %). Once they have been dead for hours, they cost the worker less than 5 %
   of its CPU time: what it uses beyond the same work without them.

The worker runs as it is shipped. So that nobody waits for three days, the second part moves what waits for
its next attempt forward in the database, to one second from now; and the third writes there what the worker
would have written after hours: so many failures in a row, and pauses that end within the next hour.
Exits 1 when a limit does not hold.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from sqlalchemy import func, select, update
from standardwebhooks.webhooks import Webhook

from app import broker
from app.db import queries
from app.db.base import MICROSECONDS, now_us
from app.db.models import Project, Step
from app.db.session import Database
from app.db.webhooks import Delivery, DeliveryAttempt, WebhookEndpoint
from app.domain import patience
from app.embedded import address, children, lineup
from app.embedded.children import Child
from app.secrets import new_key
from app.services import keys
from benchmarks.webhook_receivers import Receivers, receivers
from tests import factories, servers
from tests.conftest import migrate
from worker.webhooks import dial

LATENCY_LIMIT_S, CPU_LIMIT = 2.0, 0.05
DEAD, PROJECTS, PER_PROJECT = 100, 10, 20
PACE_S = 1.0
HOURS_OF_FAILURES = 20
SETTLE_S = dial.SECONDS + 5  # until no attempt is under way that began before
LONGEST_S = 1800.0


@dataclass(frozen=True)
class Service:
    """A running service, and the process that sends webhooks."""

    url: str
    database: Database
    worker: Child

    def cpu_s(self) -> float:
        """Seconds of CPU that the worker has used so far."""
        assert self.worker.process is not None  # noqa: S101 - it runs
        fields = Path(f"/proc/{self.worker.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Tenant:
    """A project with a version that jobs can be made of."""

    http: httpx.Client
    version: str

    def listen(self, there: Receivers, path: str) -> None:
        """Make an endpoint that is told of canceled jobs."""
        body = {"url": there.url(path), "events": ["job.canceled"]}
        made = self.http.post("/v1/webhook-endpoints", json=body).raise_for_status().json()
        there.secrets[path] = Webhook(made["secret"])

    def end_a_job(self) -> None:
        """Make a job and cancel it."""
        job = self.http.post("/v1/jobs", json={"version": self.version}).raise_for_status().json()
        self.http.post(f"/v1/jobs/{job['id']}/cancel").raise_for_status()


def main() -> int:
    """Run the parts, and say what did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--events", type=int, default=1000, help="of the second part")
    parser.add_argument("--per-second", type=float, default=4.0, help="events of the second part")
    parser.add_argument("--quiet-events", type=int, default=200, help="of the first part")
    parser.add_argument("--seconds", type=float, default=120.0, help="of each window of the third part")
    options = parser.parse_args()
    broker.ring = lambda *_: (
        None
    )  # what is uploaded here is inspected by nobody; the service rings for itself
    parts = {
        1: lambda service, there: _healthy(service, there, options.quiet_events),
        2: lambda service, there: _faulty(service, there, options.events, options.per_second),
        3: lambda service, there: _dead(service, there, options.seconds),
    }
    held = []
    for number in options.parts:
        with _service() as service, receivers(seed=1) as there:
            held.append(parts[number](service, there))
    return 0 if all(held) else 1


def _healthy(service: Service, there: Receivers, events: int) -> bool:
    """The time from a job's end to a healthy receiver, at two events a second."""
    tenant = _tenant(service)
    tenant.listen(there, "/healthy/alone")
    for _ in range(events):
        _pace(tenant.end_a_job, 0.5)
    print(f"1. {events} events for a healthy receiver")
    return _in_time(there, events)


def _faulty(service: Service, there: Receivers, events: int, per_second: float) -> bool:
    """What bad receivers get in the end, and what that does to good ones beside them."""
    tenants = [_tenant(service) for _ in range(PROJECTS)]
    for number, tenant in enumerate(tenants):
        tenant.listen(there, f"/faulty/{number}")
        tenant.listen(there, f"/healthy/{number}")
    started = time.monotonic()
    with ThreadPoolExecutor(PROJECTS) as pool:
        made = [
            pool.submit(_pace, tenants[n % PROJECTS].end_a_job, PROJECTS / per_second) for n in range(events)
        ]
        _wait(lambda: all(job.done() for job in made), lambda: _hasten(service))
    _wait(lambda: len(_taken(there)) >= events or _none_waits(service), lambda: _hasten(service))
    counts = Counter(seen.outcome for seen in there.of("faulty"))
    taken, invalid = len(_taken(there)), sum(not seen.valid for seen in there.seen)
    print(f"2. {events} events for {PROJECTS} faulty receivers, in {time.monotonic() - started:.0f} s")
    print(f"   attempts {counts.total()}: {dict(sorted(counts.items()))}")
    print(f"   distinct ids taken {taken}, taken twice {counts['take'] - taken}")
    print(f"   signatures that are not valid {invalid} of {len(there.seen)}")
    return _in_time(there, events) and taken == events and not invalid


def _dead(service: Service, there: Receivers, seconds: float) -> bool:
    """What endpoints that never answer cost the worker, and endpoints beside them."""
    print(f"3. {DEAD} dead endpoints with ten messages each")
    _, before = _window(service, there, seconds, "without them")
    tenants = [_tenant(service) for _ in range(DEAD // PER_PROJECT)]
    for number in range(DEAD):
        tenants[number // PER_PROJECT].listen(there, f"/dead/{number}")
    for tenant in tenants * 10:
        tenant.end_a_job()
    held_at_first, at_first = _window(service, there, seconds, "from their first message on")
    _age(service)
    held, after_hours = _window(service, there, seconds, "dead for hours")
    print(f"   they cost {at_first - before:.1%} of a core at first, {after_hours - before:.1%} after hours")
    return held_at_first and held and after_hours - before < CPU_LIMIT


def _window(service: Service, there: Receivers, seconds: float, what: str) -> tuple[bool, float]:
    """Tell how new and healthy endpoints fare in this time, and the share of a core that the worker uses."""
    there.seen.clear()
    events = int(seconds / PACE_S)

    def end_jobs() -> None:
        for number in range(events):
            if number % 10 == 0:
                tenant = _tenant(service)
                tenant.listen(there, f"/healthy/{number}")
            _pace(tenant.end_a_job, PACE_S)

    before = _attempts_at(service, "/dead/")
    share = _cpu_share(service, end_jobs)
    attempts, waited = (now - then for now, then in zip(_attempts_at(service, "/dead/"), before, strict=True))
    print(f"   {what}: {share:.1%} of a core; {attempts:.0f} attempts at dead ones waited {waited:.0f} s")
    return _in_time(there, events), share


def _taken(there: Receivers) -> set[str]:
    return {seen.message for seen in there.of("faulty") if seen.outcome == "take"}


def _hasten(service: Service) -> None:
    """What waits for its next attempt waits one second more."""
    soon = now_us() + MICROSECONDS
    late = (Step.kind == "deliver", Step.state == "queued", Step.not_before > soon)
    with service.database.writing() as db:
        db.execute(update(Step).where(*late).values(not_before=soon))


def _none_waits(service: Service) -> bool:
    with service.database.reading() as db:
        waiting = select(func.count()).select_from(Delivery).where(Delivery.state == "pending")
        return db.scalars(waiting).one() == 0


def _attempts_at(service: Service, path: str) -> tuple[int, float]:
    """How many attempts were made at the endpoints with this in their URL, and their seconds."""
    counted = select(func.count(), func.coalesce(func.sum(DeliveryAttempt.milliseconds), 0))
    mine = (
        counted.select_from(DeliveryAttempt)
        .join(Delivery, Delivery.id == DeliveryAttempt.delivery_id)
        .join(WebhookEndpoint, WebhookEndpoint.id == Delivery.endpoint_id)
        .where(WebhookEndpoint.url.contains(path))
    )
    with service.database.reading() as db:
        count, milliseconds = db.execute(mine).one()
    return count, float(milliseconds) / 1000


def _age(service: Service) -> None:
    """Write what there would be after hours: many failures in a row, and pauses that end one by one."""
    _pause(service, lambda _share: patience.LONGEST_REST_S)
    time.sleep(SETTLE_S)
    _pause(service, lambda share: share * patience.LONGEST_REST_S)


def _pause(service: Service, seconds: Callable[[float], float]) -> None:
    with service.database.writing() as db:
        dead = db.scalars(select(WebhookEndpoint).where(WebhookEndpoint.url.contains("/dead/"))).all()
        for number, endpoint in enumerate(dead):
            endpoint.failures = HOURS_OF_FAILURES
            endpoint.rest_until = queries.now(db) + int(seconds(number / len(dead)) * MICROSECONDS)


def _cpu_share(service: Service, act: Callable[[], None]) -> float:
    """The share of a core that the worker uses meanwhile."""
    before, started = service.cpu_s(), time.monotonic()
    act()
    return (service.cpu_s() - before) / (time.monotonic() - started)


def _in_time(there: Receivers, events: int) -> bool:
    """Tell how long healthy receivers waited; whether each message came, and 95 % of them in time."""
    _wait(lambda: len(_waited(there)) >= events)
    after = _waited(there)
    p95 = after[int(0.95 * len(after))]
    print(
        f"   healthy receivers: {len(after)} of {events} messages, median {statistics.median(after):.2f} s,"
    )
    print(f"   p95 {p95:.2f} s, longest {after[-1]:.2f} s after the job's end")
    return len(after) == events and p95 < LATENCY_LIMIT_S


def _waited(there: Receivers) -> list[float]:
    """How long after its event each message first came to a healthy receiver, in seconds, sorted."""
    return sorted({seen.message: seen.after for seen in reversed(there.of("healthy"))}.values())


def _pace(act: Callable[[], None], seconds: float) -> None:
    """Do it, and let `seconds` go by in all."""
    end = time.monotonic() + seconds
    act()
    time.sleep(max(0.0, end - time.monotonic()))


def _wait(done: Callable[[], bool], meanwhile: Callable[[], None] = lambda: None) -> None:
    end = time.monotonic() + LONGEST_S
    while not done() and time.monotonic() < end:
        meanwhile()
        time.sleep(1.0)


def _tenant(service: Service) -> Tenant:
    project = factories.make_project(service.database)
    with service.database.writing() as db:
        key = keys.create(db, db.get_one(Project, project), "a benchmark's", ("read", "write")).text
    http = httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {key}"}, timeout=60)
    return Tenant(http, factories.make_version(service.database, project))


@contextmanager
def _service() -> Iterator[Service]:
    """An API and a worker that sends, as `make serve` starts them, on a Postgres of their own."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        here = address.claim("127.0.0.1", 0)
        url = stack.enter_context(servers.fresh_postgres(stack.enter_context(servers.postgres()), "webhooks"))
        migrate(url)
        os.environ |= {
            "FEWBITS_HOME": str(home),
            "FEWBITS_DATABASE_URL": url,
            "FEWBITS_REDIS_URL": stack.enter_context(servers.redis()),
            "FEWBITS_SECRET_KEY": new_key(),
            "FEWBITS_WEBHOOK_ALLOW": "127.0.0.0/8",
        }
        api, worker = lineup.api(home, here), lineup.soloists(home)[-1]
        stack.callback(children.end, [api, worker], 10.0)
        for child in (api, worker):
            children.revive(child)
        _wait(lambda: address.is_ready(here))
        database = Database(url)
        stack.callback(database.dispose)
        yield Service(here.url, database, worker)


if __name__ == "__main__":
    sys.exit(main())
