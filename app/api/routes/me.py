"""Who a key is, and the cookie that lets a browser read with it."""

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from app.api.deps import ReadDb, Service, Who, WriteDb
from app.api.idempotency import Once, OncePerKey
from app.api.middleware import COOKIE
from app.api.refusals import refuses
from app.api.schemas.keys import CallerRead, SessionRead
from app.api.schemas.values import moment, moment_or_none
from app.db.keys import ApiKey
from app.db.queries import keys as stored
from app.services import browser_sessions
from app.services.browser_sessions import LIFE_S, Opened

router = APIRouter(route_class=OncePerKey)


@router.get("/me")
def me(caller: Who, db: ReadDb) -> CallerRead:
    """Which project and scopes this key has, and until when."""
    key = db.get_one(ApiKey, caller.key_id)
    return CallerRead(
        key=key.id,
        name=key.name,
        project=key.project_id,
        project_name=key.project.name,
        scopes=sorted(caller.scopes),
        expires_at=moment_or_none(key.expires_at),
    )


@router.post("/session", status_code=201, responses=refuses("already_created"))
async def open_session(
    request: Request, response: Response, caller: Who, service: Service, once: Once
) -> SessionRead:
    """Turn the key into a cookie for this browser: HttpOnly, SameSite=Strict, good for GET and HEAD only.

    It serves where a browser cannot send the key: `EventSource`, links, downloads. It ends with its key.
    """
    made: list[Opened] = []

    def make(db: Session) -> str:
        made.append(browser_sessions.open_for(db, caller))
        return made[0].session.id

    await once.write(make, secret=True)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, made[0].text, max_age=LIFE_S, httponly=True, samesite="strict", secure=secure)
    return await service.read(lambda _db: SessionRead(expires_at=moment(made[0].session.expires_at)))


@router.delete("/session", status_code=204)
def close_session(response: Response, caller: Who, db: WriteDb) -> None:
    """End every session that this key opened. Send the key: the cookie changes nothing."""
    stored.close_browser_sessions(db, caller.key_id)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
