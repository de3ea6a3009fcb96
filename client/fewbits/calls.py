"""What the service can be asked to do: one generator for each operation, carried out by either client."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from fewbits import downloads, uploads, watching
from fewbits.answers import (
    Candidate,
    Comparison,
    Dataset,
    Event,
    Fit,
    Job,
    Me,
    Model,
    Report,
    Result,
    Step,
    Verdict,
    Version,
    read,
)
from fewbits.effects import Items, Pause, Request, Steps
from fewbits.errors import FewbitsError, JobFailed, Refused, TimedOut
from fewbits.progress import Progress, Tell
from fewbits.sending import PATIENT_ATTEMPTS, fetch, loads, pages, path_to, send

Json = Mapping[str, Any]
WAIT_S = 25
POLL_S = 1.0
REJECTED = 422


def silent(_progress: Progress) -> None:
    """Tell nobody how far a file has come."""


def me() -> Steps[Me]:
    """Which project and scopes the key has, and until when."""
    return (yield from fetch(Me, Request("GET", "/v1/me")))


def models(*, limit: int | None = None) -> Items[Model]:
    """The project's models, newest first."""
    return (yield from pages(Model, "/v1/models", {}, limit))


def upload_model(
    *files: str | Path,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    tell: Tell = silent,
) -> Steps[Version]:
    """Upload a model as a new version, and wait until it was inspected.

    Args:
        files: The `.onnx` file and its external data, a zip or tar of them, or a folder.
        name: The model's; the file's name when left out.
        labels: Such as `{"branch": "main"}`.
        tell: Hears how far each file has come.

    Raises:
        InvalidInput: A file cannot be read.
        Refused: The service rejects the model; the problem says why.
    """
    named = uploads.named_files([Path(file) for file in files])
    sent = {}
    for path, file in named.items():
        sent[path] = yield from uploads.send_file(file, tell)
    main = next((path for path in sent if path.endswith(".onnx")), next(iter(sent)))
    body = {"name": name or PurePath(main).stem, "files": sent, "labels": dict(labels or {})}
    version = yield from fetch(Version, _waiting("POST", "/v1/models", body))
    while version.state == "inspecting":
        yield Pause(POLL_S)
        version = yield from fetch(Version, Request("GET", path_to("versions", version.id)))
    _refuse_rejected(version)
    return version


def upload_dataset(
    file: str | Path,
    *,
    name: str | None = None,
    preprocess: str | Json | None = None,
    input: str | None = None,  # noqa: A002 - the field's name
    tell: Tell = silent,
) -> Steps[Dataset]:
    """Upload samples (npz, or a zip or tar), and wait until they were inspected.

    Args:
        file: The samples; calibration and evaluation share them.
        name: The dataset's; the file's name when left out.
        preprocess: `imagenet`, `unit`, `signed`, `raw`, or a preprocessing spec.
        input: The model's input that images bind to.
        tell: Hears how far the file has come.

    Raises:
        InvalidInput: The file cannot be read.
        Refused: The service rejects the samples; the problem says why.
    """
    path = Path(file)
    sha256 = yield from uploads.send_file(path, tell)
    body = {"name": name or path.name, "sha256": sha256, "preprocess": preprocess or {}, "input": input}
    dataset = yield from fetch(Dataset, _waiting("POST", "/v1/datasets", body))
    while dataset.state == "inspecting":
        yield Pause(POLL_S)
        dataset = yield from fetch(Dataset, Request("GET", path_to("datasets", dataset.id)))
    _refuse_rejected(dataset)
    return dataset


def check_dataset(dataset_id: str, version_id: str, *, gate: Json | None = None) -> Steps[Fit]:
    """Whether a dataset fits a version, and how small a drop it can decide."""
    body = {"version": version_id} | ({"gate": dict(gate)} if gate else {})
    request = _waiting("POST", path_to("datasets", dataset_id, "check"), body)
    return (yield from fetch(Fit, request))


def create_job(spec: Json) -> Steps[Job]:
    """Start a job from a whole JobSpec, ids included."""
    return (yield from fetch(Job, Request("POST", "/v1/jobs", json=dict(spec))))


