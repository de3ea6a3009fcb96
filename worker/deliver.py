"""Sends webhooks: a step is a delivery, a run of it is one attempt.

Nothing holds a session while it sends, and no heartbeat is needed: an attempt ends before its lease does.
"""

import json
import logging
import random
import threading
from collections.abc import Sequence
from functools import cache

from opentelemetry.trace import SpanKind

from app.domain import notice, webhook
from app.log import about
from app.secrets import Sealer
from app.services import attempts, outcomes
from app.services.attempts import Message
from app.services.events import acting_as
from app.services.steps import Stale
from app.settings import Settings
from app.tracing import span
from worker.process import Process
from worker.senders import Senders
from worker.webhooks import dial
from worker.webhooks.dial import Attempt

log = logging.getLogger(__name__)
SENDERS = 128
TROUBLE_S = 30.0


def hand_over(process: Process, step_id: str) -> None:
    """Let a thread send this delivery; what its endpoint has no turn for now stays queued.

    Endpoints whose last attempt failed, or that had none, share threads of their own: however many of them
    hang, the others do not wait for them.
    """
    with process.database.reading() as db:
        endpoint = attempts.look(db, step_id)
        proven = endpoint is not None and attempts.is_proven(endpoint)
    if endpoint is not None:
        _senders(proven).submit(_send_and_pass_on, process, step_id)


def run(process: Process, step_id: str) -> Sequence[str]:
    """Make one attempt, if it is still to be made; the steps that are next in turn at its endpoint."""
    me = threading.get_ident()
    process.sending[me] = None  # from here on, who stops this process waits for it
    try:
        return () if process.stopping.is_set() else _run(process, step_id)
    finally:
        del process.sending[me]


def _run(process: Process, step_id: str) -> Sequence[str]:
    with process.database.writing() as db:
        message = attempts.begin(db, step_id, process.name)
    if message is None:
        return ()
    process.sending[threading.get_ident()] = message.claim
    claim = message.claim
    with about(**claim.ids), span(claim.kind, claim.traceparent, SpanKind.CONSUMER, claim.ids):
        try:
            return _send(process, message)
        except Stale:
            log.info("%s was taken away; its result is dropped", step_id)
            return ()


@cache
def _senders(proven: bool) -> Senders:
    return Senders("sender" if proven else "prober", SENDERS)


def _send_and_pass_on(process: Process, step_id: str) -> None:
    """Nobody waits for this thread's result; what could not be written, the sweeper sees to."""
    try:
        with acting_as("worker"):
            for following in run(process, step_id):
                hand_over(process, following)
    except Exception:
        log.exception("%s could not be delivered", step_id)


def _send(process: Process, message: Message) -> Sequence[str]:
    """Send the message and write down what came of it.

    Raises:
        Stale: The step is not ours any more.
    """
    claim = message.claim
    try:
        attempt = _post(process.settings, message)
    except Exception as error:
        # A key that opens no secret, or a bug: no attempt was made, and the receiver is not to blame.
        log.exception("%s could not be sent", claim.subject_id)
        with process.database.writing() as db:
            detail = f"{type(error).__name__}: {error}"
            outcomes.lose(db, process.storage, claim, detail, TROUBLE_S * (claim.losses + 1))
        return ()
    log.info("%s: status %s, error %s", claim.subject_id, attempt.status, attempt.error)
    with process.database.writing() as db:
        return attempts.record(db, claim, attempt, random.random())  # noqa: S311 - spreads load, hides nothing


def _post(settings: Settings, message: Message) -> Attempt:
    """Sign a message with every secret that is valid now, and send it."""
    sealer = Sealer(settings.secret_keys)
    body = json.dumps(notice.absolute(message.payload, settings.public_url), separators=(",", ":")).encode()
    secrets = [sealer.open(sealed) for sealed in message.secrets]
    headers = {
        "content-type": "application/json",
        "user-agent": "Fewbits-Webhooks/1",
        "webhook-id": message.message_id,
        "webhook-timestamp": str(message.timestamp),
        "webhook-signature": webhook.signatures(secrets, message.message_id, message.timestamp, body),
    }
    return dial.post(message.url, headers, body, settings.webhook_allow)
