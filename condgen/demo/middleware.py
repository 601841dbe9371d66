"""The HTTP requests that reach Gradio: those of the page, and none of the others that Gradio answers."""

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

MAX_BODY = 100_000  # bytes of a request
GET_PATHS = re.compile(r"/|/config|/theme\.css|/favicon\.ico|/(assets|static)/.+|/gradio_api/info")
CALL_PATH = "/gradio_api/run/predict"


class Call(BaseModel):
    """The fields of a request's body that Gradio needs for the page. All others are dropped."""

    model_config = ConfigDict(strict=True)
    data: list[bool | int | float | str | Annotated[list[str], Field(max_length=100)] | None] = Field(max_length=20)
    fn_index: int
    session_hash: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")


class PageRequests:
    """ASGI middleware that passes on the requests of the page, with a checked body, and refuses all others.

    Gradio itself would also store uploads, serve files, and print a traceback for a request that it cannot process.

    Args:
        app: the application that gets the requests.
        host: the address at which the page is served.
        inputs: the number of inputs of each function of the page, by Gradio's number of the function.
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
        """Refuses a host name that is not this machine's.

        With DNS rebinding, another site makes its own name point to this machine, so that its scripts can use this
        page. It cannot do that with an IP address. Starlette's TrustedHostMiddleware cannot allow all IP addresses.
        """
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            name = ""
        if name not in self.names and (self.is_local or not _is_ip_address(name)):
            raise HTTPException(403, f"This is not {name!r:.80}: open the page at the address that condgen printed.")

    async def _checked_body(self, request: Request) -> bytes:
        """Returns the body of a call of the page; raises HTTPException if it is too large or no such call."""
        length = request.headers.get("content-length")  # the server reads no more than that
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
    """Receives a body that was already read, then the following messages."""
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
