"""The client's Python API against a running service, on good and on bad lines."""

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from examples.digits import data as digits
from fewbits import (
    AsyncClient,
    Client,
    InvalidInput,
    JobFailed,
    Refused,
    Result,
    TimedOut,
    Unauthenticated,
    unfinished,
)
from fewbits.progress import Progress
from fewbits.uploads import PIECE, send_file
from tests.e2e.conftest import Service
from tests.e2e.proxies import line_to, newer_than
from tests.waiting import in_time

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "digits.onnx"
SPEC = {
    "recipes": [{"method": "dynamic_int8"}, {"method": "static_int8"}],
    "benchmark": {"max_seconds": 1},
    "gate": {"max_size_ratio": 0.6},
}


KILLED = """
import os, signal, sys
from pathlib import Path
from fewbits import Client
from fewbits.uploads import send_file

def tell(progress):
    if progress.stage == "uploading" and progress.done > 1_500_000:
        os.kill(os.getpid(), signal.SIGKILL)

url, key, path = sys.argv[1:]
Client(url, key).perform(send_file(Path(path), tell))
"""
FULL = """
import resource, sys
from fewbits import Client

url, key, candidate, target = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
Client(url, key).download(candidate, target)
"""


@pytest.fixture(scope="module", autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Unfinished uploads are not remembered in this user's own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which no unfinished upload is remembered yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def url(service: Service) -> str:
    return str(service.http.base_url).rstrip("/")


@pytest.fixture(scope="module")
def key(service: Service) -> str:
    return (service.home / "admin.key").read_text().strip()


@pytest.fixture(scope="module")
def client(url: str, key: str) -> Iterator[Client]:
    with Client(url, key) as opened:
        yield opened


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("client") / "digits.npz"
    digits.write(digits.held_out(), path)
    return path


@pytest.fixture(scope="module")
def result(client: Client, samples: Path) -> Result:
    return client.run(DIGITS, samples, spec=SPEC, preprocess="unit", labels={"branch": "main"})


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big.bin"
    path.write_bytes(os.urandom(2_000_000))
    return path


def told(stage: str, heard: list[Progress]) -> list[Progress]:
    return [one for one in heard if one.stage == stage]


def test_one_call_uploads_quantizes_measures_and_decides(result: Result) -> None:
    assert (result.job.state, result.job.conclusion) == ("succeeded", "pass")
    assert (result.verdict.conclusion, result.verdict.blocking) == ("pass", False)
    assert [c.state for c in result.candidates] == ["measured", "measured"]
    assert result.best is not None
    assert result.best.size is not None
    assert result.best.size.ratio < 0.6
    assert result.job.raw["spec"]["labels"] == {"branch": "main"}


def test_the_best_model_comes_down_whole(client: Client, result: Result, tmp_path: Path) -> None:
    assert result.best
    heard: list[Progress] = []

    path = client.download(result.best.id, tmp_path / "best.onnx", tell=heard.append)

    assert result.best.size
    assert path.stat().st_size == result.best.size.bytes
    assert list(tmp_path.iterdir()) == [path]
    assert heard[-1] == Progress("downloading", "best.onnx", path.stat().st_size, path.stat().st_size)


def test_lists_and_single_things_can_be_read(client: Client, result: Result) -> None:
    job, (a, b) = result.job, result.candidates
    assert job.id in [found.id for found in client.jobs(state="succeeded", labels={"branch": "main"})]
    assert len(list(client.jobs(limit=1))) == 1
    assert "digits" in {model.name for model in client.models()}
    assert [c.id for c in client.candidates(job.id)] == [a.id, b.id]
    assert client.candidate(a.id) == a
    assert {step.kind for step in client.steps(job.id)} >= {"prepare", "build", "benchmark", "report"}
    assert client.compare(a.id, b.id).differences[0].figure == "speedup"
    assert client.verdict(job.id) == result.verdict
    assert "<testsuites" in client.document(job.id, "verdict", "junit")
    assert client.me().project_name == "default"


def test_events_of_an_ended_job_are_replayed_from_any_place(client: Client, result: Result) -> None:
    events = list(client.watch(result.job.id))

    seqs = [event.seq for event in events if event.type != "progress"]
    assert seqs == list(range(1, len(seqs) + 1))
    assert (events[0].type, events[-1].type) == ("job.queued", "job.succeeded")
    assert [event.seq for event in client.watch(result.job.id, after=seqs[-2])] == seqs[-1:]


def test_the_same_operations_can_be_awaited(url: str, key: str, result: Result, samples: Path) -> None:
    async def all_at_once() -> tuple[list[str], Result, str]:
        async with AsyncClient(url, key) as client:
            events = [event.type async for event in client.watch(result.job.id)]
            again = await client.run(DIGITS, samples, spec=SPEC, preprocess="unit")
            assert again.best
            path = await client.download(again.best.id, samples.with_name("async.onnx"))
            return events, again, hashlib.sha256(path.read_bytes()).hexdigest()

    events, again, sha256 = asyncio.run(all_at_once())

    assert events[-1] == "job.succeeded"
    assert again.verdict.conclusion == "pass"
    assert len(sha256) == 64


def test_an_upload_goes_on_where_the_line_broke(url: str, key: str, big: Path) -> None:
    heard: list[Progress] = []
    with line_to(url) as line:
        line.up = [700_000, 700_000]
        with Client(line.url, key) as client:
            sha256 = client.perform(send_file(big, heard.append))
            client.perform(send_file(big, heard.append))

    assert sha256 == hashlib.sha256(big.read_bytes()).hexdigest()
    uploaded = [one.done for one in told("uploading", heard)]
    assert uploaded[-1] == 2_000_000
    assert line.connections == 3
    resumed = [after for before, after in pairwise(uploaded) if after <= before]
    assert resumed
    assert min(resumed) > PIECE, "what had arrived was sent again"
    assert len(told("skipped", heard)) == 1


def test_an_awaited_upload_goes_on_where_the_line_broke(url: str, key: str, big: Path) -> None:
    async def upload(there: str) -> str:
        async with AsyncClient(there, key) as client:
            return await client.perform(send_file(big, lambda _: None))

    with line_to(url) as line:
        line.up = [700_000]
        sha256 = asyncio.run(upload(line.url))

    assert sha256 == hashlib.sha256(big.read_bytes()).hexdigest()
    assert line.connections == 2


def test_an_upload_of_a_process_that_was_killed_goes_on_in_the_next(
    url: str, key: str, big: Path, cache: Path, service: Service
) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, url, key, str(big)], check=False)
    (record,) = (cache / "fewbits" / "uploads").iterdir()
    begun = record.read_text()

    def sent() -> int:
        answer = service.http.head(begun, headers={"tus-resumable": "1.0.0"})
        return int(answer.headers["upload-offset"])

    assert in_time(sent)
    heard: list[Progress] = []
    with Client(url, key) as client:
        client.perform(send_file(big, heard.append))

    assert killed.returncode == -signal.SIGKILL
    assert told("uploading", heard)[0].done > PIECE, "what had arrived was sent again"
    assert service.http.get(begun).json()["sha256"] == hashlib.sha256(big.read_bytes()).hexdigest()
    assert not record.exists()


