"""The one-shot: model, data and spec in one form, the job or its verdict as the answer."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse

from app.api import fields
from app.api.deps import App, Service, Wait, Who
from app.api.errors import problem_response, request_id
from app.api.files import add_dataset, add_version, keep_files, refuse_hopeless
from app.api.forms import Form, received_form
from app.api.idempotency import Once, OncePerKey
from app.api.openapi import form
from app.api.refusals import FORMS, refuses
from app.api.routes.results import BLOCKED, verdict_response
from app.api.schemas.jobs import JobRead, VerdictRead
from app.api.schemas.specs import SpecWithoutIds
from app.db.models import Job
from app.domain.errors import InvalidInput, JobNotFinished, Problem
from app.domain.job import JOB_ENDED, JobSpec
from app.services import jobs, quotas
from app.services.keys import Caller

router = APIRouter(route_class=OncePerKey)
FILES = frozenset({"model", "data"})
OF_DATA = ("preprocess", "input")
FIELDS = frozenset({"name", "spec", "labels", *OF_DATA}) | fields.GATE_FIELDS
FORM: dict[str, Any] = {
    "required": ["model"],
    "properties": {
        "model": {
            "type": "string",
            "format": "binary",
            "description": "repeat it for external data; or a zip or tar",
        },
        "data": {
            "type": "string",
            "format": "binary",
            "description": "serves calibration and evaluation, split",
        },
        "preprocess": {
            "type": "string",
            "description": "imagenet, unit, signed, raw, or JSON",
            "example": "unit",
        },
        "spec": {
            "type": "string",
            "description": "JSON: a JobSpec without ids",
            "example": '{"recipes": [{"method": "static_int8"}]}',
        },
        "name": {"type": "string", "description": "the model's name; default: the file's"},
        "input": {"type": "string", "description": "the model's input that images bind to"},
        "labels": {"type": "string", "description": "JSON object of strings"},
        **fields.gate_form(),
    },
}


ANSWERS: dict[int | str, dict[str, Any]] = BLOCKED | {
    200: {
        "model": JobRead | VerdictRead,
        "description": "The job has ended within `Prefer: wait`; with `status=http`, its verdict",
    },
}


@router.post(
    "/quantize",
    status_code=202,
    response_model=JobRead,
    openapi_extra=form(FORM),
    responses=ANSWERS | refuses(*FORMS, "too_many_jobs", "job_not_finished", "job_not_succeeded"),
)
async def quantize(
    request: Request,
    caller: Who,
    service: Service,
    wait: Wait,
    once: Once,
    status: Annotated[
        Literal["http"] | None, Query(description="answer the verdict, 422 if it blocks")
    ] = None,
) -> Response:
    """Upload, quantize, measure and decide in one request.

    `curl -fsS -H "Authorization: Bearer $KEY" -F model=@m.onnx -F data=@val.zip -F preprocess=imagenet
    -F max_accuracy_drop=0.01 -F min_speedup=1.2 -H 'Prefer: wait=600' "$URL/v1/quantize?status=http"`
    """
    await refuse_hopeless(request, service, caller.project_id)
    async with received_form(request, service.storage, FILES, FIELDS) as sent:
        sent.every("model")
        _refuse_stray(sent)
        spec = fields.spec(sent.fields.get("spec", ""), sent.fields)
        job_id = await once.write(lambda db: _create(db, service, caller, sent, spec), sent)
    await service.watch.settled(job_id, wait)
    if status == "http" and not await service.read(lambda db: db.get_one(Job, job_id).finished_at):
        unfinished = Problem.of(
            JobNotFinished(
                f"The job {job_id} has not ended yet. It goes on: ask "
                f"/v1/jobs/{job_id}/verdict?status=http with `Prefer: wait=600`."
            )
        )
        return problem_response(unfinished, 409, request_id(request), {"Location": f"/v1/jobs/{job_id}"})
    return await service.read(lambda db: _answer(db, job_id, status, wait))


def _create(db: Session, service: App, caller: Caller, sent: Form, spec: SpecWithoutIds) -> str:
    labels = fields.labels(sent.fields.get("labels", ""))
    kept = keep_files(db, service, caller.project_id, sent)
    version = add_version(db, caller.project_id, sent, "model", kept, labels)
    whole: JobSpec = replace(spec, version=version.id, labels=spec.labels | labels)  # type: ignore[arg-type]
    if "data" in sent.files:
        dataset = add_dataset(db, caller.project_id, _without_name(sent), "data", kept)
        whole = replace(
            whole,
            calibration=replace(spec.calibration, dataset=dataset.id),
            evaluation=replace(spec.evaluation, dataset=dataset.id),
        )
    quotas.check_jobs(db, caller.project_id, service.settings.quotas)
    try:
        return jobs.create(db, caller.project_id, whole).id
    except InvalidInput as error:
        raise fields.as_sent(error, sent.fields) from error


def _refuse_stray(sent: Form) -> None:
    """Raises InvalidInput for what is said of data that did not come."""
    for name in OF_DATA if "data" not in sent.files else ():
        if sent.fields.get(name):
            raise InvalidInput.at(f"/{name}", "it says how to read `data`, which this form lacks")


def _without_name(sent: Form) -> Form:
    """The form without `name`, which is the model's here."""
    return Form({k: v for k, v in sent.fields.items() if k != "name"}, sent.files)


def _answer(db: Session, job_id: str, status: str | None, wait: float) -> Response:
    job = db.get_one(Job, job_id)
    headers = {"Location": f"/v1/jobs/{job_id}"}
    if wait:
        headers["Preference-Applied"] = f"wait={wait:.0f}"
    if status == "http":
        response = verdict_response(db, job_id, "json", status)
        response.headers.update(headers)
        return response
    code = 200 if job.state in JOB_ENDED else 202
    return JSONResponse(JobRead.of(job).model_dump(mode="json"), code, headers=headers)
