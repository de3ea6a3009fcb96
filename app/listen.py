"""Serves the API, with an end to every wait for a client: `python -m app.listen [--processes N]`.

uvicorn bounds how long a connection rests between two requests. It does not bound how long the head of a
request may take, nor what becomes of a body that nobody reads and of an answer that nobody takes. Bodies that
are read and streams are bounded in `app.api`.
"""

import argparse
import asyncio
import os
import resource
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from threading import Thread

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from app import log, tracing
from app.start import DRAIN_SECONDS

REQUESTS = 1024  # under way at once; more are answered 503
WAITING = 512  # connections without a request: above this, whoever has waited longest makes room
FILES = 4096  # what these connections, their files and the database take at most
HEAD_SECONDS = 8.0
UNWANTED = 64 * 1024  # bytes of a body that are read after its answer
TAKEN_SECONDS = 60.0
IDLE_SECONDS = 15
STUCK_SECONDS = 60  # a process that does not react for so long is replaced


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m app.listen", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--uds", help="a Unix socket instead")
    parser.add_argument("--processes", type=int, default=1, help="that share the address")
    where = parser.parse_args()
    _allow_files()
    log.configure()
    with _counting_together(where.processes):
        uvicorn.run(
            "app.listen:application",
            factory=True,
            host=where.host,
            port=where.port,
            uds=where.uds,
            http="app.listen:BoundedProtocol",
            ws="none",
            workers=where.processes,
            server_header=False,
            access_log=False,
            log_config=None,
            log_level="warning",
            limit_concurrency=REQUESTS + WAITING,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            timeout_worker_healthcheck=STUCK_SECONDS,
        )


def application() -> FastAPI:
    """The application of one process, which ends with the process that started it."""
    log.configure()
    tracing.configure("api")
    parent = parent_process()
    if parent:
        Thread(target=_follow, args=[parent], daemon=True).start()
    from app.main import create_app  # noqa: PLC0415 - how requests are counted is told before it is imported

    return create_app()


def _follow(parent: BaseProcess) -> None:
    """Without its parent nobody would stop this process, and it would hold the address."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _counting_together(processes: int) -> Iterator[None]:
    """Several processes count their requests in files of one folder, so that each can tell the sum."""
    if processes == 1:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="fewbits-counts-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # prometheus_client reads it when it is imported
        yield


def _send_at_once(connection: socket.socket) -> None:
    """Else an answer's body waits for the client to acknowledge its head: 40 ms.

    asyncio does so for sockets it has bound itself, and several processes share one that uvicorn has bound.
    """
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _allow_files() -> None:
    """A shell allows 1024 files or fewer, which is less than connections there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


class BoundedProtocol(H11Protocol):
    """A connection that waits for a request does so for a bounded time, among a bounded number."""

    waiting_since: float | None = None
    _head_timer: asyncio.TimerHandle | None = None
    _answer_timer: asyncio.TimerHandle | None = None
    _drained = 0
    _passed_over = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The head of a request has to come soon."""
        super().connection_made(transport)  # type: ignore[arg-type]  # as uvicorn has it
        _send_at_once(transport.get_extra_info("socket"))
        self._wait_for_head()
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_waiting()
        if self._answer_timer:
            self._answer_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """What comes begins a request, or goes on with one; nothing makes the time for its head longer."""
        super().data_received(data)
        if self._is_serving():
            self._stop_waiting()
            self._passed_over = 0
        elif not self.transport.is_closing():
            self._pass_over(len(data))

    def shutdown(self) -> None:
        """The server stops: who waits for a job is answered now, while there is time to."""
        self.app_state["watch"].stop()
        super().shutdown()

    def on_response_complete(self) -> None:
        """The connection may serve again."""
        super().on_response_complete()
        self._watch_answer()
        if not self._is_serving() and not self.transport.is_closing():
            self.waiting_since = self.loop.time()

    def pause_writing(self) -> None:
        """More was answered than is taken."""
        super().pause_writing()
        self._watch_answer()

    def resume_writing(self) -> None:
        """What was answered was taken."""
        self._drained += 1
        super().resume_writing()

    def let_go(self) -> None:
        """Close a connection that waits."""
        self._stop_waiting()
        self.timeout_keep_alive_handler()

    def _is_serving(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _pass_over(self, size: int) -> None:
        """The beginning of a head, or the rest of a body that was answered already."""
        self._passed_over += size
        if self.conn.their_state is h11.SEND_BODY and self._passed_over > UNWANTED:
            self.let_go()
        elif self._head_timer is None:
            self._wait_for_head()

    def _wait_for_head(self) -> None:
        self.waiting_since = self.loop.time()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.let_go)

    def _stop_waiting(self) -> None:
        self.waiting_since = None
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def _make_room(self) -> None:
        """However many connections say nothing, one more client is listened to."""
        every = (c for c in self.connections if isinstance(c, BoundedProtocol))
        waiting = {c: c.waiting_since for c in every if c.waiting_since is not None}
        if len(waiting) > WAITING:
            min(waiting, key=waiting.__getitem__).let_go()

    def _watch_answer(self) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread and self._answer_timer is None:
            self._answer_timer = self.loop.call_later(
                TAKEN_SECONDS, self._check_answer, self._drained, unread
            )

    def _check_answer(self, drained: int, unread: int) -> None:
        """An answer of which nothing was taken for a minute goes, with its connection."""
        self._answer_timer = None
        if drained == self._drained and self.transport.get_write_buffer_size() >= unread:
            self.transport.abort()
        else:
            self._watch_answer()


if __name__ == "__main__":
    main()
