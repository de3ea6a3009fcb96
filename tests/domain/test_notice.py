"""What webhooks say."""

from dataclasses import asdict

from app.domain import notice
from app.domain.notice import KINDS, JobNotice, PingNotice
from app.domain.webhook import EVENT_TYPES, PING

LINKS = {"job": "/v1/jobs/job_1", "report": "/v1/jobs/job_1/report"}
PATHS = PingNotice(endpoint="whe_1", links=LINKS)


def test_there_is_a_notice_for_each_type_of_event_and_for_the_test() -> None:
    assert set(KINDS) == {*EVENT_TYPES, PING}
    assert KINDS["gate.failed"] is JobNotice


def test_a_message_has_three_parts() -> None:
    message = notice.payload("ping", "2026-11-21T00:00:00Z", PATHS)

    assert message == {"type": "ping", "timestamp": "2026-11-21T00:00:00Z", "data": asdict(PATHS)}


def test_links_begin_with_the_public_url_where_there_is_one_and_the_stored_message_keeps_its_paths() -> None:
    stored = notice.payload("ping", "2026-11-21T00:00:00Z", PATHS)

    assert notice.absolute(stored, "") == stored
    sent = notice.absolute(stored, "https://fewbits.example.com/")
    assert sent["data"]["links"]["report"] == "https://fewbits.example.com/v1/jobs/job_1/report"
    assert stored["data"]["links"] == LINKS
