"""Resumable uploads (tus 1.0.0): a connection may break at any byte, and the rest is sent later."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from sqlalchemy.orm import Session

from app.api import tus
from app.api.deps import App, ReadDb, Service, Who, WriteDb
from app.api.idempotency import Once, OncePerKey
from app.api.refusals import refuses
from app.api.resumable import take_in
from app.api.schemas.uploads import UploadRead
from app.db import queries
from app.db.models import Upload
from app.domain.errors import EmptyFile, InvalidInput, TooLarge
from app.services import quotas, uploads
from app.services.keys import Caller
from app.services.uploads import Announced, Claim

OFFSET = {"Upload-Offset": {"description": "Bytes that are durable", "schema": {"type": "integer"}}}
DIGEST = {"Fewbits-Sha256": {"description": "Of all bytes, once they are here", "schema": {"type": "string"}}}
CHUNK = {tus.CHUNK_TYPE: {"schema": {"type": "string", "format": "binary"}}}

router = APIRouter(prefix="/uploads", route_class=OncePerKey)


TUS_RESUMABLE = {
    "name": "tus-resumable",
    "in": "header",
    "required": True,
    "description": "The protocol's version",
    "schema": {"type": "string", "const": tus.VERSION},
    "example": tus.VERSION,
}
TUS: dict[str, Any] = {"parameters": [TUS_RESUMABLE]}
PIECE = (
    *("request_timeout", "unsupported_tus_version", "upload_locked", "upload_gone"),
    *("checksum_mismatch", "digest_mismatch", "quota_exceeded", "storage_full"),
)


def _version(request: Request) -> None:
    tus.require_version(request.headers.get("tus-resumable"))


def _declared(
    upload_length: Annotated[
        str, Header(pattern=tus.COUNT, description="Bytes of the whole file", examples=["1048576"])
    ],
    upload_metadata: Annotated[
        str,
        Header(
            max_length=4096,
            description="`filename` and, if known, the expected `sha256` in hex; values in base64",
            examples=["filename bW9kZWwub25ueA=="],
        ),
    ] = "",
) -> Announced:
    length = int(upload_length)
    if length == 0:
        raise EmptyFile
    known = tus.metadata(upload_metadata)
    sha256 = known.get("sha256")
    if sha256 is not None and (len(sha256) != tus.SHA256_HEX or set(sha256) - set("0123456789abcdef")):
        detail = f"sha256 is {sha256[:100]!r}, not 64 hexadecimal digits"
        raise InvalidInput.at("/upload-metadata", detail)
    return Announced(length, known.get("filename", "")[:500] or None, sha256, upload_metadata)


Versioned = Depends(_version)
Declared = Annotated[Announced, Depends(_declared)]
Checksum = Annotated[
    str | None,
    Header(
        pattern=tus.CHECKSUM,
        description="`sha256` and the body's digest in base64; nothing counts when it differs",
    ),
]


@router.options("", status_code=204)
@router.options("/{upload_id}", status_code=204, include_in_schema=False)
def describe_uploads(service: Service) -> Response:
    """What this server speaks: version, extensions, checksum algorithms and the largest size."""
    size = {"Tus-Max-Size": str(service.settings.max_upload_bytes)}
    return Response(status_code=204, headers=tus.CAPABILITIES | size)


@router.post(
    "",
    status_code=201,
    dependencies=[Versioned],
    responses=refuses(*PIECE, "empty_file"),
    openapi_extra=TUS | {"requestBody": {"required": False, "content": CHUNK}},
)
async def create_upload(
    request: Request,
    response: Response,
    caller: Who,
    service: Service,
    announced: Declared,
    once: Once,
    upload_checksum: Checksum = None,
) -> UploadRead:
    """Begin an upload; its first bytes may come along.

    Any tus client does this and the rest: `tus-js-client`, `tuspy`, Uppy. With an expected `sha256` that the
    project has already, the answer says that nothing needs to be sent. A complete upload is a blob: name its
    `sha256` in `POST /v1/models` or `/v1/datasets`. Until then it counts in the quota with its whole length.
    """
    _refuse_large(announced.length, service)
    checksum = tus.checksum(upload_checksum)
    upload_id = await once.write(lambda db: _create(db, service, caller.project_id, announced))
    upload = await service.read(lambda db: db.get_one(Upload, upload_id))
    chunk = request.headers.get("content-type") == tus.CHUNK_TYPE and not once.replayed
    if chunk and upload.state == "receiving":
        claim = await service.write(lambda db: _claim(db, service, caller, request, upload.id, 0))
        upload = await take_in(request, service, claim, checksum)
    response.headers.update(tus.state_of(upload))
    response.headers["Location"] = f"{tus.PATH}/{upload.id}"
    uploads.refuse_failed(upload)
    return UploadRead.of(upload)


@router.get("/{upload_id}")
def read_upload(upload_id: str, caller: Who, db: ReadDb) -> UploadRead:
    """Where an upload stands, and the SHA-256 that it became."""
    return UploadRead.of(queries.get_owned(db, Upload, caller.project_id, upload_id))


@router.head(
    "/{upload_id}",
    response_class=Response,
    responses={
        200: {"description": "Go on at Upload-Offset", "headers": OFFSET | DIGEST},
        **refuses("upload_gone"),
    },
)
def find_offset(upload_id: str, caller: Who, db: ReadDb) -> Response:
    """Ask how many bytes are durable: the offset to go on with."""
    upload = queries.get_owned(db, Upload, caller.project_id, upload_id)
    uploads.refuse_gone(upload)
    headers = tus.state_of(upload) | {"Upload-Length": str(upload.length)}
    if upload.metadata_text:
        headers["Upload-Metadata"] = upload.metadata_text
    return Response(headers=headers)


@router.patch(
    "/{upload_id}",
    status_code=204,
    dependencies=[Versioned],
    responses={
        204: {"description": "All of it is durable", "headers": OFFSET | DIGEST},
        **refuses(*PIECE, "unsupported_media_type", "offset_mismatch"),
    },
    openapi_extra=TUS | {"requestBody": {"required": True, "content": CHUNK}},
)
async def append_to_upload(
    upload_id: str,
    request: Request,
    caller: Who,
    service: Service,
    upload_offset: Annotated[
        str, Header(pattern=tus.COUNT, description="Where the body begins: what HEAD says", examples=["0"])
    ],
    upload_checksum: Checksum = None,
) -> Response:
    """Send more bytes, from Upload-Offset on; the last ones make it a blob.

    One request at a time sends an upload, others get 423; one that falls silent for 15 s can be taken over.
    """
    tus.require_chunk(request.headers.get("content-type"))
    checksum = tus.checksum(upload_checksum)
    claim = await service.write(
        lambda db: _claim(db, service, caller, request, upload_id, int(upload_offset))
    )
    upload = await take_in(request, service, claim, checksum)
    uploads.refuse_failed(upload)
    return Response(status_code=204, headers=tus.state_of(upload))


@router.delete(
    "/{upload_id}",
    status_code=204,
    dependencies=[Versioned],
    responses=refuses("unsupported_tus_version"),
    openapi_extra=TUS,
)
def terminate_upload(upload_id: str, caller: Who, db: WriteDb, service: Service) -> None:
    """End an upload and forget its bytes; a blob that it became stays."""
    uploads.terminate(db, service.storage, caller.project_id, upload_id)


def _create(db: Session, service: App, project_id: str, announced: Announced) -> str:
    quotas.hold(db, project_id, service.settings.quotas)
    upload = uploads.create(db, project_id, announced, service.settings.blob_grace_s)
    if upload.state == "receiving":
        quotas.check_bytes(db, project_id, service.settings.quotas, announced=announced.length)
    return upload.id


def _claim(db: Session, service: App, caller: Caller, request: Request, upload_id: str, offset: int) -> Claim:
    coming = int(request.headers.get("content-length", 0))
    return uploads.claim(db, service.storage, caller.project_id, upload_id, offset, coming)


def _refuse_large(length: int, service: App) -> None:
    limit = service.settings.max_upload_bytes
    if length > limit:
        raise TooLarge(f"Upload-Length is {length}; Tus-Max-Size is {limit}.")
