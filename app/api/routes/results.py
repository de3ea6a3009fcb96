"""A job's result: the report, and the verdict that a pipeline acts on."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse

from app.api.deps import ReadDb, Service, Wait, Who
from app.api.formats import junit, markdown, openmetrics, page
from app.api.outcome import http_status, verdict_of
from app.api.refusals import refuses
from app.api.schemas.candidates import CandidateRead
from app.api.schemas.jobs import JobRead, ReportRead, VerdictRead
from app.db import queries
from app.db.models import Job
from app.db.queries import timeline

router = APIRouter(prefix="/jobs/{job_id}")
TEXT = {"schema": {"type": "string"}}
ReportForm = Literal["json", "html", "md"]
VerdictForm = Literal["json", "html", "md", "junit", "openmetrics"]
Accept = Annotated[str, Header(description="`text/html` asks for the page where `format` is not given")]
NONE_YET = refuses("job_not_finished", "job_not_succeeded")
NONE_YET[409]["content"]["text/html"] = TEXT
REPORT_ANSWERS: dict[int | str, dict[str, Any]] = NONE_YET | {
    200: {"content": {"text/html": TEXT, "text/markdown": TEXT}},
}
FORMS = {
    "text/html": TEXT,
    "text/markdown": TEXT,
    "application/xml": TEXT,
    "application/openmetrics-text": TEXT,
}
BLOCKED: dict[int | str, dict[str, Any]] = {
    422: {"model": VerdictRead, "description": "With `status=http`: the gate stops the pipeline"},
}
VERDICT_ANSWERS = NONE_YET | BLOCKED | {200: {"content": FORMS}}
VERDICT_ANSWERS[422]["content"] = FORMS


@router.get("/report", response_model=ReportRead, responses=REPORT_ANSWERS)
def read_report(
    job_id: str,
    caller: Who,
    db: ReadDb,
    form: Annotated[ReportForm | None, Query(alias="format", description="default: json")] = None,
    accept: Accept = "",
) -> ReportRead | Response:
    """Everything that was found, as JSON, as Markdown for a pull request, or as a page of its own.

    The page is also there for a job that has no result (with status 409): it says why.
    """
    job = queries.get_owned(db, Job, caller.project_id, job_id)
    if (form or _accepted(accept)) == "html":
        return _page(db, job, 200)
    verdict = verdict_of(job)
    document = ReportRead(job=JobRead.of(job), candidates=shown_candidates(db, job_id), verdict=verdict)
    if form == "md":
        return Response(markdown.report(document), media_type=markdown.MEDIA_TYPE)
    return document


@router.get("/verdict", response_model=VerdictRead, responses=VERDICT_ANSWERS)
async def read_verdict(
    job_id: str,
    caller: Who,
    service: Service,
    wait: Wait,
    form: Annotated[VerdictForm | None, Query(alias="format", description="default: json")] = None,
    status: Annotated[Literal["http"] | None, Query(description="422 when a pipeline should stop")] = None,
    accept: Accept = "",
) -> Response:
    """The gate's answer. With `status=http`, `curl -f` fails exactly when a pipeline should.

    As `junit` it is red exactly when the gate blocks; as `openmetrics` its series keep their names from
    branch to branch; in a browser it is a page.
    """
    await service.read(lambda db: queries.get_owned(db, Job, caller.project_id, job_id))
    await service.watch.settled(job_id, wait)
    wanted = form or _accepted(accept)
    return await service.read(lambda db: verdict_response(db, job_id, wanted, status))


def verdict_response(db: Session, job_id: str, form: str, status: str | None) -> Response:
    """The verdict in the asked form and with the asked status."""
    job = db.get_one(Job, job_id)
    if form == "html":
        strict = job.verdict is not None and job.state == "succeeded" and status == "http"
        return _page(db, job, http_status(verdict_of(job)) if strict else 200)
    verdict = verdict_of(job)
    code = http_status(verdict) if status == "http" else 200
    if form == "json":
        return JSONResponse(verdict.model_dump(mode="json"), code)
    candidates = shown_candidates(db, job_id)
    match form:
        case "md":
            return Response(markdown.verdict(verdict, candidates), code, media_type=markdown.MEDIA_TYPE)
        case "junit":
            text = junit.document(JobRead.of(job), verdict, candidates)
            return Response(text, code, media_type=junit.MEDIA_TYPE)
        case _:
            text = openmetrics.document(verdict, candidates)
            return Response(text, code, media_type=openmetrics.MEDIA_TYPE)


def shown_candidates(db: Session, job_id: str) -> list[CandidateRead]:
    """The job's candidates with the models they made."""
    made = timeline.models_of(db, job_id)
    return [CandidateRead.of(row, made.get(row.id)) for row in queries.candidates(db, job_id)]


def _page(db: Session, job: Job, status: int) -> Response:
    """A page for people, whatever became of the job; a job without a result answers 409 all the same."""
    verdict = verdict_of(job) if job.state == "succeeded" and job.verdict else None
    candidates = shown_candidates(db, job.id)
    code = status if verdict else 409
    return page.response(JobRead.of(job), job.version.model.name, candidates, verdict, code)


def _accepted(accept: str) -> str:
    """Browsers name HTML first; whoever names nothing, or anything, gets JSON."""
    return "html" if accept.partition(",")[0].partition(";")[0].strip() == "text/html" else "json"
