"""Request bodies as streams."""

import asyncio
from collections.abc import AsyncIterator, Callable

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

BATCH_BYTES = 1024 * 1024
IDLE_SECONDS = 60
SMALL_SECONDS = 60


async def pump(request: Request, write: Callable[[bytes], None]) -> None:
    """Hand the body on in pieces worth a thread; what came before an interruption is handed on too.

    Raises:
        ClientDisconnect: The body ended early.
        HTTPException: 408, nothing came for a minute.
    """
    batch, stream = bytearray(), aiter(request.stream())
    try:
        while chunk := await _next(stream):
            batch += chunk
            if len(batch) >= BATCH_BYTES:
                full, batch = batch, bytearray()
                await run_in_threadpool(write, bytes(full))
    finally:
        if batch:
            await run_in_threadpool(write, bytes(batch))


async def _next(stream: AsyncIterator[bytes]) -> bytes:
    try:
        async with asyncio.timeout(IDLE_SECONDS):
            return await anext(stream)
    except TimeoutError as error:
        detail = (
            f"Nothing of the body came for {IDLE_SECONDS} s; send it again, or go on with a resumable upload."
        )
        raise HTTPException(408, detail, {"Connection": "close"}) from error


def soon(receive: Receive) -> Receive:
    """A body that is read into memory is small: all of it comes within a minute.

    Raises:
        HTTPException: 408, it does not.
    """
    deadline = asyncio.get_running_loop().time() + SMALL_SECONDS
    ended = False

    async def receiving() -> Message:
        nonlocal ended
        if ended:
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError as error:
            detail = f"The body did not come within {SMALL_SECONDS} s; send it again."
            raise HTTPException(408, detail, {"Connection": "close"}) from error
        ended = not message.get("more_body", False)
        return message

    return receiving
