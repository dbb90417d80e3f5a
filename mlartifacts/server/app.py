"""The routes of MLflow's artifact API, and what each does."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from mlartifacts.environment import Environment
from mlartifacts.errors import ArtifactError, InvalidConfig, MissingDriver
from mlartifacts.proxy import wire
from mlartifacts.server.artifacts import Artifacts
from mlartifacts.server.conditions import NotThere, Wanted, wanted
from mlartifacts.server.errors import BadRequest
from mlartifacts.signing import Signer

try:
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
    from starlette.routing import Route
    from starlette.types import Receive, Scope, Send

    from mlartifacts.server.answers import Refusal, refusal
    from mlartifacts.server.bodies import Sending, at_end, on_thread, receive
    from mlartifacts.server.guard import Guard, allowed_hosts
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in {"anyio", "starlette"}:
        raise
    raise MissingDriver("server", "starlette") from error

__all__ = ["create_app"]

_LIFETIME = "MLFLOW_PRESIGNED_DOWNLOAD_URL_TTL_SECONDS"
# MLflow's, and S3's longest.
_USUAL, _LONGEST = 300, 7 * 24 * 3600
# Bytes of a request for an upload in parts, and of one that names ten thousand with their URLs.
_LONGEST_BODY, _LONGEST_LIST = 2**16, 2**25
_VALUES_OF_A_PART = 8
_CONDITIONS = frozenset({"if-match", "if-none-match", "if-unmodified-since"})
_EMPTY = frozenset({304, 412})


def create_app(destination: str, **options: Any) -> Starlette:
    """Make an ASGI application that serves artifacts as MLflow's server does.

    Clients name it as ``mlflow-artifacts://host:port/path``, or it answers the routes below
    ``/api/2.0/mlflow-artifacts`` beside a tracking server. It keeps nothing on its disk: bytes
    pass through memory, about 10 MiB for each request, and ranges are read as ranges. It asks for
    no login: put it behind what does, as MLflow's own.

    Presigned URLs are given where the store is S3, or Azure and its account's key is known, unless
    ``MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD`` and ``MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD`` say
    ``false``; for reading they hold for ``MLFLOW_PRESIGNED_DOWNLOAD_URL_TTL_SECONDS`` (300).

    Requests that name it otherwise than by an address of a private network, ``localhost`` or one
    of ``MLFLOW_SERVER_ALLOWED_HOSTS`` (names separated by commas; ``*`` for all) are refused.

    Parameters
    ----------
    destination : str
        The artifact URI of the root that is served.
    **options
        The driver's options.

    Returns
    -------
    starlette.applications.Starlette

    Raises
    ------
    InvalidURI, UnknownScheme, InvalidConfig
        As :func:`mlartifacts.url_to_fs`.
    MissingDriver
        The store's driver, or ``starlette``, is not installed.
    """
    api = _Api(Artifacts(destination, **options))
    routes = [
        Route("/health", api.health),
        Route(wire.SERVER_INFO, api.info),
        Route(wire.ARTIFACTS, api.list),
        Route(_below(wire.ARTIFACTS), api.download),
        Route(_below(wire.ARTIFACTS), api.upload, methods=["PUT"]),
        Route(_below(wire.ARTIFACTS), api.delete, methods=["DELETE"]),
        Route(_below(wire.PRESIGNED), api.presign),
    ]
    for route, act in (
        (wire.CREATE, api.begin),
        (wire.COMPLETE, api.complete),
        (wire.ABORT, api.abort),
    ):
        routes += [Route(each, act, methods=["POST"]) for each in (route, _below(route))]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, hosts=allowed_hosts())],
        exception_handlers={
            **dict.fromkeys((OSError, ValueError, NotImplementedError, ArtifactError), _failed),
            ClientDisconnect: _gone,
            Exception: _failed,  # of ours: its traceback is in the log, too
        },
    )
    app.router.redirect_slashes = False
    return app


def _below(route: str) -> str:
    return f"{route}/{{name:path}}"


_NO_CONDITIONS = Refusal(501, "NOT_IMPLEMENTED", "Conditions on changes are not supported.")


class _Api:
    """What is done for each request."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts
        self._lifetime = _lifetime()

    async def health(self, request: Request) -> Response:
        return PlainTextResponse("OK")

    async def info(self, request: Request) -> Response:
        can = wire.Capabilities(
            uploads=self._artifacts.writing is not None,
            downloads=self._artifacts.reading is not None,
        )
        return JSONResponse(can.told())

    async def list(self, request: Request) -> Response:
        name = request.query_params.get("path", "").removesuffix("/")

        def listing() -> Response:
            return JSONResponse(wire.Entry.listing(self._artifacts.entries(name)))

        return await on_thread(listing)

    async def download(self, request: Request) -> Response:
        name = _name(request)
        if request.method == "HEAD":
            file = await on_thread(lambda: self._artifacts.file(name))
            # A range is asked for by GET alone.
            asked = wanted({**request.headers, "range": ""}, file)
            return Response(status_code=asked.status, headers=_presented(name, asked))
        opened, file = await on_thread(lambda: self._artifacts.open(name))
        try:
            asked = wanted(request.headers, file)
            sending = Sending(opened, asked.start, asked.end)
            await sending.begin()
            return _Sent(sending, asked.status, _presented(name, asked))
        except NotThere:
            await at_end(opened.close)
            told = {"Content-Range": f"bytes */{file.size}"}
            return Refusal(416, "INVALID_PARAMETER_VALUE", "The file has no such bytes.", told)
        except BaseException:
            await at_end(opened.close)
            raise

    async def upload(self, request: Request) -> Response:
        name, size = _name(request), _size(request)
        conditions = _CONDITIONS & set(request.headers)
        exclusive = conditions == {"if-none-match"} and request.headers["if-none-match"] == "*"
        if conditions and not exclusive:
            return _NO_CONDITIONS
        if "content-range" in request.headers:
            raise BadRequest("a part of a file cannot be written")
        await receive(request.stream(), size, lambda: self._artifacts.create(name, size, exclusive))
        return JSONResponse({})

    async def delete(self, request: Request) -> Response:
        if _CONDITIONS & set(request.headers):
            return _NO_CONDITIONS
        name = _name(request)
        await on_thread(lambda: self._artifacts.delete(name))
        return JSONResponse({})

    # ---- Presigned URLs ------------------------------------------------------------------

    async def presign(self, request: Request) -> Response:
        name = _name(request)
        if (signer := self._artifacts.reading) is None:
            return Refusal(501, "NOT_IMPLEMENTED", "Presigned downloads are not supported.")
        given = await on_thread(lambda: self._artifacts.presigned(signer, name, self._lifetime))
        return JSONResponse(given.told())

    async def begin(self, request: Request) -> Response:
        def act(signer: Signer, path: str, asked: wire.Asked) -> dict[str, Any]:
            return signer.begin(path, asked.num_parts).told()

        return await self._in_parts(request, act)

    async def complete(self, request: Request) -> Response:
        def act(signer: Signer, path: str, asked: wire.Asked) -> dict[str, Any]:
            if not asked.parts:
                raise BadRequest("parts are missing")
            signer.complete(path, _upload(asked), asked.parts)
            return {}

        return await self._in_parts(request, act, _LONGEST_LIST)

    async def abort(self, request: Request) -> Response:
        def act(signer: Signer, path: str, asked: wire.Asked) -> dict[str, Any]:
            signer.abort(path, _upload(asked))
            return {}

        return await self._in_parts(request, act)

    async def _in_parts(
        self,
        request: Request,
        act: Callable[[Signer, str, wire.Asked], dict[str, Any]],
        most: int = _LONGEST_BODY,
    ) -> Response:
        if (signer := self._artifacts.writing) is None:
            return Refusal(501, "NOT_IMPLEMENTED", f"{wire.UNSUPPORTED} by the artifact store.")
        folder = _name(request) if "name" in request.path_params else ""
        body, values = bytearray(), 0
        async for chunk in request.stream():
            body += chunk
            # Before they are parsed, which takes many times as much memory.
            values += sum(map(chunk.count, (b"{", b"[", b",")))
            if len(body) > most or values > _VALUES_OF_A_PART * wire.MOST_PARTS:
                raise BadRequest("the body is too long")

        def done() -> Response:
            asked = _asked(body)
            path = self._artifacts.writable(f"{folder}/{asked.name}" if folder else asked.name)
            return JSONResponse(act(signer, path, asked))

        return await on_thread(done)


