"""Blob stores of every kind, and what tests do to them behind their backs."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from sqlalchemy import delete, func, select, update

from app.db.objects import StoredChunk, StoredObject
from app.db.session import Database
from app.settings import Settings
from app.storage import Storage, open_storage

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

PREFIX = "a team's/blobs"


@dataclass(frozen=True)
class Store:
    """A store; `traces` counts all that lies in it, `replace` changes an object that it has."""

    storage: Storage
    traces: Callable[[], int]
    replace: Callable[[str, bytes], object]


def local(root: Path) -> Store:
    """A folder."""
    return Store(
        open_storage(Settings(storage_url=f"file:{root}")),
        lambda: sum(path.is_file() for path in root.rglob("*")),
        lambda key, content: (root / key[:2] / key).write_bytes(content),
    )


def database(opened: Database, url: str) -> Store:
    """Tables of a database."""

    def traces() -> int:
        with opened.reading() as db:
            counts = [db.scalar(select(func.count()).select_from(t)) for t in (StoredObject, StoredChunk)]
        return sum(count or 0 for count in counts)

    def replace(key: str, content: bytes) -> None:
        with opened.writing() as db:
            db.execute(delete(StoredChunk).where(StoredChunk.key == key, StoredChunk.start > 0))
            db.execute(update(StoredChunk).where(StoredChunk.key == key).values(data=content))

    settings = Settings(database_url=url, storage_url="database:")
    return Store(open_storage(settings), traces, replace)


def s3(url: str) -> Store:
    """A bucket."""
    bucket = url.split("/")[2]

    def traces() -> int:
        client = _client()
        objects = client.list_objects_v2(Bucket=bucket).get("Contents", [])
        return len(objects) + len(client.list_multipart_uploads(Bucket=bucket).get("Uploads", []))

    def replace(key: str, content: bytes) -> None:
        _client().put_object(Bucket=bucket, Key=f"{PREFIX}/{key}", Body=content)

    return Store(open_storage(Settings(storage_url=url)), traces, replace)


def environment(server: str) -> dict[str, str]:
    """How programs are told where an S3 server is."""
    return {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }


def new_bucket() -> str:
    """The storage URL of a bucket that is empty."""
    name = f"test-{secrets.token_hex(8)}"
    place = {"LocationConstraint": "eu-central-1"}
    _client().create_bucket(Bucket=name, CreateBucketConfiguration=place)  # type: ignore[arg-type]
    return f"s3://{name}/{PREFIX}"


@cache
def _client() -> "S3Client":
    made: S3Client = boto3.client("s3")
    return made
