"""The HTTP requests that reach gradio: those that the page needs, and none of the others that gradio answers."""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Annotated
from urllib.parse import urlsplit

from gradio.block_function import BlockFunction
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY = 100_000  # bytes of a request, at most
GRACE = 5  # seconds that a client may take to open the stream of its answers, or to receive one of them
GET_PATHS = re.compile(r"/|/config|/theme\.css|/favicon\.ico|/(assets|static)/.+|/gradio_api/info")
STREAM_PATHS = re.compile(r"/gradio_api/(queue/data|call/\w+/(?P<event>\w+))")


class Call(BaseModel):
    """What gradio needs of a request's body for the page. The rest is dropped."""

    model_config = ConfigDict(strict=True)
    data: list[bool | int | float | str | Annotated[list[str], Field(max_length=100)] | None] = Field(max_length=20)
    fn_index: int | None = None
    session_hash: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]{1,64}$")


class PageRequests:
    """ASGI middleware that passes on the requests that the page needs, with a checked body, and refuses all others.

    Gradio itself would also store uploads, serve files, print a request that it cannot process, and keep in memory
    every answer that nobody fetches. To avoid that, an answer asks ``request.state.is_read(session)`` first.

    Args:
        app: the application that gets the requests.
        host: the address at which the page is served.
        functions: those that the page calls, by gradio's numbers.
    """

    def __init__(self, app: ASGIApp, host: str, functions: Mapping[int, BlockFunction]) -> None:
        self.app = app
        self.functions = functions
        self.readers: Counter[str] = Counter()  # of a session: its streams whose client is receiving
        self.local = host == "localhost" or host.startswith("127.")
        self.names = {host.lower(), "localhost", "127.0.0.1"}
        if not self.local:
            self.names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request, path = Request(scope, receive), scope["path"]
        try:
            self._check_host(request.headers.get("host", ""))
            if request.method == "POST":
                body = self._checked(path, await _read(request))
                request.state.is_read = partial(self.is_read, posted=time.monotonic())
                await self.app(scope, _replay(body, receive), send)
            elif request.method == "GET" and (stream := STREAM_PATHS.fullmatch(path)):
                session = stream["event"] or request.query_params.get("session_hash", "")
                await self._stream(session, scope, receive, send)
            elif request.method == "GET" and GET_PATHS.fullmatch(path):
                await self.app(scope, receive, send)
            else:
                raise HTTPException(404)
        except HTTPException as error:
            await JSONResponse({"detail": error.detail}, error.status_code)(scope, receive, send)
        except ClientDisconnect:
            pass

    def is_read(self, session: str, posted: float) -> bool:
        """Waits until the client of a request reads its answers; False if it still does not after ``GRACE``."""
        until = max(posted + GRACE, time.monotonic() + 0.3)  # 0.3: it may be receiving another answer just now
        while self.readers[session] < 1:
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
        return True

    async def _stream(self, session: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answers of a session; one that a program asks for without a session is its own."""

        async def observed_send(message: Message) -> None:
            self.readers[session] -= 1
            try:
                await send(message)  # waits while the client does not receive
            finally:
                self.readers[session] += 1

        self.readers[session] += 1
        try:
            await self.app(scope, receive, observed_send)
        except RuntimeError as error:
            if not isinstance(error.__cause__, HTTPException):  # gradio raises it after it answered "not found"
                raise
            await send({"type": "http.response.body"})
        finally:
            self.readers[session] -= 1
            self.readers += Counter()  # drops those at zero

    def _check_host(self, header: str) -> None:
        """Refuses a host name that is not this machine's.

        With DNS rebinding, another site makes its own name point here, so that its scripts can use this page. It
        cannot do that with an IP address.
        """
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            name = ""
        if name not in self.names and (self.local or not _is_ip_address(name)):
            raise HTTPException(
                403, f"The page is not served as {name!r:.80}. Open it at the address that condgen printed."
            )

    def _checked(self, path: str, body: bytes) -> bytes:
        """The body of a call of the page, in gradio's form; raises HTTPException if it is no such call."""
        route = path.removeprefix("/gradio_api/")
        try:
            call = Call.model_validate_json(body)
        except ValidationError as error:
            raise HTTPException(400, "This is not a call of the page.") from error
        if route in ("queue/join", "run/predict"):
            function = self.functions.get(-1 if call.fn_index is None else call.fn_index)
            fields = {"data", "fn_index", "session_hash"}
        else:
            function = next((known for known in self.functions.values() if route == f"call/{known.api_name}"), None)
            fields = {"data"}
        if function is None or function.queue is (route == "run/predict"):
            raise HTTPException(404)
        if len(call.data) != len(function.inputs):
            raise HTTPException(400, f"data has {len(call.data)} values, but needs {len(function.inputs)}.")
        if "session_hash" in fields and call.session_hash is None:
            raise HTTPException(400, "session_hash is missing.")
        return call.model_dump_json(include=fields).encode()


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY:
            raise HTTPException(413, f"The request has more than {BODY:,} bytes.")
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Receives a body that was already read, then what follows it."""
    unread = [body]

    async def replayed() -> Message:
        return {"type": "http.request", "body": unread.pop()} if unread else await receive()

    return replayed


def _is_ip_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
