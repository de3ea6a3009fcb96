"""Endpoints of webhooks over HTTP: made, changed, rotated, tested and deleted."""

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from app.api.schemas.webhooks import EVERYTHING
from app.db.models import Step
from app.db.webhooks import Delivery, WebhookEndpoint
from app.domain.webhook import EVENT_TYPES
from app.services import endpoints
from app.settings import Settings
from tests import factories
from tests.app.conftest import Service, new_key, new_tenant, serving
from tests.app.problems import pointers, problem
from tests.receiving import Receiver, receiving
from tests.waiting import in_time
from worker import deliver
from worker.process import Process

ENDPOINTS = "/v1/webhook-endpoints"
PUBLIC = "https://ci.example.com/hook"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def make(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = http.post(ENDPOINTS, json={"url": PUBLIC, **fields})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"{ENDPOINTS}/{made['id']}"
    return made


def send_next(service: Service, endpoint_id: str) -> None:
    """Play the worker: send what is queued for an endpoint, as soon as something is."""
    process = Process(service.settings, service.database, service.storage, "a worker")

    def queued() -> list[str]:
        with service.database.reading() as db:
            mine = select(Step.id).join(Delivery, Delivery.id == Step.subject_id)
            mine = mine.where(Delivery.endpoint_id == endpoint_id, Step.state == "queued")
            return list(db.scalars(mine))

    assert in_time(queued)
    for step_id in queued():
        deliver.run(process, step_id)


def answer_to_test(service: Service, http: httpx.Client, endpoint_id: str, **headers: str) -> httpx.Response:
    """The answer to a test, while a worker works."""
    worker = threading.Thread(target=send_next, args=[service, endpoint_id])
    worker.start()
    answer = http.post(f"{ENDPOINTS}/{endpoint_id}/test", headers=headers)
    worker.join()
    return answer


def test_an_endpoint_is_told_of_everything_unless_it_says_otherwise(http: httpx.Client) -> None:
    made = make(http)

    assert set(EVERYTHING) == set(EVENT_TYPES) == set(made["events"])
    assert (made["state"], made["notice"], made["description"]) == ("enabled", None, "")
    assert make(http, events=["job.failed", "job.failed"])["events"] == ["job.failed"]


def test_a_secret_is_shown_once_and_kept_sealed(service: Service, http: httpx.Client) -> None:
    made = make(http, description="nightly")

    secret = made["secret"]
    assert secret.startswith("whsec_")
    shown = http.get(f"{ENDPOINTS}/{made['id']}")
    assert shown.json() == {name: value for name, value in made.items() if name != "secret"}
    assert secret not in shown.text + http.get(ENDPOINTS).text
    with service.database.reading() as db:
        stored = db.get_one(WebhookEndpoint, made["id"]).secret
    assert secret.removeprefix("whsec_").encode() not in stored


def test_endpoints_are_listed_newest_first_in_pages_and_by_state(http: httpx.Client) -> None:
    made = [make(http)["id"] for _ in range(3)]
    http.patch(f"{ENDPOINTS}/{made[1]}", json={"state": "disabled"})

    first = http.get(f"{ENDPOINTS}?limit=2").json()
    second = http.get(f"{ENDPOINTS}?limit=2&cursor={first['next_cursor']}").json()
    disabled = http.get(f"{ENDPOINTS}?state=disabled").json()

    assert [row["id"] for row in first["items"] + second["items"]] == made[::-1]
    assert [row["id"] for row in disabled["items"]] == [made[1]]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://example.com", "https://"),
        ("https://user:password@example.com/", "password"),
        ("https://example.com/#part", "fragment"),
        ("https://exämple.com/", "ASCII"),
        ("https://", "host"),
        ("https://10.0.0.7/hook", "FEWBITS_WEBHOOK_ALLOW"),
        ("http://169.254.169.254/latest/meta-data", "FEWBITS_WEBHOOK_ALLOW"),
        ("http://0xa9fea9fe/", "FEWBITS_WEBHOOK_ALLOW"),
        ("http://[::ffff:10.0.0.7]/", "FEWBITS_WEBHOOK_ALLOW"),
        ("http://[fd00::1]/", "FEWBITS_WEBHOOK_ALLOW"),
    ],
)
def test_a_url_that_cannot_be_right_is_refused_with_the_reason(
    http: httpx.Client, url: str, said: str
) -> None:
    made = make(http)

    created = http.post(ENDPOINTS, json={"url": url})
    changed = http.patch(f"{ENDPOINTS}/{made['id']}", json={"url": url})

    assert pointers(created) == pointers(changed) == ["/url"]
    assert said in created.json()["errors"][0]["detail"]


def test_what_the_operator_allows_may_be_named(http: httpx.Client) -> None:
    assert make(http, url="http://127.0.0.1:9/hook")["url"] == "http://127.0.0.1:9/hook"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"events": ["ping"]}, "/events/0"),
        ({"events": []}, "/events"),
        ({"description": "x" * 501}, "/description"),
        ({"url": "https://example.com/" + "x" * 2000}, "/url"),
        ({"secret": "whsec_mine"}, "/secret"),
    ],
)
def test_fields_that_do_not_fit_are_refused(http: httpx.Client, body: dict[str, Any], pointer: str) -> None:
    assert pointers(http.post(ENDPOINTS, json={"url": PUBLIC, **body})) == [pointer]


