"""What the clients of benchmarks/api.py do, as Locust tells it; run by that script."""

import hashlib
import os
import random
import secrets

from locust import HttpUser, between, task

VERSION, DATASET = os.environ["LOAD_VERSION"], os.environ["LOAD_DATASET"]
HEADERS = {"Authorization": f"Bearer {os.environ['LOAD_KEY']}"}
FILTERS = (
    "",
    "&state=succeeded",
    f"&version={VERSION}",
    f"&model={os.environ['LOAD_MODEL']}",
    "&label.branch=b7",
)


class Pipeline(HttpUser):
    """Uploads, asks for jobs, watches and reads."""

    wait_time = between(1, 5)  # a pipeline, not a flood

    def on_start(self) -> None:
        """Every request carries the key."""
        self.client.headers.update(HEADERS)
        self.jobs: list[str] = []

    @task(3)
    def upload(self) -> None:
        """A small blob, and a model made of it."""
        body = secrets.token_bytes(4096)
        sha256 = hashlib.sha256(body).hexdigest()
        self.client.put(f"/v1/blobs/{sha256}", data=body, name="PUT blob")
        files = {"name": "load", "files": {"model.onnx": sha256}}
        self.client.post("/v1/models", json=files, name="POST model")

    @task(3)
    def quantize(self) -> None:
        """A job, seen once and canceled."""
        spec = {
            "version": VERSION,
            "evaluation": {"dataset": DATASET},
            "recipes": [{"method": "dynamic_int8"}],
        }
        job = self.client.post("/v1/jobs", json=spec, name="POST job").json()["id"]
        self.client.get(f"/v1/jobs/{job}", name="GET job")
        events = self.client.get(f"/v1/jobs/{job}/events", stream=True, name="GET events")
        next(events.iter_lines(), None)
        events.close()
        self.client.post(f"/v1/jobs/{job}/cancel", name="POST cancel")
        self.jobs = [*self.jobs, job][-20:]

    @task(6)
    def browse(self) -> None:
        """A list by one of the filters."""
        which = random.choice(FILTERS)  # noqa: S311 - load, not a secret
        self.client.get(f"/v1/jobs?limit=20{which}", name=f"GET list{which.partition('=')[0]}")

    @task(4)
    def read(self) -> None:
        """A job and its steps; its verdict is refused, for it was canceled."""
        if self.jobs:
            job = random.choice(self.jobs)  # noqa: S311 - load, not a secret
            self.client.get(f"/v1/jobs/{job}/steps", name="GET steps")
            with self.client.get(
                f"/v1/jobs/{job}/verdict", name="GET verdict", catch_response=True
            ) as answer:
                answer.success() if answer.status_code == 409 else answer.failure(answer.text)  # noqa: PLR2004
