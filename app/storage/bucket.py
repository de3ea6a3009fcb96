"""Requests to a bucket of any S3-compatible store. Where it is and who may use it: the AWS_* environment."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from app.storage.base import StoreUnavailable

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import CompletedPartTypeDef

ATTEMPTS = 5
LINK_S = 300
OURS = re.compile(r"[0-9a-f]{32}(?:\.(?P<start>\d{20}))?")
MISSING = {"404", "NoSuchKey", "NoSuchUpload", "NotFound"}
CHANGED = {"BadDigest", "XAmzContentSHA256Mismatch"}  # what the store got is not what was signed
T = TypeVar("T")


@dataclass(frozen=True)
class Extent:
    """An object of the bucket that holds bytes from `start` on."""

    name: str
    start: int
    size: int
    written: datetime


@dataclass(frozen=True)
class Bucket:
    """What is asked of a bucket; names are below the prefix, errors are those of files."""

    client: "S3Client"
    bucket: str
    prefix: str

    @classmethod
    def at(cls, url: str) -> "Bucket":
        """What `s3://bucket/prefix` names."""
        place = urlsplit(url)
        prefix = place.path.strip("/")
        return cls(_client(), place.netloc, f"{prefix}/" if prefix else "")

    def put(self, name: str, content: bytes) -> None:
        """An object of one piece, whole or not at all."""
        key = self.prefix + name
        with _as_file(name):
            _sent(lambda: self.client.put_object(Bucket=self.bucket, Key=key, Body=content))

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Bytes of an object; a connection that breaks on the way is made anew."""
        span = f"bytes={offset}-{offset + size - 1}"
        for attempt in range(1, ATTEMPTS + 1):
            with _as_file(name):
                answer = self.client.get_object(Bucket=self.bucket, Key=self.prefix + name, Range=span)
                try:
                    return answer["Body"].read()
                except BotoCoreError:
                    if attempt == ATTEMPTS:
                        raise
        raise AssertionError

    def extents(self, beginning: str) -> list[Extent]:
        """All objects of ours whose names begin so, in their order; others in the bucket are left alone."""
        pages = self.client.get_paginator("list_objects_v2")
        with _as_file(beginning):
            return [
                Extent(ours[0], int(ours["start"] or 0), found["Size"], found["LastModified"])
                for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + beginning)
                for found in page.get("Contents", ())
                if (ours := OURS.fullmatch(found["Key"].removeprefix(self.prefix)))
            ]

    def delete(self, name: str) -> None:
        """Remove an object; one that is gone already is no error."""
        with _as_file(name):
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + name)

    def link(self, name: str, disposition: str, media_type: str) -> str:
        """A signed URL of an object, for a few minutes."""
        asked = {
            "Bucket": self.bucket,
            "Key": self.prefix + name,
            "ResponseContentDisposition": disposition,
            "ResponseContentType": media_type,
            "ResponseCacheControl": "private, no-cache",
        }
        with _as_file(name):
            return self.client.generate_presigned_url("get_object", Params=asked, ExpiresIn=LINK_S)

    def end_uploads(self, before: datetime) -> None:
        """End multipart uploads that were begun before, and to which nobody has sent anything since."""
        pages = self.client.get_paginator("list_multipart_uploads")
        with _as_file(self.prefix):
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix):
                for upload in page.get("Uploads", ()):
                    name, upload_id = upload["Key"].removeprefix(self.prefix), upload["UploadId"]
                    if upload["Initiated"] < before and not self._was_sent_to(name, upload_id, before):
                        self.end_upload(name, upload_id)

    def _was_sent_to(self, name: str, upload_id: str, since: datetime) -> bool:
        pages = self.client.get_paginator("list_parts")
        found = pages.paginate(Bucket=self.bucket, Key=self.prefix + name, UploadId=upload_id)
        return any(part["LastModified"] >= since for page in found for part in page.get("Parts", ()))

    def begin_upload(self, name: str) -> str:
        """The id of a multipart upload, which nobody sees before it is complete."""
        with _as_file(name):
            begun = self.client.create_multipart_upload(Bucket=self.bucket, Key=self.prefix + name)
        return begun["UploadId"]

    def send(self, name: str, upload_id: str, number: int, piece: bytes) -> str:
        """Send a piece of a multipart upload; the tag that completing it asks for."""
        key = self.prefix + name
        with _as_file(name):
            return _sent(
                lambda: self.client.upload_part(
                    Bucket=self.bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=piece
                )
            )["ETag"]

    def complete(self, name: str, upload_id: str, tags: Sequence[str]) -> None:
        """Let the object be seen that a multipart upload has sent."""
        parts: list[CompletedPartTypeDef] = [
            {"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)
        ]
        with _as_file(name):
            self.client.complete_multipart_upload(
                Bucket=self.bucket,
                Key=self.prefix + name,
                UploadId=upload_id,
                MultipartUpload={"Parts": parts},
            )

    def end_upload(self, name: str, upload_id: str) -> None:
        """Remove what was sent of a multipart upload; one that is gone already is no error."""
        with suppress(FileNotFoundError), _as_file(name):
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=self.prefix + name, UploadId=upload_id)


def _client() -> "S3Client":
    """Signs the SHA-256 of every body, which the store checks: no store has to know newer checksums."""
    made: S3Client = boto3.client(
        "s3",
        config=Config(
            signature_version="s3v4",
            connect_timeout=5,
            read_timeout=30,
            max_pool_connections=50,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"payload_signing_enabled": True},
        ),
    )
    return made


def _sent(send: Callable[[], T]) -> T:
    """Send bytes, again when they changed on the way; when a connection breaks, boto3 does so by itself."""
    for _ in range(1, ATTEMPTS):
        try:
            return send()
        except ClientError as error:
            if _code(error) not in CHANGED:
                raise
    return send()


@contextmanager
def _as_file(name: str) -> Iterator[None]:
    """What the store answers, as the errors of files.

    Raises:
        FileNotFoundError: There is no such object.
        StoreUnavailable: Anything else; the caller tries again later.
    """
    try:
        yield
    except ClientError as error:
        if _code(error) in MISSING:
            raise FileNotFoundError(name) from error
        raise StoreUnavailable(f"the object store refused {name}: {error}") from error
    except BotoCoreError as error:
        raise StoreUnavailable(f"the object store does not answer for {name}: {error}") from error


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")
