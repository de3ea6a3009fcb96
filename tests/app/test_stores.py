"""What holds for every blob store: a folder, tables of SQLite and of Postgres, a bucket of an S3 server."""

import hashlib
import os
import secrets
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update

from app.db.models import Step
from app.db.queries import measures
from app.db.session import Database
from app.services import counting, sweeper
from app.settings import Settings
from app.storage import StoreUnavailable, open_storage
from app.storage.base import CHUNK, add, chunks, limited
from tests import factories, object_stores
from tests.e2e.proxies import line_to
from tests.object_stores import Store

CONTENT = os.urandom(9 * CHUNK + 5)  # more than one piece of every store
KEY = "ab" * 16


def read(store: Store, key: str) -> bytes:
    with store.storage.open(key) as file:
        return b"".join(chunks(file))


def test_bytes_come_back_with_their_digest_and_size(store: Store) -> None:
    received = factories.store(store.storage, CONTENT)

    assert read(store, received.key) == CONTENT
    assert received.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert received.size == len(CONTENT)


def test_any_size_comes_back(store: Store) -> None:
    for size in (0, 1, CHUNK - 1, CHUNK, 8 * CHUNK, 8 * CHUNK + 1):
        received = factories.store(store.storage, CONTENT[:size])

        assert (received.size, read(store, received.key)) == (size, CONTENT[:size])


def test_any_range_is_read(store: Store) -> None:
    received = factories.store(store.storage, CONTENT)

    with store.storage.open(received.key) as file:
        for start, size in [
            (0, 1),
            (CHUNK - 2, 4),
            (8 * CHUNK - 1, 3),
            (5, 3 * CHUNK),
            (len(CONTENT) - 2, 9),
        ]:
            file.seek(start)
            assert file.read(size) == CONTENT[start : start + size]
        assert file.read(1) == b""
        file.seek(len(CONTENT) + 7)
        assert file.read(1) == b""


def test_what_comes_in_small_pieces_is_kept_in_order(store: Store) -> None:
    with store.storage.create() as writer:
        for start in range(0, 100_000, 999):
            writer.write(CONTENT[start : start + 999])
        key = writer.finish().key

    assert read(store, key) == CONTENT[:100_899]


def test_nothing_is_visible_before_it_is_finished(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda _size: KEY)
    with store.storage.create() as writer:
        writer.write(CONTENT)
        with pytest.raises(FileNotFoundError):
            store.storage.open(KEY)
        assert store.storage.older(0xAB, -60) == []
        writer.finish()
        assert store.storage.older(0xAB, -60) == [KEY]


def test_what_is_not_finished_leaves_nothing(store: Store) -> None:
    def disconnect() -> None:
        with store.storage.create() as writer:
            writer.write(CONTENT)
            assert store.traces() > 0
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        disconnect()

    assert store.traces() == 0


def let_a_day_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("local", "database", "s3"):
        monkeypatch.setattr(f"app.storage.{kind}.ABANDONED_S", -60)
    monkeypatch.setattr("app.storage.s3.TIDY_S", 0)


