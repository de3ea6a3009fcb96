"""What the service logs: one line each that a program can read, about what, and without secrets."""

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import IntegrityError

from app import log as logs
from app.db.models import Project
from app.db.session import Database
from app.main import create_app
from app.settings import Settings
from tests.app.conftest import Service, Tenant
from tests.waiting import in_time

log = logging.getLogger("tests.some")


class Terminal(io.StringIO):
    """A stream that says that somebody looks at it."""

    def isatty(self) -> bool:
        return True


@contextmanager
def logging_to(stream: io.StringIO) -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()  # configure() would close those of the test run
    logs.configure(stream)
    try:
        yield stream
    finally:
        logging.captureWarnings(capture=False)
        root.handlers[:] = handlers
        root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def of_requests(stream: io.StringIO) -> list[dict[str, Any]]:
    return [line for line in lines(stream) if line["logger"] == "app.api.request_log"]


def test_a_line_says_when_how_grave_who_what_and_about_what() -> None:
    with logging_to(io.StringIO()) as stream:
        with logs.about(job="job_1"), logs.about(step="stp_1", worker=None):
            log.warning("%s is late", "it", extra={"seconds": 3})
        log.info("later")

    first, second = lines(stream)
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "warning",
        "logger": "tests.some",
        "message": "it is late",
        "job": "job_1",
        "step": "stp_1",
        "seconds": 3,
    }
    assert "job" not in second


def test_an_error_has_its_traceback_on_the_same_line() -> None:
    with logging_to(io.StringIO()) as stream:
        try:
            raise ValueError("first\nsecond")  # noqa: TRY301 - it is what is logged
        except ValueError:
            log.exception("it failed")

    (line,) = lines(stream)
    assert line["message"] == "it failed"
    assert line["error"].startswith("Traceback")
    assert "second" in line["error"]


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["collector", "terminal"])
def test_no_name_ends_a_line_or_steers_a_terminal(stream: io.StringIO) -> None:
    with logging_to(stream), logs.about(name="b\x1b[2J\u2028"):
        log.info("uploaded %s", 'a\n{"level": "forged"}\r\x1b[31m\x9b\u2029ü')

    (line,) = stream.getvalue().splitlines()
    assert not set(line) & set("\x1b\r\x9b\u2028\u2029")
    assert "forged" in line


def test_a_terminal_gets_plain_text() -> None:
    with logging_to(Terminal()) as stream, logs.about(job="job_1"):
        log.info("it began")

    assert stream.getvalue().endswith(" info    it began  [job=job_1]\n")


def test_a_request_is_logged_with_the_id_that_its_answer_has(service: Service, tenant: Tenant) -> None:
    with logging_to(io.StringIO()) as stream:
        answer = tenant.http.get("/v1/jobs/job_none?token=secret")
        httpx.get(f"{service.url}/healthz")
        assert in_time(lambda: of_requests(stream))

    (line,) = of_requests(stream)
    assert line["message"] == "GET /v1/jobs/job_none 404"
    assert line["request_id"] == answer.headers["X-Request-Id"] == answer.json()["request_id"]
    assert (line["project"], line["status"]) == (tenant.project, 404)
    assert tenant.http.headers["Authorization"].removeprefix("Bearer ") not in stream.getvalue()
    assert "secret" not in str(line)


def test_what_a_request_logs_has_its_id_also_in_another_thread(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counted(*_: object) -> int:
        log.warning("from within")
        return 0

    monkeypatch.setattr("app.db.queries.usage.bytes_stored", counted)
    with logging_to(io.StringIO()) as stream:
        answer = tenant.http.get("/v1/usage")

    (line,) = [line for line in lines(stream) if line["message"] == "from within"]
    assert line["request_id"] == answer.headers["X-Request-Id"]
    assert line["project"] == tenant.project


def test_errors_of_the_database_show_no_parameters(database: Database) -> None:
    with pytest.raises(IntegrityError) as raised, database.writing() as db:
        db.add_all([Project(name="whispered"), Project(name="whispered")])

    assert "[SQL parameters hidden" in str(raised.value)


def test_an_application_made_with_settings_leaves_logging_alone(tmp_path: Any) -> None:
    before = logging.getLogger().handlers[:]

    create_app(Settings(home=tmp_path))

    assert logging.getLogger().handlers == before
