"""Requests that are too large, too slow or for another host are refused before they are read."""

import asyncio
import json
import time
from collections.abc import Collection
from typing import Any

LOCAL = ("127.0.0.1", "localhost", "[::1]")
"""What browsers on this machine call it. A page elsewhere can give its own name this machine's address."""


class TooLargeError(Exception):
    """A request has more bytes than the limit."""


class BodyLimit:
    """ASGI middleware: 413 to a body of more than `limit` bytes, announced or not, 408 to one slower than `seconds`."""

    def __init__(self, app: Any, limit: int, seconds: float = 30.0):
        self.app = app
        self.limit = limit
        self.seconds = seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > self.limit:
            await refuse(send, 413, self._large)
            return
        seen, started, ended, due = 0, False, False, time.monotonic() + self.seconds

        async def counted() -> Any:
            nonlocal seen, ended
            # behind the body comes only word of a client that hangs up
            message = await receive() if ended else await asyncio.wait_for(receive(), due - time.monotonic())
            ended = not message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > self.limit:
                raise TooLargeError
            return message

        async def watched(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, counted, watched)
        except TooLargeError:
            if not started:
                await refuse(send, 413, self._large)
        except TimeoutError:
            if not started:
                await refuse(send, 408, f"The request took longer than {self.seconds:g} seconds to arrive.")

    @property
    def _large(self) -> str:
        return f"The request is larger than {self.limit:,} bytes."


class KnownHosts:
    """ASGI middleware that answers 400 to a request whose Host header has another name than these."""

    def __init__(self, app: Any, names: Collection[str]):
        self.app = app
        self.names = names

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            if name not in self.names:
                await refuse(send, 400, f"This service answers at {', '.join(self.names)} only.")
                return
        await self.app(scope, receive, send)


async def refuse(send: Any, status: int, detail: str) -> None:
    """Answers with a status and one sentence, and closes the connection."""
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": detail}).encode()})
