"""The doorbell: a ring reaches a queue on a real broker, or is lost without a word to the caller."""

import base64
import json
import socket
import threading
from collections.abc import Iterator

import pytest
from redis import Redis

from app import broker
from app.broker import Doorbell, celery
from tests.waiting import SECONDS, in_time


@pytest.fixture
def valkey(empty_redis_url: str) -> Iterator[Redis]:
    """The broker, with nothing in its queues."""
    before = celery.conf.broker_url
    celery.conf.broker_url = empty_redis_url
    with Redis.from_url(empty_redis_url.replace("redis+socket://", "unix://")) as client:
        yield client
    celery.conf.broker_url = before


@pytest.fixture
def silent_broker() -> Iterator[None]:
    """A broker that takes connections and never answers."""
    before = celery.conf.broker_url
    with socket.create_server(("127.0.0.1", 0)) as silent:
        celery.conf.broker_url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        yield
    celery.conf.broker_url = before


def test_a_ring_is_a_message_with_the_steps_id_on_the_queue_of_its_kind(valkey: Redis) -> None:
    doorbell = Doorbell()
    for kind in broker.QUEUES:
        doorbell.ring(f"stp_{kind}", kind)

    for queue in set(broker.QUEUES.values()):
        expected = {f"stp_{kind}" for kind, target in broker.QUEUES.items() if target == queue}
        assert in_time(lambda queue=queue, expected=expected: rung(valkey, queue) == expected)  # type: ignore[misc]


@pytest.mark.usefixtures("valkey")
def test_the_broker_says_how_much_waits() -> None:
    doorbell = Doorbell()
    for number in range(3):
        doorbell.ring(f"stp_{number}", "build")

    assert in_time(lambda: broker.waiting()["default"] == 3)
    assert broker.waiting()["benchmark"] == 0


@pytest.mark.parametrize("url", ["redis://127.0.0.1:9/0", ""])
def test_of_a_broker_that_is_away_nothing_is_known(url: str) -> None:
    before = celery.conf.broker_url
    celery.conf.broker_url = url
    assert broker.waiting() == {}
    celery.conf.broker_url = before


def rung(valkey: Redis, queue: str) -> set[str]:
    """The steps that messages in this queue ask to run."""
    messages = [json.loads(text) for text in valkey.lrange(queue, 0, -1)]
    assert {message["headers"]["task"] for message in messages} <= {"run_step"}
    return {json.loads(base64.b64decode(message["body"]))[0][0] for message in messages}


@pytest.mark.usefixtures("silent_broker")
def test_ringing_does_not_wait_for_a_broker_that_is_down() -> None:
    doorbell = Doorbell()

    def ring() -> None:
        for i in range(2 * broker.WAITING_RINGS):
            doorbell.ring(f"stp_{i}", "build")

    ringing = threading.Thread(target=ring, daemon=True)
    ringing.start()
    ringing.join(SECONDS / 2)

    assert not ringing.is_alive()
    assert doorbell._waiting.qsize() >= broker.WAITING_RINGS - 1
    with doorbell._waiting.mutex:
        doorbell._waiting.queue.clear()


def test_a_ring_after_an_outage_is_heard(
    valkey: Redis, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    doorbell = Doorbell()
    celery.conf.broker_url = "redis://127.0.0.1:1/0"
    doorbell.ring("stp_lost", "build")
    assert in_time(lambda: "could not ring default" in caplog.text)
    celery.conf.broker_url = redis_url
    doorbell.ring("stp_heard", "build")

    assert in_time(lambda: "stp_heard" in rung(valkey, "default"))
    assert "stp_lost" not in rung(valkey, "default")


def test_whether_the_broker_answers(valkey: Redis) -> None:
    assert valkey.ping()
    assert broker.reachable()
    celery.conf.broker_url = "redis://127.0.0.1:1/0"
    assert not broker.reachable()


def test_deciding_a_gate_waits_behind_no_measurement() -> None:
    queue_of = broker.QUEUES

    assert queue_of["report"] not in {queue_of["benchmark"], queue_of["prepare"], queue_of["build"]}