def test_a_project_has_at_most_twenty_endpoints(http: httpx.Client) -> None:
    made = [make(http)["id"] for _ in range(20)]

    refused = problem(http.post(ENDPOINTS, json={"url": PUBLIC}), 413, "quota_exceeded")
    http.delete(f"{ENDPOINTS}/{made[0]}")

    assert "20 webhook endpoints" in refused["detail"]
    make(http)


def test_a_change_leaves_alone_what_it_does_not_name(http: httpx.Client) -> None:
    made = make(http, description="nightly", events=["job.failed"])
    here = f"{ENDPOINTS}/{made['id']}"

    http.patch(here, json={"events": ["gate.failed", "job.failed"]})
    changed = http.patch(here, json={"url": "https://other.example.com/"}).json()

    assert (changed["url"], changed["description"]) == ("https://other.example.com/", "nightly")
    assert changed["events"] == ["gate.failed", "job.failed"]
    assert pointers(http.patch(here, json={"state": "gone"})) == ["/state"]


def test_a_disabled_endpoint_says_so_and_can_be_enabled(service: Service, http: httpx.Client) -> None:
    made = make(http)
    here = f"{ENDPOINTS}/{made['id']}"

    disabled = http.patch(here, json={"state": "disabled"}).json()
    with service.database.writing() as db:
        db.execute(update(WebhookEndpoint).where(WebhookEndpoint.id == made["id"]).values(failures=7))
    enabled = http.patch(here, json={"state": "enabled"}).json()

    assert (disabled["state"], disabled["disabled_reason"]) == ("disabled", "requested")
    assert disabled["disabled_at"] is not None
    assert "by request" in disabled["notice"]
    assert "enabled" in disabled["notice"]
    assert (enabled["state"], enabled["notice"], enabled["disabled_at"]) == ("enabled", None, None)
    with service.database.reading() as db:
        assert db.get_one(WebhookEndpoint, made["id"]).failures == 0


def test_an_endpoint_that_failed_for_too_long_says_since_when(service: Service, http: httpx.Client) -> None:
    made = make(http)
    with service.database.writing() as db:
        row = db.get_one(WebhookEndpoint, made["id"])
        row.failing_since = 1_700_000_000_000_000
        endpoints.disable(db, row, "failing")

    shown = http.get(f"{ENDPOINTS}/{made['id']}").json()
    told = http.get("/v1/events?type=webhook_endpoint.disabled").json()["items"]

    assert "nothing was delivered since 2023-11-14T22:13:20" in shown["notice"]
    assert [(event["subject"], event["data"]["reason"]) for event in told] == [(made["id"], "failing")]


def test_an_endpoint_that_failed_for_too_long_still_says_so_when_it_has_moved(
    service: Service, http: httpx.Client
) -> None:
    made = make(http)
    with service.database.writing() as db:
        row = db.get_one(WebhookEndpoint, made["id"])
        row.failing_since = 1_700_000_000_000_000
        endpoints.disable(db, row, "failing")

    moved = http.patch(f"{ENDPOINTS}/{made['id']}", json={"url": "https://other.example.com/"}).json()

    assert (moved["state"], moved["failing_since"]) == ("disabled", None)
    assert "nothing was delivered for five days, and every attempt failed" in moved["notice"]


def test_a_deleted_endpoint_is_gone_with_its_secret(service: Service, http: httpx.Client) -> None:
    made = make(http)
    here = f"{ENDPOINTS}/{made['id']}"

    assert http.delete(here).status_code == 204

    problem(http.get(here), 404, "not_found")
    problem(http.delete(here), 404, "not_found")
    problem(http.patch(here, json={"description": "x"}), 404, "not_found")
    assert http.get(ENDPOINTS).json()["items"] == []
    with service.database.reading() as db:
        row = db.get_one(WebhookEndpoint, made["id"])
    assert (row.secret, row.previous_secret) == (b"", None)


def test_a_rotated_secret_signs_beside_the_old_one_for_a_while(http: httpx.Client) -> None:
    made = make(http)
    here = f"{ENDPOINTS}/{made['id']}"

    rotated = http.post(f"{here}/rotate-secret").json()
    at_once = http.post(f"{here}/rotate-secret", json={"overlap_s": 0}).json()

    assert len({made["secret"], rotated["secret"], at_once["secret"]}) == 3
    assert rotated["previous_secret_until"] > made["created_at"]
    assert at_once["previous_secret_until"] is None
    assert pointers(http.post(f"{here}/rotate-secret", json={"overlap_s": -1})) == ["/overlap_s"]


