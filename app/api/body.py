"""Request bodies as streams."""

from collections.abc import Callable

from fastapi import Request
from starlette.concurrency import run_in_threadpool

BATCH_BYTES = 1024 * 1024


async def pump(request: Request, write: Callable[[bytes], None]) -> None:
    """Hand the body on in pieces worth a thread."""
    batch = bytearray()
    async for chunk in request.stream():
        batch += chunk
        if len(batch) >= BATCH_BYTES:
            await run_in_threadpool(write, bytes(batch))
            batch.clear()
    await run_in_threadpool(write, bytes(batch))
