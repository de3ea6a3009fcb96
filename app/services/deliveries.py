"""What is to be delivered: inserted with its event, one for each endpoint that wants to be told."""

from datetime import UTC, datetime

from sqlalchemy.orm import Session

from app import broker
from app.db.base import MICROSECONDS
from app.db.models import Dataset, Event, Job, Version
from app.db.queries import webhooks as stored
from app.db.session import after_commit
from app.db.webhooks import Delivery, WebhookEndpoint
from app.domain.notice import DatasetNotice, JobNotice, Notice, PingNotice, VersionNotice, payload
from app.domain.webhook import EVENT_TYPES, PING
from app.services import steps


def announce(db: Session, event: Event) -> None:
    """Tell every enabled endpoint of the project that listens for this type of event."""
    if event.type in EVENT_TYPES:
        for endpoint in stored.listeners(db, event.project_id, event.type):
            tell(db, endpoint, event)


def tell(db: Session, endpoint: WebhookEndpoint, event: Event) -> Delivery:
    """Insert the delivery of an event to an endpoint."""
    message = payload(event.type, _moment(event.created_at), _notice(db, event))
    return _insert(db, Delivery(event_id=event.id, type=event.type, payload=message), endpoint)


def ping(db: Session, endpoint: WebhookEndpoint, now: int) -> Delivery:
    """Insert the delivery of a test."""
    notice = PingNotice(endpoint=endpoint.id, links={"endpoint": f"/v1/webhook-endpoints/{endpoint.id}"})
    return _insert(db, Delivery(type=PING, payload=payload(PING, _moment(now), notice)), endpoint)


def again(db: Session, delivery: Delivery, now: int) -> None:
    """Deliver now what waits, or once more what has ended, under its message id; the endpoint is locked."""
    delivery.next_attempt_at = now
    if delivery.state == "pending":
        if step_id := stored.hasten(db, delivery.id):
            after_commit(db, broker.ring, step_id, "deliver")
        return
    delivery.state, delivery.finished_at = "pending", None
    delivery.round, delivery.tries = delivery.round + 1, 0
    steps.enqueue(db, delivery.project_id, "deliver", delivery.id, round_=delivery.round)


def _insert(db: Session, delivery: Delivery, endpoint: WebhookEndpoint) -> Delivery:
    delivery.project_id, delivery.endpoint_id = endpoint.project_id, endpoint.id
    db.add(delivery)
    db.flush()
    # Not a step of the job: that ends with everything it has open, and this begins then.
    steps.enqueue(db, delivery.project_id, "deliver", delivery.id)
    return delivery


def _notice(db: Session, event: Event) -> Notice:
    subject, sequence = event.subject_id, event.seq
    match event.type:
        case "version.rejected":
            version = db.get_one(Version, subject)
            links = {"version": f"/v1/versions/{subject}", "model": f"/v1/models/{version.model_id}"}
            code = str(event.data["code"])
            return VersionNotice(
                version=subject,
                model=version.model_id,
                state=version.state,
                code=code,
                sequence=sequence,
                links=links,
            )
        case "dataset.rejected":
            state, code = db.get_one(Dataset, subject).state, str(event.data["code"])
            links = {"dataset": f"/v1/datasets/{subject}"}
            return DatasetNotice(dataset=subject, state=state, code=code, sequence=sequence, links=links)
        case _:
            return _of_job(db.get_one(Job, subject), sequence)


def _of_job(job: Job, sequence: int) -> JobNotice:
    here = f"/v1/jobs/{job.id}"
    results = ("verdict", "report", "candidates") if job.state == "succeeded" else ("logs",)
    return JobNotice(
        job=job.id,
        version=job.version_id,
        state=job.state,
        conclusion=job.verdict.conclusion if job.verdict else None,
        best=job.best_id,
        code=job.problem.code if job.problem else None,
        sequence=sequence,
        links={"job": here} | {name: f"{here}/{name}" for name in results},
    )


def _moment(microseconds: int) -> str:
    moment = datetime.fromtimestamp(microseconds / MICROSECONDS, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
