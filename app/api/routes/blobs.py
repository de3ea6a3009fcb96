"""Raw bytes by their SHA-256: is it here, and streaming it in one request."""

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api.body import pump
from app.api.deps import Service, Who, WriteDb
from app.api.refusals import refuses
from app.api.schemas.uploads import BlobRead
from app.api.schemas.values import Sha256
from app.domain.errors import DigestMismatch, DomainError
from app.services import blobs, quotas
from app.storage import Received, Storage

router = APIRouter(prefix="/blobs")
BODY = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}


@router.head("/{sha256}", response_class=Response, responses=refuses("not_found"))
def has_blob(sha256: Sha256, caller: Who, db: WriteDb, service: Service) -> Response:
    """Ask whether this project has sent these bytes already; they stay for another day then.

    They go before with the last model, dataset or job of this project that has them: when somebody deletes
    it, or when its inspection rejects it for good.
    """
    found = blobs.renewed(db, caller.project_id, sha256, service.settings.blob_grace_s)
    if found is None:
        return Response(status_code=404)
    return Response(headers={"ETag": f'"{sha256}"', "Content-Length": str(found.size)})


@router.put(
    "/{sha256}",
    status_code=201,
    responses={
        200: {"model": BlobRead, "description": "They were here already"},
        **refuses("digest_mismatch", "empty_file", "quota_exceeded", "request_timeout", "storage_full"),
    },
    openapi_extra={"requestBody": {"required": False, **BODY}},
)
async def put_blob(
    sha256: Sha256, request: Request, response: Response, caller: Who, service: Service
) -> BlobRead:
    """Stream the raw bytes in one request; with `Expect: 100-continue` only what is not here yet.

    They stay for a day, or as long as a model, dataset or job has them. They go before with the last one of
    this project that has them: when somebody deletes it, or when its inspection rejects it for good.

    `curl -H "Authorization: Bearer $KEY" -T FILE $URL/v1/blobs/$(sha256sum FILE | cut -c1-64)`
    """
    grace = service.settings.blob_grace_s
    here = await service.write(lambda db: blobs.renewed(db, caller.project_id, sha256, grace))
    if here:
        if request.headers.get("expect", "").lower() != "100-continue":
            await pump(request, lambda _chunk: None)  # a client that sends does not listen before its end
        response.status_code = 200
        return BlobRead(sha256=sha256, size=here.size)
    coming = int(request.headers.get("content-length", 0))
    limits = service.settings.quotas
    await service.read(lambda db: quotas.check_coming(db, caller.project_id, limits, coming, sha256))
    received = await _receive(request, service.storage, sha256)

    def record(db: Session) -> BlobRead:
        with quotas.storing(db, caller.project_id, service.settings.quotas):
            blob = blobs.keep(db, service.storage, caller.project_id, received, grace)
        return BlobRead(sha256=blob.sha256, size=blob.size)

    try:
        return await service.write(record)
    except DomainError:  # after any other error the commit may have happened: an orphan does less harm
        await run_in_threadpool(service.storage.delete, received.key)
        raise


async def _receive(request: Request, storage: Storage, sha256: str) -> Received:
    """Stream the body into the store.

    Raises:
        DigestMismatch: It hashes to something else; nothing is kept.
    """
    with storage.create() as writer:
        await pump(request, writer.write)
        received = await run_in_threadpool(writer.finish)
    if received.sha256 != sha256:
        await run_in_threadpool(storage.delete, received.key)
        message = f"The {received.size} received bytes hash to {received.sha256}, not to {sha256}."
        raise DigestMismatch(message)
    return received