def test_an_upload_that_the_service_has_forgotten_begins_anew(
    url: str, key: str, big: Path, cache: Path
) -> None:
    sha256 = hashlib.sha256(big.read_bytes()).hexdigest()
    unfinished.remember(unfinished.sender(url, key), sha256, "/v1/uploads/upl_nothing")

    with Client(url, key) as client:
        assert client.perform(send_file(big, lambda _: None)) == sha256

    assert list((cache / "fewbits" / "uploads").iterdir()) == []


@pytest.mark.parametrize(
    ("stage", "change", "said"),
    [
        ("uploading", lambda path: os.truncate(path, 1_500_000), "changed while it was sent"),
        ("uploading", lambda path: path.write_bytes(bytes(2_000_000)), "changed while it was sent"),
        ("hashing", Path.unlink, "cannot be read"),
    ],
    ids=["shrinks", "is written anew", "goes away"],
)
def test_a_file_that_changes_on_its_way_is_told_so(
    client: Client, big: Path, stage: str, change: Callable[[Path], object], said: str
) -> None:
    changed: list[Progress] = []

    def tell(progress: Progress) -> None:
        done = progress.done == progress.total if stage == "hashing" else progress.stage == stage
        if done and not changed:
            changed.append(progress)
            change(big)

    with pytest.raises(InvalidInput, match=said):
        client.perform(send_file(big, tell))


