"""Artifacts behind MLflow's proxy, by its REST API."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import email.utils
import errno
import functools
import io
import os
import re
import shutil
import warnings
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import quote

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.utils import isfilelike, stringify_path

from mlartifacts.environment import Environment
from mlartifacts.errors import of_store
from mlartifacts.filesystems.mlflow_artifacts import STORE, server_of
from mlartifacts.promises import (
    TOO_LARGE,
    AsyncArtifactFileSystem,
    begun,
    synced,
    texts,
    unless_missing,
)
from mlartifacts.proxy import wire
from mlartifacts.reading import checked
from mlartifacts.tracking.connection import TRANSIENT, NotMLflow, Refused, parsed, refused_login
from mlartifacts.tracking.plugins import CONTENT
from mlartifacts.uri import ALIAS, absolute, parse, server_name_of
from mlartifacts.writing import WholeWrite, landing

with STORE.driver():
    import aiohttp
    from fsspec.implementations.http import HTTPFileSystem

    from mlartifacts.filesystems.mlflow_artifacts.bodies import (
        IN_MEMORY,
        PARTS_AT_ONCE,
        Body,
        Spool,
        Stream,
        Window,
    )
    from mlartifacts.proxy.client import STORE as STORE_CODE
    from mlartifacts.proxy.client import Client, OfLoop
    from mlartifacts.stores.http.files import RangedFile

__all__ = ["MlflowArtifactsFileSystem"]

_PIECE = 2**20
# The longest read ahead.
_BLOCK = 16 * 2**20
# Files that are copied at once: each holds a window in memory.
_COPIED_AT_ONCE = 4
# Files that are deleted at once, and those whose directories are listed once for all of them.
_DELETED_AT_ONCE = 16
_DELETED_TOGETHER = 1000
T = TypeVar("T")

# As in URIs, and what UTF-8 has not.
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

_ALIASED = (f"{ALIAS}http", f"{ALIAS}https")
_HTTP = tuple(f"{scheme}://" for scheme in ("http", "https", *_ALIASED))


class MlflowArtifactsFileSystem(AsyncArtifactFileSystem):
    """The artifacts that a server of MLflow's hands on; paths are below its artifact root.

    Where the server gives presigned URLs (S3 behind it), files are read from the store itself, by
    ranges, and large ones are written to it in parts. Elsewhere the server's answers are read;
    one that ignores ranges is noticed. A directory is there as long as there is a file in it.

    Parameters
    ----------
    tracking_uri : str, optional
        The server; ``MLFLOW_TRACKING_URI`` unless given, or named by the URI.
    anon : bool, default False
        Send no login.
    multipart_upload, multipart_download : bool, optional
        Whether presigned URLs are used: ``MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD`` and
        ``MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD``; what the server says of itself unless set.
    multipart_upload_minimum_file_size, multipart_upload_chunk_size : int, optional
        Bytes from which a file is written in parts, and of each part:
        ``MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE`` (500 MiB) and
        ``MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE`` (100 MiB).
    multipart_download_chunk_size : int, optional
        Bytes of each part in which a large file is got: ``MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE``
        (100 MiB).
    """

    store = STORE
    told_size = True

    def _driver_options(self, options: dict[str, Any]) -> dict[str, Any]:
        tracking = options.pop("tracking_uri", None)
        server = server_of(self.root_uri, tracking)
        self.client = Client(server, Environment(), anon=options.pop("anon", False))
        self._upload_parts: bool | None = options.pop("multipart_upload", None)
        self._presigned: bool | None = options.pop("multipart_download", None)
        self._offered: wire.Capabilities | None = None
        # When to send again what passed, where the server was busy: in its words, if it said.
        self._busy: str | None = None
        self._asking: OfLoop[list[asyncio.Task[wire.Capabilities]]] = OfLoop(list)
        self._copying = OfLoop(lambda: asyncio.Semaphore(_COPIED_AT_ONCE))
        self._deleting = OfLoop(lambda: asyncio.Semaphore(_DELETED_AT_ONCE))
        self._upload_from: int = options.pop("multipart_upload_minimum_file_size")
        self._upload_part: int = options.pop("multipart_upload_chunk_size")
        self._download_part: int = options.pop("multipart_download_chunk_size")
        return options

    # ---- Paths -----------------------------------------------------------------------------

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if not isinstance(path, list) and stringify_path(path).startswith(_HTTP):
            path = cls.store.path(parse(stringify_path(path)))
        return super()._strip_protocol(path)

    @classmethod
    def _clean(cls, path: str) -> str:
        return absolute(path).strip("/")

    def unstrip_protocol(self, name: str) -> str:
        """The URI of a path; it never holds a password."""
        root = replace(self.root_uri, password=None)
        path = self._strip_protocol(name)
        return f"{root}/{path if root.scheme in STORE.schemes else quote(path)}"

    def copies_within(self, path: str) -> bool:
        return False

    def chunks(self, path: str) -> tuple[int | None, int | None]:
        """``MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE``; a write makes its own parts."""
        return self._download_part, None

    # ---- Errors ----------------------------------------------------------------------------

    def _translate(self, error: Exception, path: str) -> Exception | None:
        if isinstance(error, Refused):
            number, reason = self._meaning(error)
            meant = OSError(number, reason, path)
            is_of_login = error.status == 401 and error.code != STORE_CODE
            return of_store(meant) if is_of_login else meant
        if isinstance(error, aiohttp.ServerTimeoutError | TimeoutError):
            reason = (
                f"{self.client.url} gives no answer in time (MLFLOW_HTTP_REQUEST_TIMEOUT and"
                " MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT set how long)"
            )
            return TimeoutError(errno.ETIMEDOUT, reason, path)
        if isinstance(error, aiohttp.ClientConnectorError):
            refused = not isinstance(error, aiohttp.ClientSSLError)
            number = errno.ECONNREFUSED if refused else errno.ECONNABORTED
            why = error.os_error.strerror or error.os_error
            return OSError(number, f"no connection to {error.host}:{error.port}: {why}", path)
        if isinstance(error, aiohttp.ClientError):
            return OSError(errno.ECONNABORTED, f"no connection: {error}", path)
        return None

    def _meaning(self, error: Refused) -> tuple[int, str]:
        said = str(error)
        if error.status == 413:
            return errno.EFBIG, TOO_LARGE
        if error.code == STORE_CODE:
            known = {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT}
            return known.get(error.status, errno.EIO), said
        if error.status in {401, 403}:
            hint = refused_login(error.status, self.client.known)
            if self.client.anon:
                hint += f"; {self.client.url} is told it by the option anon=False alone"
            return errno.EACCES, hint
        if error.status == 404 and error.code != "":
            return errno.ENOENT, os.strerror(errno.ENOENT)
        if error.status == 404:
            return errno.EPROTO, f"{self.client.url} has no artifacts to hand on: {said}"
        if wire.IS_DIRECTORY in said:
            return errno.EISDIR, os.strerror(errno.EISDIR)
        if error.status == 501:
            return errno.EOPNOTSUPP, said
        if error.status == 400:
            return errno.EINVAL, f"the server refuses this: {said}"
        return errno.EIO, f"{error.who or self.client.url} says {error.status}: {said}"

    def _route(self, path: str) -> str:
        """The URL path of a file."""
        self._is_carried(path)
        if not path:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return wire.below(wire.ARTIFACTS, path)

    def servers(self) -> frozenset[str]:
        return frozenset({server_name_of(self.client.url)})

    def unfit(self, path: str) -> str | None:
        if _NO_TEXT.search(path):
            return "the name has a control character, or half of one (a lone surrogate)"
        if wire.is_carried(path):
            return None
        reason = "MLflow's server takes this name for another, or refuses it"
        return f"{reason} (it decodes '%41', and knows no '#')"

    def _is_carried(self, path: str) -> None:
        if reason := self.unfit(path):
            raise OSError(errno.EINVAL, reason, path)

    async def _file(self, path: str) -> dict[str, Any]:
        """What is listed of a file; raises where there is none, or a directory."""
        info = await self._info(path)
        if info["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return info

    async def _persist(
        self, act: Callable[[], Any], path: str, again: Callable[[], bool] = lambda: True
    ) -> Any:
        """Do something with a file; where that fails, a look at it may tell why."""

        async def once() -> Any:
            try:
                return await act()
            except Refused as error:
                # The server makes 500 of what its store says, and trying again is no use.
                if error.status == 500 or (error.status == 404 and error.code):
                    await self._file(path)
                raise

        with self._explaining(path):
            return await self.client.persist(once, again)

    # ---- Connections -----------------------------------------------------------------------

    async def set_session(self) -> aiohttp.ClientSession:
        """The connections in this loop; an asynchronous program closes them itself."""
        if self.client.session is None:
            session = self.client.connect()
            if not self.asynchronous:
                weakref.finalize(self, HTTPFileSystem.close_session, self.loop, session)
        return self.client.connect()

    @contextlib.asynccontextmanager
    async def _ask(self, *args: Any, **kwargs: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        await self.set_session()
        async with self.client.ask(*args, **kwargs) as response:
            yield response

    async def _json(self, method: str, route: str, **kwargs: Any) -> dict[str, Any]:
        await self.set_session()
        return await self.client.json(method, route, **kwargs)

    async def _does(self, what: str, told: bool | None) -> bool:
        """Whether presigned URLs are used: as the caller or the environment says, or the server."""
        if told is not None:
            return told
        if self._offered is None:
            asking = self._asking.get()
            if not asking:  # of many readers at once, one asks, and a failure is all of theirs
                task = asyncio.create_task(self._capabilities())
                task.add_done_callback(lambda task: task.cancelled() or task.exception())
                task.add_done_callback(asking.remove)
                asking.append(task)
            self._offered = await asyncio.shield(asking[0])
        return bool(getattr(self._offered, what))

    async def _capabilities(self) -> wire.Capabilities:
        try:
            answer = await self._json("GET", wire.SERVER_INFO, again=False)
        except (Refused, NotMLflow) as error:
            if isinstance(error, Refused) and error.status in TRANSIENT | {401, 403}:
                raise
            answer = {}  # an older server
        return wire.Capabilities.of(answer)

    # ---- Looking ---------------------------------------------------------------------------

    async def _entries(self, path: str) -> list[wire.Entry]:
        self._is_carried(path)
        answer = await self._json("GET", wire.ARTIFACTS, params={"path": path} if path else {})
        return wire.Entry.all_of(answer)

    async def _info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        parent, _, name = path.rpartition("/")
        entries = await self._entries(parent)
        if not path:
            return {"name": "", "size": 0, "type": "directory"}
        # Where a store has a file and a directory of one name, the file is what is read.
        found = sorted((e for e in entries if e.name == name), key=lambda entry: entry.is_dir)
        if not found:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return _described(parent, found[0])

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        path = self._strip_protocol(path)
        entries = await self._entries(path)
        name = path.rpartition("/")[2]
        # The listing of a file is empty, as is one of nothing; some stores list it in itself.
        doubtful = not entries or (
            len(entries) == 1 and entries[0].name == name and not entries[0].is_dir
        )
        found = [_described(path, entry) for entry in entries]
        if path and doubtful:
            info = await self._info(path)
            found = found if info["type"] == "directory" else [info]
        return found if detail else [each["name"] for each in found]

    async def _find(
        self, path: str, *args: Any, detail: bool = False, on_error: Any = None, **kwargs: Any
    ) -> Any:
        """As fsspec's; a link that leads out of the root, which no server lists, is a link."""
        path = self._strip_protocol(path)
        links: dict[str, dict[str, Any]] = {}

        def tell(error: OSError) -> None:
            if wire.OUTSIDE in str(error) and error.filename != path:
                links[error.filename] = {"name": error.filename, "size": 0, "type": "link"}
            else:
                (on_error or unless_missing)(error)

        found = await super()._find(path, *args, detail=True, on_error=tell, **kwargs)
        if links:
            found = dict(sorted({**found, **links}.items()))
        return found if detail else list(found)

    async def _modified(self, path: str) -> datetime.datetime:
        path = self._strip_protocol(path)
        said = ""
        for wanted in ({"Range": "bytes=0-0"}, {}):  # which a file of no bytes has not

            async def once(wanted: dict[str, str] = wanted) -> tuple[int, str]:
                url, headers = await self._place(path)
                async with self._ask("GET", url, headers={**headers, **wanted}) as response:
                    response.close()  # all of it may be on its way
                    return response.status, response.headers.get("Last-Modified", "")

            status, said = await self._persist(once, path)
            if status != 416:
                break
        try:
            return email.utils.parsedate_to_datetime(said)
        except ValueError as error:
            reason = "the server does not say when this was last changed"
            raise OSError(errno.EOPNOTSUPP, reason, path) from error

    def modified(self, path: str) -> datetime.datetime:
        """When a file was last changed, where its server says so."""
        when: datetime.datetime = synced(self.loop, self._modified, path)
        return when

    # ---- Reading ---------------------------------------------------------------------------

    async def _place(self, path: str) -> tuple[str, dict[str, str]]:
        """Where a file's bytes are asked for, and the headers for it."""
        given = await self._presign(path)
        return (self._route(path), {}) if given is None else (given.url, dict(given.headers))

    async def _presign(self, path: str) -> wire.Presigned | None:
        """A file's place in the store, where the server tells it."""
        self._route(path)
        if not await self._does("downloads", self._presigned):
            return None
        try:
            route = wire.below(wire.PRESIGNED, path)
            return wire.Presigned.of(await self._json("GET", route, again=False))
        except Refused as error:
            unknown = error.status == 501 or (error.status == 404 and not error.code)
            if self._presigned is None or not unknown:
                raise
        warnings.warn(
            "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD is set, but the server gives no presigned"
            " URLs: files are read through it.",
            RuntimeWarning,
            stacklevel=2,
        )
        self._presigned = False
        return None

    async def _is_whole(self, path: str, response: aiohttp.ClientResponse, size: int) -> None:
        """Raise where an answer without a length ended before the file did.

        The server ends such an answer alike when it is done and when it failed.
        """
        if response.headers.get("Content-Length") is not None:
            return
        info = await self._file(path)
        if size != info["size"]:
            raise OSError(errno.EIO, f"short read: {size} of {info['size']} bytes", path)

    async def _cat_ranges(self, paths: Any, *args: Any, **kwargs: Any) -> Any:
        # A file's place is asked for once, however many ranges of it there are.
        return await super()._cat_ranges(paths, *args, places=_Places(self), **kwargs)

    async def _cat_file(
        self,
        path: str,
        start: int | None = None,
        end: int | None = None,
        places: _Places | None = None,
        **kwargs: Any,
    ) -> bytes:
        path = self._strip_protocol(path)
        places = places or _Places(self)
        within = await self._within(path, start, end)
        if within is None:
            return b""
        first, last = within[0] or 0, within[1]
        wanted = {"Range": f"bytes={first}-{'' if last is None else last - 1}"}

        async def once() -> bytes:
            ranged = wanted if first or last is not None else {}
            async with places.ask(path, ranged) as response:
                if response.status == 416:
                    return b""  # behind the end, as a slice is
                if response.status == 206:
                    return await response.read()
                return await self._slice(path, response, first, last)

        data: bytes = await self._persist(once, path)
        return data

    async def _ranged(self, path: str) -> bool:
        async def once() -> bool:
            async with _Places(self).ask(path, {"Range": "bytes=0-0"}) as response:
                response.close()  # all of it may be on its way
                return bool(response.status == 206)

        known: bool = await self._persist(once, path)
        return known

    def ranged(self, path: str) -> bool:
        """Whether who holds the bytes knows ranges: not every server of MLflow's does."""
        with self._explaining(path):
            known: bool = synced(self.loop, self._ranged, self._strip_protocol(path))
        return known

    async def _slice(
        self, path: str, response: aiohttp.ClientResponse, first: int, last: int | None
    ) -> bytes:
        """A slice of what is sent whole; nothing else of it is kept, nor waited for."""
        kept, position = bytearray(), 0
        async for piece in response.content.iter_chunked(_PIECE):
            stop = len(piece) if last is None else max(last - position, 0)
            kept += piece[max(first - position, 0) : stop]
            position += len(piece)
            if last is not None and position >= last:
                response.close()
                return bytes(kept)
        await self._is_whole(path, response, position)
        return bytes(kept)

    async def _get_file(
        self, rpath: str, lpath: Any, callback: Any = DEFAULT_CALLBACK, **kwargs: Any
    ) -> None:
        rpath = self._strip_protocol(rpath)
        if isfilelike(lpath):
            await self._download(rpath, lpath, callback)
            return
        try:
            if os.path.isdir(lpath):
                await self._file(rpath)
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), lpath)
            os.makedirs(os.path.dirname(os.path.abspath(lpath)), exist_ok=True)
            with landing(lpath) as temporary, open(temporary, "wb") as file:
                await self._download(rpath, file, callback)
        except IsADirectoryError as error:
            if error.filename != rpath:
                raise
            os.makedirs(lpath, exist_ok=True)  # of a tree that is got

    async def _download(self, path: str, file: Any, callback: Any) -> int:
        """Write a file's bytes into a local one, and say how many."""
        begin = file.tell()

        async def once() -> int:
            if file.tell() != begin:  # not the first try
                file.seek(begin)
                file.truncate()
            given = await self._presign(path)
            if given is not None and given.size is not None and given.size > self._download_part:
                return await self._download_parts(given, given.size, file, callback)
            url, headers = (self._route(path), {}) if given is None else (given.url, given.headers)
            async with self._ask("GET", url, headers=headers) as response:
                callback.set_size(response.content_length)
                async for piece in response.content.iter_chunked(_PIECE):
                    file.write(piece)
                    callback.absolute_update(file.tell() - begin)
                size: int = file.tell() - begin
                await self._is_whole(path, response, size)
                return size

        size: int = await self._persist(once, path)
        return size

    async def _download_parts(
        self, given: wire.Presigned, size: int, file: Any, callback: Any
    ) -> int:
        begin, versions, done = file.tell(), set(), 0
        callback.set_size(size)

        async def get(start: int) -> None:
            stop = min(start + self._download_part, size)
            headers = {**given.headers, "Range": f"bytes={start}-{stop - 1}"}
            async with self._ask("GET", given.url, headers=headers) as response:
                if response.status != 206:
                    raise OSError(errno.EPROTO, "the store knows no ranges")
                versions.add(response.headers.get("ETag"))
                if len(versions) > 1:
                    raise OSError(errno.ESTALE, "the file changed while it was read")
                async for piece in response.content.iter_chunked(_PIECE):
                    file.seek(begin + start)
                    file.write(piece)
                    start += len(piece)
                    nonlocal done
                    done += len(piece)
                    callback.absolute_update(done)

        parts = range(0, size, self._download_part)
        await _at_once([functools.partial(get, start) for start in parts], PARTS_AT_ONCE)
        file.seek(begin + size)
        return size

    def ranges(self, path: str, size: int, modified: float | None) -> Callable[[int, int], bytes]:
        path = self._strip_protocol(path)
        file: _File = self._open(path, size=size)
        file.modified = modified
        explaining = functools.partial(self._explaining, path)
        return checked(file._fetch_range, path, size, explaining)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        if mode != "rb":
            raise ValueError(f"Artifacts behind a proxy cannot be opened with mode {mode!r}.")
        return _File(
            self,
            path,
            kwargs.get("size"),
            block_size=kwargs.get("block_size") or _BLOCK,
            cache_type=kwargs.get("cache_type") or "proportional",
            cache_options=kwargs.get("cache_options"),
        )

    # ---- Writing ---------------------------------------------------------------------------

    def _open_whole(
        self,
        path: str,
        mode: str,
        autocommit: bool = True,
        size: int | None = None,
        **kwargs: Any,
    ) -> WholeWrite:
        if mode not in {"wb", "xb", "ab"}:
            raise ValueError(f"Artifacts behind a proxy cannot be opened with mode {mode!r}.")
        self._route(path)
        if "x" in mode and self.exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        file: Spool | Stream
        if size is None or size <= IN_MEMORY or "a" in mode:
            send = functools.partial(self._send, path, exclusive="x" in mode)
            file = Spool(functools.partial(synced, self.loop, send), autocommit)
        else:
            passing = functools.partial(self._pass, path, exclusive="x" in mode)
            file = Stream(self.loop, passing, size, autocommit)
        explaining = functools.partial(self._explaining, path)
        writer = WholeWrite(file, file.close, file.discard, explaining)
        if "a" in mode:
            with contextlib.suppress(FileNotFoundError), self.open(path, "rb") as before:
                shutil.copyfileobj(before, file, _PIECE)
        return writer

    async def _pipe_file(
        self, path: str, value: Any, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        body = Body(io.BytesIO(value), memoryview(value).nbytes)
        await self._send(self._strip_protocol(path), body, exclusive=mode == "create")

    async def _put_file(
        self,
        lpath: str,
        rpath: str,
        callback: Any = DEFAULT_CALLBACK,
        mode: str = "overwrite",
        **kwargs: Any,
    ) -> None:
        if os.path.isdir(lpath):
            return  # directories come with their files
        with contextlib.ExitStack() as stack:
            body = await asyncio.to_thread(Body.of, lpath, stack)
            callback.set_size(body.size)
            path = self._strip_protocol(rpath)
            await self._send(path, body, mode == "create", callback.relative_update)

    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        self._is_carried(source)
        try:
            size: int = (await self._file(source))["size"]
        except IsADirectoryError:
            return  # of a tree that is copied
        if size <= _PIECE:
            await self._pipe_file(target, await self._cat_file(source))
            return

        async def read(window: Window) -> None:
            async with _Places(self).ask(source, {}) as response:
                async for piece in response.content.iter_chunked(_PIECE):
                    await window.put(piece)
                await self._is_whole(source, response, window.came)
            await window.end()

        was_persisted = False

        async def send(window: Window) -> None:
            nonlocal was_persisted
            try:
                await self._send(target, window)
            except Exception:
                was_persisted = window.holds(0)
                raise
            if window.came != size:  # and nobody takes the rest
                raise OSError(errno.EIO, "the server says that it has all before it was sent")

        async def once() -> None:
            window = Window(size)
            await _at_once([functools.partial(end, window) for end in (read, send)], 2)

        async with self._copying.get():
            await self._persist(once, source, lambda: not was_persisted)

    async def _send(
        self,
        path: str,
        body: Body,
        exclusive: bool = False,
        sent: Callable[[int], object] = DEFAULT_CALLBACK.relative_update,
    ) -> None:
        """Write a whole file: in parts into the store, where that is offered, or by one request."""
        route = self._route(path)
        if exclusive and await self._exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        if body.size >= self._upload_from and await self._send_parts(path, body, sent):
            return

        def again() -> bool:
            return body.holds(0)

        passes = again if isinstance(body, Window) else None

        async def once() -> None:
            # Not in chunks without a length: what breaks off could pass for the whole.
            headers = {"Content-Length": str(body.size)}
            if self.client.signs and passes is None:
                headers[CONTENT] = await body.sha256()
            data = functools.partial(body.pieces, 0, body.size, sent)
            try:
                asking = self._ask("PUT", route, headers=headers, body=data, again=passes)
                async with asking as response:
                    # MLflow's server says nothing, and of no type, or an object; a page, be it
                    # an empty one, is none of its answers.
                    is_page = "html" in response.headers.get("Content-Type", "").lower()
                    if (said := await response.read()) or is_page or response.status != 200:
                        parsed(said)
            except Refused as error:
                if error.status == 500:
                    await self._is_writable(path)
                raise

        await self.client.persist(once, again)

    async def _pass(self, path: str, body: Body, exclusive: bool) -> None:
        """Write what passes; who has it may send it again, to a server that is busy no more."""
        if self._busy is not None:
            await self.client.pause(1, self._busy)
            try:
                await self._json("GET", wire.SERVER_INFO)
            except (Refused, NotMLflow) as error:
                if isinstance(error, Refused) and error.status in TRANSIENT:
                    raise
            self._busy = None
        try:
            await self._send(path, body, exclusive)
        except Refused as error:
            if error.status in TRANSIENT and error.status != 500:  # of which it makes much else
                self._busy = error.retry_after or ""
            raise

    async def _is_writable(self, path: str) -> None:
        """Raise what is in the way of a file."""
        steps = path.split("/")
        for depth in range(1, len(steps) + 1):
            try:
                info = await self._info("/".join(steps[:depth]))
            except FileNotFoundError:
                return
            if (info["type"] == "file") is (depth < len(steps)):
                number = errno.ENOTDIR if info["type"] == "file" else errno.EISDIR
                raise OSError(number, os.strerror(number), path)

    async def _send_parts(self, path: str, body: Body, sent: Callable[[int], object]) -> bool:
        """Write a large file into the store itself; whether that is offered."""

        async def offered() -> bool:
            return await self._does("uploads", self._upload_parts)

        if not await self.client.persist(offered):
            return False
        size, at_once = await body.parts(self._upload_part)
        starts = range(0, body.size, size)
        folder, _, name = path.rpartition("/")
        try:
            asked = {"path": name, "num_parts": len(starts)}
            answer = await begun(
                self._json("POST", wire.below(wire.CREATE, folder), json=asked),
                lambda answer: self._abort(path, wire.Upload.of(answer)),
            )
        except Refused as error:
            unknown = error.status == 404 and not error.code  # by an older server
            if unknown or wire.is_unsupported(error.status, str(error)):
                return False
            raise
        upload = wire.Upload.of(answer)
        told = {"path": name, "upload_id": upload.upload_id}

        async def send(part: wire.Part, start: int) -> dict[str, object]:
            stop = min(start + size, body.size)

            async def once() -> dict[str, object]:
                headers = {**part.headers, "Content-Length": str(stop - start)}
                data = functools.partial(body.pieces, start, stop, sent)
                async with self._ask("PUT", part.url, headers=headers, body=data) as response:
                    return part.done(response.headers.get("ETag", ""))

            done = await self.client.persist(once)
            await body.release(start, stop)
            return done

        try:
            parts = zip(upload.parts, starts, strict=True)
            done = await _at_once([functools.partial(send, *each) for each in parts], at_once)
            complete = wire.below(wire.COMPLETE, folder)
            await self._json("POST", complete, json={**told, "parts": done})
        except BaseException:  # also where it is cancelled
            with contextlib.suppress(Exception):  # it is the first error that tells what happened
                await self._abort(path, upload)
            raise
        return True

    async def _abort(self, path: str, upload: wire.Upload) -> None:
        folder, _, name = path.rpartition("/")
        told = {"path": name, "upload_id": upload.upload_id}
        await self._json("POST", wire.below(wire.ABORT, folder), json=told)

    # ---- Deleting --------------------------------------------------------------------------

    async def _rm_file(self, path: str, **kwargs: Any) -> None:
        await self._rm(path)

    async def _rm(self, path: Any, recursive: bool = False, **kwargs: Any) -> None:
        for each in texts(path):
            each = self._strip_protocol(each)
            route = self._route(each)
            parent, _, name = each.rpartition("/")
            kinds = {entry.is_dir for entry in await self._entries(parent) if entry.name == name}
            if not kinds:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), each)
            if True in kinds and not recursive:
                # The server would delete a file and the directory of its name together.
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), each)
            await self._json("DELETE", route)

    def removed_together(self, path: str) -> int:
        """As many as are looked for by one listing of their directory."""
        return _DELETED_TOGETHER

    async def _rm_listed(self, paths: list[str]) -> list[str]:
        gate = self._deleting.get()

        async def inside(parent: str) -> list[tuple[str, bool]]:
            async with gate:
                entries = await self._entries(parent)
            return [(f"{parent}/{each.name}".lstrip("/"), each.is_dir) for each in entries]

        async def delete(path: str) -> str | None:
            try:
                async with gate:
                    await self._json("DELETE", self._route(path))
            except Refused:
                return path
            return None

        parents = {path.rpartition("/")[0] for path in paths}
        listed = [functools.partial(inside, each) for each in parents]
        entries = {each for found in await _at_once(listed, len(listed)) for each in found}
        # The server would delete a file and the directory of its name together.
        files = {path for path, is_dir in entries if not is_dir} & {*paths}
        both = {path for path, is_dir in entries if is_dir} & {*paths}
        deleted = [functools.partial(delete, path) for path in files - both]
        return [*both, *filter(None, await _at_once(deleted, len(deleted)))]

    async def _rmdir(self, path: str, **kwargs: Any) -> None:
        path = self._strip_protocol(path)
        if await self._ls(path, detail=False):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        await self._json("DELETE", self._route(path))


