"""An API that is killed at named places: what was acknowledged is there, and who asks again gets the same."""

import hashlib
import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.storage import LocalStorage
from tests.app.tus import CHUNK, create
from tests.faults import crashing, parts
from tests.faults.conftest import FULL, Report
from tests.faults.promises import Client, Log, ended, job, verify
from tests.faults.test_cut_uploads import resume
from tests.waiting import in_time

SEED = 7
ROUNDS = 20 if FULL else 9
# The first commit takes the Idempotency-Key, the second makes what was asked for, the third keeps the answer.
JOB = [("commit", when, n) for n in (1, 2, 3) for when in ("before", "after")]
JOB += [("ring", "before", 1), ("answer", "before", 1), ("answer", "after", 1)]
FORM = [(place, when, 1) for place in ("write", "finish", "rename", "row") for when in ("before", "after")]
# At least two: of the file, and of its folder.
FORM += [("fsync", when, n) for n in (1, 2) for when in ("before", "after")]
PIECE = [(place, when, 1) for place in ("sync", "count", "complete") for when in ("before", "after")]

pytestmark = pytest.mark.long


class Crasher:
    """Kills the API at a place while a request is under way."""

    def __init__(self, cluster: parts.Cluster) -> None:
        self.crashes = 0
        self._cluster = cluster

    def during(self, place: tuple[str, str, int], request: Callable[[], object]) -> None:
        """Make the request; it must not be answered, because the API dies of it."""
        home = self._cluster.home
        crashing.arm(home, *place)
        request()
        assert in_time(lambda: crashing.deaths(home) > self.crashes), f"the API went past {place}"
        self.crashes += 1
        assert in_time(self._cluster.is_ready)


def test_who_asks_again_after_a_crash_gets_what_was_promised(
    home: Path, postgres: parts.Postgres, figure: Report
) -> None:
    log, chance = Log(), random.Random(SEED)  # noqa: S311 - to be repeated
    with (
        parts.cluster(home, postgres, parts.Shape(api="tests.faults.crashing")) as cluster,
        Client(cluster, log) as client,
    ):
        version, crasher = client.upload({}, "model"), Crasher(cluster)
        jobs = crash_jobs(client, crasher, version)
        forms = crash_forms(client, crasher, chance)
        pieces = crash_pieces(cluster, client, crasher, chance)
        for key in jobs:
            client.submit(version, key)
        for key, body in forms.items():
            made = client.send("POST", "/v1/models", **form(key, body)).json()
            assert made["model"], made
            log.blobs.add(hashlib.sha256(body).hexdigest())
        for path, body in pieces.items():
            resume(client, path, body)
        models = names_of_models(client)
        assert cluster.until(lambda: ended(cluster))
        found = verify(log, cluster.database_url, LocalStorage(home / "blobs"))
    assert sorted(models) == sorted(["model", *forms])
    places = len(JOB) + len(FORM) + len(PIECE)
    assert crasher.crashes == ROUNDS * places
    figure(f"{crasher.crashes} crashes at {places} places (seed {SEED}): {found}")


def names_of_models(client: Client) -> list[str]:
    """Of all models, page by page."""
    names, cursor = list[str](), dict[str, str]()
    while True:
        page = client.send("GET", "/v1/models", params={"limit": 100, **cursor}).json()
        names += [model["name"] for model in page["items"]]
        if not page["next_cursor"]:
            return names
        cursor = {"cursor": page["next_cursor"]}


def crash_jobs(client: Client, crasher: Crasher, version: str) -> list[str]:
    """Requests for jobs that were not answered: their keys."""
    keys = []
    for n in range(ROUNDS):
        for place in JOB:
            key = "-".join(map(str, ["job", n, *place]))
            crasher.during(place, partial(client.once, "POST", "/v1/jobs", **job(version, key)))
            keys.append(key)
    return keys


def crash_forms(client: Client, crasher: Crasher, chance: random.Random) -> dict[str, bytes]:
    """Forms with a model that were not answered: their keys, which are the models' names too."""
    forms = {}
    for n in range(ROUNDS):
        for place in FORM:
            key, body = "-".join(map(str, ["form", n, *place])), model(chance)
            crasher.during(place, partial(client.once, "POST", "/v1/models", **form(key, body)))
            forms[key] = body
    return forms


def crash_pieces(
    cluster: parts.Cluster, client: Client, crasher: Crasher, chance: random.Random
) -> dict[str, bytes]:
    """Resumable uploads whose last piece was not answered: their paths."""
    pieces = {}
    with cluster.client() as http:
        for _ in range(ROUNDS):
            for place in PIECE:
                body = model(chance)
                path = create(http, len(body))
                request = {"headers": {**CHUNK, "Upload-Offset": "0"}, "content": body}
                crasher.during(place, partial(client.once, "PATCH", path, **request))
                pieces[path] = body
    return pieces


def model(chance: random.Random) -> bytes:
    """A model that nobody else sends."""
    return json.dumps({"unique": chance.randbytes(1000).hex()}).encode()


def form(key: str, body: bytes) -> dict[str, Any]:
    """The request for a model of this name."""
    headers = {"Idempotency-Key": key}
    return {"files": {"file": ("m.onnx", body)}, "data": {"name": key}, "headers": headers}