def test_what_a_killed_writer_left_goes_after_a_day(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = factories.store(store.storage, b"whole")
    killed = store.storage.create()
    killed.__enter__().write(CONTENT)
    begun = store.traces()

    store.storage.tidy()
    assert store.traces() == begun
    let_a_day_pass(monkeypatch)
    store.storage.tidy()

    assert store.traces() < begun
    assert read(store, kept.key) == b"whole"
    store.storage.delete(kept.key)
    assert store.traces() == 0
    killed.__exit__(None, None, None)


def test_equal_bytes_are_two_objects_under_keys_that_nobody_can_guess(store: Store) -> None:
    first, second = factories.store(store.storage, b"same"), factories.store(store.storage, b"same")

    assert first.sha256 == second.sha256
    assert first.key != second.key
    assert first.sha256 not in {first.key, second.key}


def test_a_file_is_copied(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)

    with source.open("rb") as file:
        received = add(store.storage, chunks(file))

    source.write_bytes(b"changed afterwards")
    with store.storage.open(received.key) as file:
        assert {len(piece) for piece in chunks(file)} == {CHUNK, len(CONTENT) % CHUNK}


def test_what_is_deleted_is_gone_and_deleting_twice_is_no_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.queries.objects.ERASED_AT_ONCE", 4)
    received = factories.store(store.storage, CONTENT)

    store.storage.delete(received.key)
    store.storage.delete(received.key)

    assert store.traces() == 0
    with pytest.raises(FileNotFoundError):
        store.storage.open(received.key)


def test_a_part_goes_on_after_the_bytes_that_count(store: Store) -> None:
    for size, piece in ((0, b"abcdef"), (4, b"XY"), (6, b"Z")):
        with store.storage.extend(KEY, size) as part:
            part.write(piece)
            part.sync()

    assert read(store, KEY) == b"abcdXYZ"


def test_a_long_part_is_cut_anywhere(store: Store) -> None:
    with store.storage.extend(KEY, 0) as part:
        part.write(CONTENT)
        part.sync()

    for size in (8 * CHUNK + 3, 8 * CHUNK, 3 * CHUNK - 1, 0):
        with store.storage.extend(KEY, size) as part:
            part.write(b"end")
            part.sync()
        assert read(store, KEY) == CONTENT[:size] + b"end"


def test_a_part_that_is_shorter_than_its_row_says_is_no_object(store: Store) -> None:
    with store.storage.extend(KEY, 0) as part:
        part.write(b"abc")
        part.sync()

    with store.storage.open(KEY) as file, pytest.raises(OSError, match="too early"):
        list(limited(file, 4))


def test_a_part_that_is_gone_does_not_go_on(store: Store) -> None:
    with pytest.raises(FileNotFoundError), store.storage.extend(KEY, 1):
        pass


def test_a_deleted_part_leaves_nothing(store: Store) -> None:
    for size in (0, len(CONTENT)):
        with store.storage.extend(KEY, size) as part:
            part.write(CONTENT)
            part.sync()

    store.storage.delete(KEY)

    assert store.traces() == 0


def test_objects_and_parts_are_listed_by_their_age(store: Store) -> None:
    received = factories.store(store.storage, CONTENT)
    with store.storage.extend(KEY, 0) as part:
        part.write(b"abc")
        part.sync()

    listed = {key for shelf in {0xAB, int(received.key[:2], 16)} for key in store.storage.older(shelf, -60)}

    assert listed == {received.key, KEY}
    assert store.storage.older(0xAB, 60) == []
    assert KEY not in store.storage.older(0xAC, -60)


def test_many_write_at_once(store: Store) -> None:
    def written(number: int) -> tuple[int, str]:
        return number, factories.store(store.storage, CONTENT[number:]).key

    with ThreadPoolExecutor(3) as pool:
        keys = dict(pool.map(written, range(3)))

    assert all(read(store, key) == CONTENT[number:] for number, key in keys.items())


def test_memory_does_not_grow_with_an_object(store: Store) -> None:
    tracemalloc.start()
    try:
        with store.storage.create() as writer:
            for _ in range(40):
                writer.write(CONTENT[:CHUNK])
            key = writer.finish().key
        with store.storage.open(key) as file:
            assert sum(map(len, chunks(file))) == 40 * CHUNK
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 25 * CHUNK


def test_only_a_bucket_has_links_and_they_keep_name_and_type(store: Store) -> None:
    key = factories.store(store.storage, CONTENT).key
    disposition = "attachment; filename=\"m_.onnx\"; filename*=UTF-8''m%C3%B6.onnx"

    link = store.storage.link(key, disposition, "application/zip")

    assert bool(link) == (not store.storage.parts_are_objects)
    if link:
        answer = httpx.get(link, headers={"Range": "bytes=5-9"})
        assert (answer.status_code, answer.content) == (206, CONTENT[5:10])
        assert answer.headers["content-disposition"] == disposition
        assert answer.headers["content-type"] == "application/zip"


def test_a_bucket_that_does_not_answer_is_the_hosts_trouble(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("app.storage.bucket.ATTEMPTS", 1)
    storage = open_storage(Settings(storage_url=s3_url))

    with pytest.raises(StoreUnavailable, match="does not answer"):
        storage.open(KEY)
    with pytest.raises(StoreUnavailable), storage.create() as writer:
        writer.write(CONTENT)
    storage.close()


def test_a_bucket_that_does_not_answer_keeps_the_sweep_from_nothing(
    s3_url: str, database: Database, rings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = factories.make_version(database, factories.make_project(database), ready=False)
    step = factories.step_of(database, version, "inspect_version").id
    factories.take(database, step)
    with database.writing() as db:
        db.execute(update(Step).values(lease_until=0))
    rings.clear()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("app.storage.bucket.ATTEMPTS", 1)
    storage = open_storage(Settings(storage_url=s3_url))

    sweeper.sweep(database, storage)

    assert rings == [step]
    with database.reading() as db:
        assert measures.age_us(db, counting.SWEPT) is not None
    storage.close()


@pytest.mark.parametrize("broken", ["up", "down"])
def test_a_connection_that_breaks_is_made_anew(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    with line_to(os.environ["AWS_ENDPOINT_URL"]) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
        store = object_stores.s3(s3_url)
        setattr(line, broken, [3 * CHUNK])

        key = factories.store(store.storage, CONTENT).key

        assert read(store, key) == CONTENT
        assert line.connections > 1
        store.storage.close()


def test_what_others_keep_in_the_bucket_is_left_alone(s3_url: str) -> None:
    store = object_stores.s3(s3_url)
    store.replace(f"{KEY}.txt", b"a neighbour's")
    store.replace("ab", b"a neighbour's")

    assert store.storage.older(0xAB, -60) == []
    store.storage.delete(KEY)

    assert store.traces() == 2
    store.storage.close()


@pytest.mark.parametrize("url", ["ftp://elsewhere", "database:other", "s3://", "s3:///x"])
def test_a_storage_url_that_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="s3://bucket/prefix"):
        open_storage(Settings(storage_url=url))
