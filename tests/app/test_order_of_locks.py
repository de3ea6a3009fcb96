"""Who sends the same files in another order waits, and no two wait for each other."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.db.session import Database
from app.services import blobs
from app.storage import LocalStorage
from tests import factories
from tests.app.conftest import Tenant

ROUNDS = 10


def test_two_who_keep_the_same_files_in_opposite_order_both_end(
    postgres_database: Database, tmp_path: Path
) -> None:
    project, storage = factories.make_project(postgres_database), LocalStorage(tmp_path)

    def keep(order: int) -> int:
        received = [factories.store(storage, b"file %d" % number) for number in range(40)][::order]
        with postgres_database.writing() as db:
            return len(blobs.keep_all(db, storage, project, received, 3600))

    with ThreadPoolExecutor(4) as senders:
        assert list(senders.map(keep, (1, -1) * ROUNDS)) == [40] * 2 * ROUNDS


@pytest.mark.parametrize("path", ["/v1/models", "/v1/quantize"])
def test_forms_with_the_same_files_in_opposite_order_are_all_stored(tenant: Tenant, path: str) -> None:
    part = "file" if path == "/v1/models" else "model"

    def send(order: int) -> int:
        named = [(part, (f"{name}.onnx", b"the same %s" % name.encode())) for name in "abcdefgh"]
        return tenant.http.post(path, files=named[::order]).status_code

    with ThreadPoolExecutor(4) as senders:
        answers = set(senders.map(send, (1, -1) * ROUNDS))
    assert answers <= {201, 202}