class _Sent(StreamingResponse):
    """Sends bytes of a file, and closes it, also where the client has gone before."""

    def __init__(self, sending: Sending, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(sending.pieces(), status, headers)
        self._sending = sending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._sending.close()


def _name(request: Request) -> str:
    """The name that a path ends with; a slash behind that of a directory is none of it."""
    name: str = request.path_params["name"]
    if request.method in {"DELETE", "POST"}:
        name = name.removesuffix("/")
    Artifacts.check(name)
    return name


def _size(request: Request) -> int | None:
    """How many bytes a client says that it sends."""
    if "transfer-encoding" in request.headers:
        return None
    length = request.headers.get("content-length", "")
    if not length.isdecimal() or len(length) > 18:
        raise BadRequest("the request has no Content-Length")
    return int(length)


def _asked(body: bytearray) -> wire.Asked:
    try:
        return wire.Asked.of(json.loads(body))
    except (ValueError, RecursionError) as error:
        raise BadRequest("the body asks for no upload in parts") from error


def _upload(asked: wire.Asked) -> str:
    if not asked.upload_id:
        raise BadRequest("upload_id is missing")
    return asked.upload_id


def _presented(name: str, asked: Wanted) -> dict[str, str]:
    """What a browser is told of a file: to keep it, and not to show it as a page of this server."""
    last = name.rpartition("/")[2]
    kind, packed = mimetypes.guess_type(f"x{last}")  # which is no URL, as "data:,x" would be
    told = {
        "Content-Type": kind if kind and not packed else "application/octet-stream",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(last, safe='')}",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
        **asked.headers,
    }
    # An answer without a body says nothing of its length.
    if asked.status not in _EMPTY:
        told["Content-Length"] = str(asked.end - asked.start)
    return told


async def _failed(request: Request, error: Exception) -> Response:
    return refusal(error)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


def _lifetime() -> int:
    seconds = Environment().integer(_LIFETIME)
    if seconds is not None and not 0 < seconds <= _LONGEST:
        raise InvalidConfig(f"{_LIFETIME}={seconds}: it takes 1 to {_LONGEST} seconds.")
    return seconds or _USUAL
