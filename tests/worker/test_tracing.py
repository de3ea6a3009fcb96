"""Spans of a request and of the steps that it began are one trace, as a real receiver of OTLP gets them."""

import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from app import start, tracing
from app.db.models import Project
from app.db.session import Database
from app.services import keys
from app.settings import Settings
from app.storage import LocalStorage
from tests import factories
from tests.waiting import SECONDS, in_time
from worker import run
from worker.process import Process
from worker.steps import STEPS

ROOT = Path(__file__).parents[2]
QUICKLY = {"OTEL_BSP_SCHEDULE_DELAY": "50", "NO_PROXY": "127.0.0.1"}


@contextmanager
def collecting() -> Iterator[tuple[str, list[tuple[str, Span]]]]:
    """The URL of a collector, and what it got: spans with the names of their services."""
    found: list[tuple[str, Span]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            request = ExportTraceServiceRequest.FromString(
                self.rfile.read(int(self.headers["Content-Length"]))
            )
            for resource in request.resource_spans:
                names = {a.key: a.value.string_value for a in resource.resource.attributes}
                spans = [span for scope in resource.scope_spans for span in scope.spans]
                found.extend((names["service.name"], span) for span in spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("FEWBITS_", "OTEL_"))}
    with (
        log.open("wb") as file,
        subprocess.Popen(command, cwd=ROOT, env=kept | environment, stdout=file, stderr=file) as process,
    ):
        try:
            yield
        finally:
            process.kill()


def named(spans: list[tuple[str, Span]], name: str) -> tuple[str, Span] | None:
    return next(((service, span) for service, span in spans if span.name == name), None)


def test_a_request_and_its_step_are_one_trace_with_the_clients(
    sqlite_url: str, empty_redis_url: str, tmp_path: Path
) -> None:
    database = Database(sqlite_url)
    project = factories.make_project(database)
    with database.writing() as db:
        key = keys.create(db, db.get_one(Project, project), "a test's", ["read", "write"]).text
    database.dispose()
    socket, trace_id, client = tmp_path / "api.sock", secrets.token_hex(16), secrets.token_hex(8)
    with collecting() as (url, spans):
        environment = {
            "FEWBITS_HOME": str(tmp_path),
            "FEWBITS_DATABASE_URL": sqlite_url,
            "FEWBITS_REDIS_URL": empty_redis_url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            **QUICKLY,
        }
        api = [sys.executable, "-m", "app.listen", f"--uds={socket}"]
        worker = start.worker("engine", "inspect", 1)
        with (
            running(api, environment, tmp_path / "api.log"),
            running(worker, environment, tmp_path / "worker.log"),
            httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), timeout=SECONDS) as http,
        ):
            assert in_time(socket.exists)
            headers = {"Authorization": f"Bearer {key}", "traceparent": f"00-{trace_id}-{client}-01"}
            files = {"file": ("model.onnx", b"no model")}
            answer = http.post("http://api/v1/models", files=files, data={"name": "m"}, headers=headers)
            assert answer.status_code == 201
            assert in_time(lambda: named(spans, "inspect_version") and named(spans, "POST /v1/models"))

    found = {name: named(spans, name) for name in ("POST /v1/models", "inspect_version")}
    (api_service, request), (worker_service, step) = (pair for pair in found.values() if pair)
    assert (api_service, worker_service) == ("fewbits-api", "fewbits-worker")
    assert request.trace_id.hex() == step.trace_id.hex() == trace_id
    assert request.parent_span_id.hex() == client
    of_api = {span.span_id: span for service, span in spans if service == api_service}
    within = of_api[step.parent_span_id]  # FastAPI's span of the route, within that of the request
    assert request.span_id in {within.span_id, within.parent_span_id}
    told = {a.key: a.value.string_value or a.value.int_value for a in (*request.attributes, *step.attributes)}
    assert told["http.response.status_code"] == 201
    assert told["fewbits.request_id"] == answer.headers["X-Request-Id"]
    assert told["fewbits.project"] == project
    assert told["fewbits.subject"] == answer.json()["id"]


def test_every_step_of_a_job_is_in_the_trace_of_the_request_that_made_it(
    database: Database, storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, spans = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("a test"))
    for kind in ("prepare", "build", "benchmark", "report"):
        monkeypatch.setitem(STEPS, kind, lambda work: factories.result(storage, work.claim))
    process = Process(Settings(home=tmp_path), database, storage, "a worker")
    project = factories.make_project(database)

    with tracing.span("a request", None, SpanKind.SERVER, {}) as request:
        job = factories.make_job(database, project)
    while queued := [step.id for step in factories.steps_of(database, job) if step.state == "queued"]:
        for step in queued:
            run.run(process, step)

    assert factories.job_row(database, job).state == "succeeded"
    found = [span for span in spans.get_finished_spans() if span.name in STEPS]
    names = {span.context.span_id: span.name for span in spans.get_finished_spans()}
    parents = {(span.name, names[span.parent.span_id]) for span in found if span.parent}
    assert {span.context.trace_id for span in found} == {request.get_span_context().trace_id}
    assert parents == {
        ("prepare", "a request"),
        ("build", "prepare"),
        ("benchmark", "build"),
        ("report", "benchmark"),
    }


def test_without_an_endpoint_nothing_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tracing.ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    before = trace.get_tracer_provider()

    tracing.configure("a test")

    assert trace.get_tracer_provider() is before
    assert tracing.traceparent() is None


def test_an_endpoint_without_the_libraries_is_refused_with_the_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)

    with pytest.raises(SystemExit, match="pip install opentelemetry-sdk"):
        tracing.configure("a test")