def test_a_disk_that_is_full_leaves_nothing_behind(
    url: str, key: str, result: Result, tmp_path: Path
) -> None:
    assert result.best
    done = subprocess.run(
        [sys.executable, "-c", FULL, url, key, result.best.id, str(tmp_path / "best.onnx")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert "InvalidInput" in done.stderr
    assert "best.onnx cannot be written: File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_watching_goes_on_where_the_line_broke(url: str, key: str, result: Result) -> None:
    with line_to(url) as line:
        line.down = [900, 900]
        with Client(line.url, key) as client:
            seqs = [event.seq for event in client.watch(result.job.id) if event.type != "progress"]

    assert seqs == list(range(1, len(seqs) + 1))
    assert line.connections > 2


def test_a_download_goes_on_where_the_line_broke(url: str, key: str, result: Result, tmp_path: Path) -> None:
    assert result.best
    assert result.best.size
    with line_to(url) as line:
        line.down = [100_000, 50_000]
        with Client(line.url, key) as client:
            path = client.download(result.best.id, tmp_path / "best.onnx")

    assert path.stat().st_size == result.best.size.bytes
    assert line.connections == 3


def test_where_no_stream_gets_through_the_job_is_asked_for(url: str, key: str, samples: Path) -> None:
    with newer_than(url) as later, Client(later, key) as client:
        result = client.run(DIGITS, samples, spec=SPEC, preprocess="unit")

    assert result.verdict.conclusion == "pass"
    assert {c.state for c in result.candidates} == {"archived"}
    assert result.raw["job"]["a_new_field"] == {"of": ["a", "later", "version"]}


def test_an_expired_key_is_told_so(url: str, service: Service) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1)
    body = {"name": "brief", "scopes": ["read"], "expires_at": soon.isoformat()}
    made = service.http.post("/v1/api-keys", json=body).json()
    assert in_time(lambda: datetime.now(UTC) > soon)

    with Client(url, made["key"]) as client, pytest.raises(Unauthenticated, match="expired"):
        client.me()


def test_a_file_that_is_no_model_is_refused_with_the_reason(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "no.onnx"
    path.write_bytes(b"no model at all")

    with pytest.raises(Refused, match="rejected") as refused:
        client.upload_model(path)

    assert refused.value.status == 422


def test_a_spec_that_does_not_fit_is_refused_with_its_fields(client: Client) -> None:
    with pytest.raises(Refused, match="min_sped"):
        client.submit(DIGITS, spec={"gate": {"min_sped": 1}})


def test_what_is_not_there_is_said_before_anything_is_sent(client: Client, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nothing\.onnx"):
        client.upload_model(tmp_path / "nothing.onnx")


def test_a_folder_is_a_model_with_its_external_data(client: Client, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(DIGITS.read_bytes())

    version = client.upload_model(tmp_path, name="in a folder")

    assert (version.state, version.name) == ("ready", "in a folder")


def test_a_canceled_job_has_no_result(client: Client) -> None:
    job = client.submit(DIGITS, spec={"reuse": "never"})
    client.cancel(job.id)

    with pytest.raises(JobFailed, match="canceled"):
        client.wait(job.id)


def test_waiting_ends_with_the_time_that_was_given(client: Client) -> None:
    job = client.submit(DIGITS, spec={"reuse": "never"})
    try:
        with pytest.raises(TimedOut, match=job.id):
            client.wait(job.id, timeout=0.2)
    finally:
        client.cancel(job.id)
