"""ASGI middleware that only lets the page's own HTTP requests through to Gradio."""

import ipaddress
import re
import socket
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 100_000  # in bytes
GET_PATHS = re.compile(r"/|/config|/theme\.css|/favicon\.ico|/(assets|static)/.+|/gradio_api/info")
CALL_PATH = "/gradio_api/run/predict"


class Call(BaseModel):
    """The part of a request body that Gradio actually needs. All other fields are dropped."""

    model_config = ConfigDict(strict=True)
    data: list[bool | int | float | str | Annotated[list[str], Field(max_length=100)] | None] = Field(max_length=20)
    fn_index: int
    session_hash: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")


class PageRequests:
    """Validates incoming requests, and rejects everything that the page itself would not send.

    On its own, Gradio would also accept uploads, serve files, and print a traceback for every malformed request.

    Args:
        app: The wrapped application.
        host: The address the page is served at.
        inputs: The number of inputs expected by each function of the page, keyed by Gradio's function index.
    """

    def __init__(self, app: ASGIApp, host: str, inputs: dict[int, int]) -> None:
        self.app, self.inputs = app, inputs
        self.is_local = host == "localhost" or host.startswith("127.")
        self.names = {host.lower(), "localhost", "127.0.0.1"}
        if not self.is_local:
            self.names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            self._check_host(request.headers.get("host", ""))
            if request.method == "POST" and scope["path"] == CALL_PATH:
                receive = _replay(await self._checked_body(request), receive)
            elif request.method != "GET" or not GET_PATHS.fullmatch(scope["path"]):
                raise HTTPException(404)
            await self.app(scope, receive, send)
        except HTTPException as error:
            await JSONResponse({"detail": error.detail}, error.status_code)(scope, receive, send)
        except ClientDisconnect:
            pass

    def _check_host(self, header: str) -> None:
        """Raises an HTTPException unless the Host header names this machine.

        This protects against DNS rebinding, where a malicious website points its own domain to this machine so that its
        scripts can access the page. IP addresses can't be rebound, so we allow all of them if the page is served to
        other machines. Starlette's TrustedHostMiddleware has no option for that.
        """
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            name = ""
        if name not in self.names and (self.is_local or not _is_ip_address(name)):
            raise HTTPException(403, f"This is not {name!r:.80}: open the page at the address that condgen printed.")

    async def _checked_body(self, request: Request) -> bytes:
        """Reads and validates the request body. Raises an HTTPException if it is too large or malformed."""
        length = request.headers.get("content-length")  # the server never reads more bytes than this
        if length is None or int(length) > MAX_BODY:
            raise HTTPException(413, f"A request needs a Content-Length of at most {MAX_BODY:,} bytes.")
        try:
            call = Call.model_validate_json(await request.body())
        except ValidationError as error:
            raise HTTPException(400, "This is not a call of the page.") from error
        if len(call.data) != self.inputs.get(call.fn_index):
            raise HTTPException(400, f"The page has no function {call.fn_index} of {len(call.data)} values.")
        return call.model_dump_json().encode()


def _replay(body: bytes, receive: Receive) -> Receive:
    """Wraps ``receive`` so that the application can read the already consumed body again."""
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
