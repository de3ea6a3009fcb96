"""API keys of the caller's project."""

from fastapi import APIRouter, Response
from sqlalchemy.orm import Session

from app.api.deps import Paged, ReadDb, Service, Who, WriteDb
from app.api.idempotency import Once, OncePerKey
from app.api.refusals import refuses
from app.api.schemas.keys import KeyChange, KeyCreate, KeyIssued, KeyRead, KeyRotation
from app.api.schemas.values import Page
from app.db import queries
from app.db.keys import ApiKey
from app.db.queries import keys as stored
from app.services import keys
from app.services.keys import Issued

router = APIRouter(prefix="/api-keys", route_class=OncePerKey)


@router.post("", status_code=201, responses=refuses("already_created"))
async def create_key(
    body: KeyCreate, response: Response, caller: Who, service: Service, once: Once
) -> KeyIssued:
    """Make a key of this project. Its text is in this answer and nowhere else.

    To rotate by hand: make a second key, deploy it, then revoke the first with the second.
    """
    made: list[Issued] = []

    def make(db: Session) -> str:
        made.append(keys.grant(db, caller, body.name, body.scopes, body.expires_at))
        return made[0].key.id

    key_id = await once.write(make, secret=True)
    response.headers["Location"] = f"/v1/api-keys/{key_id}"
    return await service.read(lambda _db: KeyIssued.issued(made[0]))


@router.get("")
def list_keys(caller: Who, db: ReadDb, paging: Paged) -> Page[KeyRead]:
    """The project's keys, newest first, the revoked ones too."""
    rows = stored.keys_page(db, caller.project_id, paging.cursor, paging.limit)
    return paging.show(rows, KeyRead.of)


@router.get("/{key_id}")
def read_key(key_id: str, caller: Who, db: ReadDb) -> KeyRead:
    """One key: what it may do, until when, and when it was last used."""
    return KeyRead.of(queries.get_owned(db, ApiKey, caller.project_id, key_id))


@router.patch("/{key_id}", responses=refuses("conflict"))
def change_key(key_id: str, body: KeyChange, caller: Who, db: WriteDb) -> KeyRead:
    """Change a key's name, scopes or expiry. A key changes only its own name."""
    return KeyRead.of(keys.change(db, caller, key_id, body.model_dump(exclude_unset=True)))


@router.delete("/{key_id}", status_code=204, responses=refuses("conflict"))
def revoke_key(key_id: str, caller: Who, db: WriteDb) -> None:
    """Revoke a key: it stops at once, and stays in the list. A key does not revoke itself."""
    keys.revoke(db, caller, key_id)


@router.post("/{key_id}/rotate", status_code=201, responses=refuses("already_created", "conflict"))
async def rotate_key(
    key_id: str,
    response: Response,
    caller: Who,
    service: Service,
    once: Once,
    body: KeyRotation | None = None,
) -> KeyIssued:
    """Make a key like this one; the old one goes on for `overlap_s` (a day), then it expires."""
    overlap_s, made = (body or KeyRotation()).overlap_s, list[Issued]()

    def make(db: Session) -> str:
        made.append(keys.rotate(db, caller, key_id, overlap_s))
        return made[0].key.id

    new_id = await once.write(make, secret=True)
    response.headers["Location"] = f"/v1/api-keys/{new_id}"
    return await service.read(lambda _db: KeyIssued.issued(made[0]))
