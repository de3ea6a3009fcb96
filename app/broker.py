"""The one Celery object, and the doorbell: a message carries a step's id and nothing else.

A ring that is lost costs time, never work: the row is the truth and the sweeper rings again.
"""

import logging
import queue
import threading
import time
from contextlib import suppress
from typing import Any

from celery import Celery
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from app.settings import Settings

log = logging.getLogger(__name__)
WAITING_RINGS = 1000
IDLE_SECONDS = 2.0
SETTLE_POLL_SECONDS = 0.02
Message = tuple[str, str, dict[str, Any]]
MARK = "fewbits:looked"  # goes with the queues when the broker forgets
WRITE_OPTIONS = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}
QUEUES = {
    "inspect_version": "inspect",
    "inspect_dataset": "inspect",
    "prepare": "default",
    "build": "default",
    "benchmark": "benchmark",
    "report": "control",  # needs no engine, so it must not wait behind those that wait for the host
    "deliver": "webhooks",
}


def _configuration() -> dict[str, Any]:
    return {
        "broker_url": Settings().redis_url,
        "broker_connection_retry_on_startup": True,
        "task_acks_late": False,
        "task_ignore_result": True,
        "worker_disable_prefetch": True,
        "worker_enable_remote_control": False,
        "worker_hijack_root_logger": False,
        "worker_send_task_events": False,
    }


celery = Celery("fewbits")
celery.add_defaults(_configuration)  # called when the configuration is first needed


class Doorbell:
    """Rings from a bounded background thread, so that no request waits for the broker."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[Message] = queue.Queue(WAITING_RINGS)
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()

    def ring(self, step_id: str, kind: str) -> None:
        """Tell a worker that this step is queued; never raises, never blocks."""
        self.send("run_step", QUEUES[kind], args=[step_id])

    def send(self, task: str, target: str, **options: Any) -> None:  # noqa: ANN401 - Celery's own options
        """Publish a message in the background."""
        self._start()
        try:
            self._waiting.put_nowait((task, target, options))
        except queue.Full:
            log.warning("doorbell full, %s on %s waits for the sweeper", task, target)

    def settle(self, seconds: float) -> None:
        """Return when everything was rung for, or when the time is over: for a process that ends then."""
        end = time.monotonic() + seconds
        while self._waiting.unfinished_tasks and time.monotonic() < end:
            time.sleep(SETTLE_POLL_SECONDS)

    def _start(self) -> None:
        with self._guard:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            self._publish_all(self._waiting.get())

    def _publish_all(self, message: Message | None) -> None:
        """Publish this message, and over the same connection those that follow it within seconds."""
        try:
            with celery.connection_for_write(transport_options=WRITE_OPTIONS) as connection:
                while message:
                    task, target, options = message
                    celery.send_task(
                        task, queue=target, ignore_result=True, retry=False, connection=connection, **options
                    )
                    self._waiting.task_done()
                    message = self._next()
        except Exception as error:  # noqa: BLE001 - whatever the client raises, the sweeper rings again
            log.warning("could not ring %s: %s", _named(message), error)
            if message:
                self._waiting.task_done()

    def _next(self) -> Message | None:
        with suppress(queue.Empty):
            return self._waiting.get(timeout=IDLE_SECONDS)
        return None


def _named(message: Message | None) -> str:
    return f"{message[1]} for {message[2].get('args')}" if message else "any more"


doorbell = Doorbell()
ring = doorbell.ring


def waiting() -> dict[str, int]:
    """How many messages each queue holds; nothing of any when the broker does not say."""
    try:
        with _client() as client:
            return {queue: int(client.llen(queue)) for queue in set(QUEUES.values())}
    except (RedisError, ValueError) as error:
        log.warning("how much waits in the broker is not known: %s", error)
        return {}


def forgot() -> bool:
    """Whether the broker has lost everything since somebody asked this last, or nobody ever did."""
    try:
        with _client() as client:
            return bool(client.set(MARK, "looked at", nx=True))
    except (RedisError, ValueError) as error:
        log.warning("whether the broker has its messages is not known: %s", error)
        return False


def _client() -> Redis:
    url = str(celery.conf.broker_url).replace("redis+socket://", "unix://", 1)
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), **WRITE_OPTIONS)


def reachable() -> bool:
    """Whether the broker answers within a second."""
    try:
        with celery.connection_for_write(transport_options=WRITE_OPTIONS) as connection:
            connection.ensure_connection(max_retries=1, timeout=1)
    except Exception:  # noqa: BLE001 - whatever the client raises, it does not answer
        return False
    return True