def submit(  # noqa: PLR0913 - all that a job is made of
    model: str | Path | Sequence[str | Path],
    data: str | Path | None = None,
    *,
    spec: Json | None = None,
    gate: Json | None = None,
    preprocess: str | Json | None = None,
    input: str | None = None,  # noqa: A002 - the field's name
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    tell: Tell = silent,
) -> Steps[Job]:
    """Upload what the service does not have yet, and start a job.

    Args:
        model: A file, a folder, several files, or a version's id (`ver_…`).
        data: Samples for calibration and evaluation, or a dataset's id (`dst_…`).
        spec: A JobSpec without `version`. Its `candidates` may be files: models quantized elsewhere.
        gate: Limits; they go before those of `spec`.
        preprocess: As in `upload_dataset`.
        input: As in `upload_dataset`.
        name: The model's.
        labels: Of the version and the job.
        tell: Hears how far each file has come.

    Raises:
        InvalidInput: A file cannot be read.
        Refused: The service rejects the model, the samples or the spec.
    """
    whole = dict(spec or {})
    whole["labels"] = {**whole.get("labels", {}), **(labels or {})}
    whole["gate"] = {**(whole.get("gate") or {}), **(gate or {})} or None
    whole["version"] = yield from _version(model, name, labels, tell)
    if data is not None:
        dataset = yield from _dataset(data, preprocess, input, tell)
        for use in ("calibration", "evaluation"):
            whole[use] = {"dataset": dataset, **whole.get(use, {})}
    candidates = []
    for candidate in whole.get("candidates", ()):
        candidates.append((yield from _version(candidate, None, labels, tell)))  # noqa: PERF401 - one by one
    whole["candidates"] = candidates
    return (yield from create_job(whole))


def run(  # noqa: PLR0913 - all that a job is made of
    model: str | Path | Sequence[str | Path],
    data: str | Path | None = None,
    *,
    spec: Json | None = None,
    gate: Json | None = None,
    preprocess: str | Json | None = None,
    input: str | None = None,  # noqa: A002 - the field's name
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    tell: Tell = silent,
    timeout: float | None = None,
) -> Steps[Result]:
    """Submit a job, wait for its end, and return what came of it; takes what `submit` takes.

    Args:
        model: As in `submit`, and so are the others but for the last.
        data: Samples, or a dataset's id.
        spec: A JobSpec without `version`.
        gate: Limits.
        preprocess: From pixels to input values.
        input: The model's input that images bind to.
        name: The model's.
        labels: Of the version and the job.
        tell: Hears how far each file has come.
        timeout: Seconds to wait for the job's end, once its files are there.

    Raises:
        InvalidInput: A file cannot be read.
        Refused: The service rejects the model, the samples or the spec.
        JobFailed: The job ended without a result.
        TimedOut: `timeout` seconds went by, or the job's deadline did.
    """
    job = yield from submit(
        model,
        data,
        spec=spec,
        gate=gate,
        preprocess=preprocess,
        input=input,
        name=name,
        labels=labels,
        tell=tell,
    )
    return (yield from wait(job.id, timeout=timeout))


def wait(job_id: str, *, timeout: float | None = None) -> Steps[Result]:
    """Wait for a job's end, and return what came of it.

    Raises:
        JobFailed: It ended without a result.
        TimedOut: `timeout` seconds went by, and the job goes on; or its deadline went by.
    """
    job = yield from watching.settled(job_id, timeout)
    if job.state != "succeeded":
        raise without_result(job)
    return (yield from result(job_id))


def without_result(job: Job) -> FewbitsError:
    """What to raise for a job that ended, but did not succeed."""
    reason = f" ({job.error.code}): {job.error.detail}" if job.error else ""
    kind = TimedOut if job.state == "expired" else JobFailed
    return kind(f"{job.id} {job.state}{reason}")


def result(job_id: str) -> Steps[Result]:
    """What came of a job that succeeded: job, candidates and verdict, as the report has them.

    Raises:
        Refused: It has not ended, or not succeeded.
    """
    answer = yield from send(Request("GET", path_to("jobs", job_id, "report")), PATIENT_ATTEMPTS)
    raw = loads(answer.body)
    report = read(Report, raw)
    candidates = tuple(read(Candidate, row) for row in report.candidates)
    return Result(
        job=read(Job, report.job), candidates=candidates, verdict=read(Verdict, report.verdict), raw=raw
    )


def job(job_id: str) -> Steps[Job]:
    """One job."""
    return (yield from fetch(Job, Request("GET", path_to("jobs", job_id))))


