"""Endpoints that listen, jobs that end, and the attempts that follow."""

from sqlalchemy import select, update
from sqlalchemy.orm import selectinload

from app.db.models import Step
from app.db.webhooks import Delivery, WebhookEndpoint
from app.domain.webhook import EVENT_TYPES
from app.secrets import Sealer
from app.services import endpoints, jobs
from app.services.events import acting_as
from tests import factories
from worker import deliver
from worker.process import Process

ANYTHING = [*EVENT_TYPES]


def listen(process: Process, project: str, url: str, kinds: list[str] = ANYTHING) -> tuple[str, str]:
    """The id and the secret of a new endpoint."""
    with process.database.writing() as db:
        made = endpoints.create(db, Sealer(process.settings.secret_keys), project, url, kinds, "")
        return made.endpoint.id, made.secret


def end_a_job(process: Process, project: str) -> str:
    """The id of a job that was canceled."""
    job = factories.make_job(process.database, project)
    with process.database.writing() as db:
        jobs.cancel(db, project, job)
    return job


def deliveries(process: Process) -> list[Delivery]:
    with process.database.reading() as db:
        chosen = select(Delivery).options(selectinload(Delivery.attempts))
        return list(db.scalars(chosen.order_by(Delivery.id)))


def delivery(process: Process) -> Delivery:
    (found,) = deliveries(process)
    return found


def step_of(process: Process, found: Delivery) -> Step:
    return factories.steps_of(process.database, found.id, "deliver")[-1]


def endpoint(process: Process, endpoint_id: str) -> WebhookEndpoint:
    with process.database.reading() as db:
        return db.get_one(WebhookEndpoint, endpoint_id)


def attempt(process: Process, found: Delivery | None = None) -> None:
    """Make the next attempt, whenever it is due."""
    step = step_of(process, found or delivery(process))
    with process.database.writing() as db:
        db.execute(update(Step).where(Step.id == step.id).values(not_before=0))
        db.execute(update(WebhookEndpoint).values(rest_until=0))
    with acting_as("worker"):
        deliver.run(process, step.id)