# What to_url gives; of web servers, these are the proxy's alone.
MlflowArtifactsFileSystem.protocol = (*MlflowArtifactsFileSystem.protocol, *_ALIASED)


class _Places:
    """Where files are asked for; that of each is asked for once, until its signature expires."""

    def __init__(self, fs: MlflowArtifactsFileSystem) -> None:
        self._fs = fs
        self._known: dict[str, tuple[str, dict[str, str]]] = {}
        self._asking: dict[str, asyncio.Task[tuple[str, dict[str, str]]]] = {}

    @contextlib.asynccontextmanager
    async def ask(
        self, path: str, headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """What answers to a request for a file's bytes."""
        async with contextlib.AsyncExitStack() as stack:
            while True:
                fresh = path not in self._known
                place = await self._of(path)
                asking = self._fs._ask("GET", place[0], headers={**place[1], **headers})
                try:
                    response = await stack.enter_async_context(asking)
                    break
                except Refused as error:
                    if fresh or (error.status, error.code) != (403, STORE_CODE):
                        raise
                    if self._known.get(path) is place:
                        del self._known[path]
            yield response

    async def _of(self, path: str) -> tuple[str, dict[str, str]]:
        if path not in self._known:
            if path not in self._asking:
                self._asking[path] = asyncio.create_task(self._fs._place(path))
            task = self._asking[path]
            try:
                self._known[path] = await asyncio.shield(task)
            finally:
                if task.done() and self._asking.get(path) is task:
                    del self._asking[path]
        return self._known[path]


class _File(RangedFile):
    """A file behind the proxy, read from the store itself where the server tells its place."""

    _places: _Places | None = None

    def ask(
        self, headers: dict[str, str]
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        if self._places is None:
            self._places = _Places(self.fs)
        return self._places.ask(self.path, headers)

    async def _trying(self, act: Any, *args: Any) -> Any:
        return await self.fs._persist(functools.partial(act, *args), self.path)

    async def _is_whole(self, response: Any, size: int) -> None:
        await self.fs._is_whole(self.path, response, size)


def _described(parent: str, entry: wire.Entry) -> dict[str, Any]:
    said = {
        "name": f"{parent}/{entry.name}".lstrip("/"),
        "size": entry.size,
        "type": "directory" if entry.is_dir else "file",
        "mtime": entry.modified,
        "ETag": entry.etag,
        # As Google's names are, which are known where checksums are compared.
        "md5Hash": entry.checksums.get("md5"),
        "crc32c": entry.checksums.get("crc32c"),
    }
    return {key: value for key, value in said.items() if value is not None}


async def _at_once(actions: Sequence[Callable[[], Awaitable[T]]], most: int) -> list[T]:
    """Do several things, `most` at once; where one fails, the others are cancelled."""
    gate = asyncio.Semaphore(most)

    async def one(act: Callable[[], Awaitable[T]]) -> T:
        async with gate:
            return await act()

    tasks = [asyncio.create_task(one(act)) for act in actions]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