def jobs(
    *,
    state: str | None = None,
    conclusion: str | None = None,
    model: str | None = None,
    version: str | None = None,
    labels: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> Items[Job]:
    """The project's jobs, newest first, of one state, conclusion, model, version or label if asked."""
    asked: dict[str, Any] = {"state": state, "conclusion": conclusion, "model": model, "version": version}
    asked |= {f"label.{name}": value for name, value in (labels or {}).items()}
    return (yield from pages(Job, "/v1/jobs", asked, limit))


def cancel(job_id: str) -> Steps[Job]:
    """End a job now.

    Raises:
        Refused: It has ended already.
    """
    return (yield from fetch(Job, Request("POST", path_to("jobs", job_id, "cancel"))))


def retry(job_id: str) -> Steps[Job]:
    """Start a new job with the same spec."""
    return (yield from fetch(Job, Request("POST", path_to("jobs", job_id, "retry"))))


def steps(job_id: str) -> Items[Step]:
    """A job's units of work, as they came."""
    return (yield from pages(Step, path_to("jobs", job_id, "steps"), {}, None))


def candidates(job_id: str) -> Items[Candidate]:
    """A job's candidates, in the order of its recipes."""
    return (yield from pages(Candidate, path_to("jobs", job_id, "candidates"), {}, None))


def candidate(candidate_id: str) -> Steps[Candidate]:
    """One candidate: what it costs and wins."""
    return (yield from fetch(Candidate, Request("GET", path_to("candidates", candidate_id))))


def verdict(job_id: str) -> Steps[Verdict]:
    """The gate's answer to a job that succeeded."""
    return (yield from fetch(Verdict, Request("GET", path_to("jobs", job_id, "verdict"))))


def document(job_id: str, noun: str, form: str) -> Steps[str]:
    """A job's `report` (html, md) or `verdict` (md, junit, openmetrics) as text."""
    request = Request("GET", path_to("jobs", job_id, noun), params={"format": form})
    answer = yield from send(request, PATIENT_ATTEMPTS)
    return answer.body.decode()


def compare(a: str, b: str) -> Steps[Comparison]:
    """Two candidates side by side, also of different jobs."""
    return (yield from fetch(Comparison, Request("GET", "/v1/compare", params={"a": a, "b": b})))


def download(candidate_id: str, target: str | Path, *, tell: Tell = silent) -> Steps[Path]:
    """Bring a candidate's model to a file, whole and with the right SHA-256 or not at all.

    Raises:
        InvalidInput: The file cannot be written.
        Refused: The candidate has no model.
    """
    source = path_to("candidates", candidate_id, "content")
    return (yield from downloads.fetch_file(source, Path(target), tell))


def watch(job_id: str, *, after: int = 0, timeout: float | None = None) -> Items[Event]:
    """Each event of a job, and its progress as it changes, until it has ended.

    Args:
        job_id: The job's.
        after: The `seq` of the last event that is known already.
        timeout: Seconds after which to give up.

    Raises:
        TimedOut: The time is over; the job goes on.
    """
    return (yield from watching.watch(job_id, after, timeout))


def _version(
    given: str | Path | Sequence[str | Path], name: str | None, labels: Mapping[str, str] | None, tell: Tell
) -> Steps[str]:
    if isinstance(given, str) and given.startswith("ver_"):
        return given
    files = [given] if isinstance(given, (str, Path)) else list(given)
    version = yield from upload_model(*files, name=name, labels=labels, tell=tell)
    return version.id


def _dataset(given: str | Path, preprocess: str | Json | None, bound: str | None, tell: Tell) -> Steps[str]:
    if isinstance(given, str) and given.startswith("dst_"):
        return given
    dataset = yield from upload_dataset(given, preprocess=preprocess, input=bound, tell=tell)
    return dataset.id


def _waiting(method: str, path: str, body: Json) -> Request:
    """A request whose answer may wait for an inspection."""
    return Request(method, path, json=body, headers={"prefer": f"wait={WAIT_S}"}, patience_s=WAIT_S + 60)


def _refuse_rejected(shown: Version | Dataset) -> None:
    """Raises Refused when an inspection that took longer than the wait ended with a rejection."""
    if shown.error:
        detail = f"{shown.id} was rejected: {shown.error.detail}"
        raise Refused(detail, REJECTED, {"code": shown.error.code, "detail": shown.error.detail})
