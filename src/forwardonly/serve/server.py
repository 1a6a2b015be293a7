"""The service at an address, by uvicorn."""

import asyncio
import socket
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""Time in which the head of a request must be there."""


class Impatient(H11Protocol):
    """uvicorn's HTTP, which sends at once, and hangs up where a request's head takes longer than HEAD_SECONDS."""

    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # asyncio does so only for sockets made with a protocol number; an answer's head and body are two writes, of
        # which the second would otherwise wait 40 ms for the client's delayed acknowledgement of the first
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._forget()
        elif self._due is None:
            self._due = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _forget(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None


def serve(app: Any, listening: socket.socket) -> None:
    """Answers at a listening socket until Ctrl-C or SIGTERM, which lets requests that are under way take 5 seconds."""
    config = uvicorn.Config(app, http=Impatient, log_level="warning", limit_concurrency=64, timeout_graceful_shutdown=5)
    uvicorn.Server(config).run(sockets=[listening])