def test_a_secret_is_not_shown_to_who_asks_again(http: httpx.Client) -> None:
    headers = {"Idempotency-Key": "once"}
    made = http.post(ENDPOINTS, json={"url": PUBLIC}, headers=headers)
    again = http.post(ENDPOINTS, json={"url": PUBLIC}, headers=headers)
    here = f"{ENDPOINTS}/{made.json()['id']}"
    rotated = http.post(f"{here}/rotate-secret", headers={"Idempotency-Key": "twice"})
    rotated_again = http.post(f"{here}/rotate-secret", headers={"Idempotency-Key": "twice"})

    assert made.json()["id"] in problem(again, 409, "already_created")["detail"]
    assert rotated.status_code == 200
    problem(rotated_again, 409, "already_created")
    assert len(http.get(ENDPOINTS).json()["items"]) == 1


def test_a_test_sends_a_ping_and_shows_what_came_of_it(
    service: Service, http: httpx.Client, receiver: Receiver
) -> None:
    made = make(http, url=receiver.url, events=["job.failed"])
    receiver.answers = [(200, {}, b"<script>hello</script>\x00")]

    answer = answer_to_test(service, http, made["id"])

    found = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/webhook-deliveries/{found['id']}"
    assert (found["type"], found["state"], found["endpoint"]) == ("ping", "delivered", made["id"])
    (attempt,) = found["attempts"]
    assert (attempt["status"], attempt["error"]) == (200, None)
    assert attempt["body"] == "<script>hello</script>\\x00"
    (received,) = receiver.received
    assert received.id == found["message"]
    assert received.verified(made["secret"])["data"]["endpoint"] == made["id"]
    assert http.get(f"{ENDPOINTS}/{made['id']}").json()["delivered_at"] is not None


def test_a_test_that_fails_is_not_tried_again_and_not_held_against_the_endpoint(
    service: Service, http: httpx.Client, receiver: Receiver
) -> None:
    made = make(http, url=receiver.url)
    receiver.always = (410, {}, b"")

    found = answer_to_test(service, http, made["id"]).json()

    assert (found["state"], found["next_attempt_at"]) == ("failed", None)
    assert [attempt["status"] for attempt in found["attempts"]] == [410]
    shown = http.get(f"{ENDPOINTS}/{made['id']}").json()
    assert (shown["state"], shown["failing_since"]) == ("enabled", None)


def test_a_disabled_endpoint_can_be_tested(service: Service, http: httpx.Client, receiver: Receiver) -> None:
    made = make(http, url=receiver.url)
    http.patch(f"{ENDPOINTS}/{made['id']}", json={"state": "disabled"})

    found = answer_to_test(service, http, made["id"]).json()

    assert found["state"] == "delivered"
    assert http.get(f"{ENDPOINTS}/{made['id']}").json()["state"] == "disabled"


def test_a_test_is_sent_once_per_key(service: Service, http: httpx.Client, receiver: Receiver) -> None:
    made = make(http, url=receiver.url)

    first = answer_to_test(service, http, made["id"], **{"Idempotency-Key": "once"})
    second = http.post(f"{ENDPOINTS}/{made['id']}/test", headers={"Idempotency-Key": "once"})

    assert second.headers["idempotent-replayed"] == "true"
    assert second.json() == first.json()
    assert len(receiver.received) == 1


def test_a_test_answers_though_no_worker_is_there(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.api.routes.webhooks.TEST_SECONDS", 0.1)
    made = make(http)

    found = http.post(f"{ENDPOINTS}/{made['id']}/test").json()

    assert (found["state"], found["attempts"]) == ("pending", [])


def test_who_may_only_read_makes_no_endpoint(service: Service) -> None:
    with new_tenant(service, ("read",)) as reader:
        problem(reader.http.post(ENDPOINTS, json={"url": PUBLIC}), 403, "forbidden")
        assert reader.http.get(ENDPOINTS).status_code == 200


def test_a_service_without_a_key_for_secrets_says_what_its_operator_does(service: Service) -> None:
    settings = service.settings.model_copy(update={"secret_key": ""})
    settings.__dict__.pop("secret_keys", None)
    key = new_key(service, factories.make_project(service.database), ("read", "write"))

    with serving(Settings.model_validate(settings)) as url:
        answer = httpx.post(url + ENDPOINTS, json={"url": PUBLIC}, headers={"Authorization": f"Bearer {key}"})

    assert "FEWBITS_SECRET_KEY" in problem(answer, 503, "no_secret_key")["detail"]


def test_everything_done_to_an_endpoint_is_written_down(http: httpx.Client) -> None:
    made = make(http)
    here = f"{ENDPOINTS}/{made['id']}"
    http.patch(here, json={"state": "disabled"})
    http.post(f"{here}/rotate-secret")
    http.delete(here)

    me = http.get("/v1/me").json()["key"]
    found = http.get("/v1/events", params={"subject": made["id"]}).json()["items"]

    told = [event["type"].removeprefix("webhook_endpoint.") for event in reversed(found)]
    assert told == ["created", "changed", "disabled", "secret_rotated", "deleted"]
    assert {event["actor"] for event in found} == {me}
    assert made["secret"] not in str(found)
