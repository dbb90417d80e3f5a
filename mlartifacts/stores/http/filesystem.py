"""fsspec's HTTP filesystem, read-only, under this package's promises."""

from __future__ import annotations

import base64
import contextlib
import datetime
import email.utils
import errno
import functools
import logging
import os
import re
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NoReturn

from fsspec.utils import isfilelike

from mlartifacts.errors import (
    InvalidURI,
    chain,
    final,
    hide_queries,
    hide_query,
    one_line,
    queries_hidden,
)
from mlartifacts.promises import AsyncArtifactFileSystem, synced, texts
from mlartifacts.reading import UNPACKED, checked
from mlartifacts.retrying import FAILING
from mlartifacts.store import merge
from mlartifacts.stores.http import STORE, s3_uri
from mlartifacts.uri import shown

with STORE.driver():
    import aiohttp
    import yarl
    from fsspec.implementations.http import HTTPFileSystem, _file_info
    from multidict import CIMultiDict

    from mlartifacts.network import patient, with_proxy
    from mlartifacts.stores.http.files import RangedFile, Stream
    from mlartifacts.stores.http.pages import is_index, links

__all__ = ["HTTPArtifactFileSystem"]

_BUSY = frozenset({429, 503})

_CONNECT_SECONDS = 30

# What fsspec's files take; the rest is of requests.
_OF_FILES = ("block_size", "cache_type", "cache_options")

_URL = re.compile(r"https?://[-a-zA-Z0-9@:%_+.~#?&/=]+")


class HTTPArtifactFileSystem(AsyncArtifactFileSystem, HTTPFileSystem):  # type: ignore[misc]
    """Files on a web server; paths are whole URLs.

    A directory is a URL with a slash behind, or one that its server redirects there. What is in
    it is what its page links to, so its names are written as URLs are, and have no sizes.
    """

    store = STORE
    lists_all = False

    @classmethod
    def _clean(cls, path: str) -> str:
        return path

    def _driver_options(self, options: dict[str, Any]) -> dict[str, Any]:
        client = dict(options.pop("client_kwargs", {}))
        seconds = options.pop("timeout", None)
        wait = aiohttp.ClientTimeout(
            total=None, sock_connect=seconds or _CONNECT_SECONDS, sock_read=seconds
        )
        client.setdefault("timeout", wait)
        # Bytes are wanted as they are stored, and pages are asked for unpacked.
        client["auto_decompress"] = False
        client["headers"] = {**UNPACKED, **(client.get("headers") or {})}
        if (user := options.pop("username", None)) is not None:
            login = f"{user}:{options.pop('password', '')}".encode()
            header = {"Authorization": f"Basic {base64.b64encode(login).decode()}"}
            root = self.root_uri
            if root.netloc:
                middleware = _for_origin(f"{root.scheme}://{root.netloc}", header)
                client["middlewares"] = (middleware, *client.get("middlewares", ()))
            else:
                # The caller's own, to whom he asks; aiohttp drops it at a redirect elsewhere.
                options["headers"] = {**header, **options.get("headers", {})}
        client["middlewares"] = (patient(seconds), *client.get("middlewares", ()))
        return {**options, "client_kwargs": with_proxy(client)}

    @contextlib.contextmanager
    def _explaining(self, path: Any) -> Iterator[None]:
        with queries_hidden(), super()._explaining(path):
            try:
                yield
            except Exception as error:
                for each in chain(error):
                    _strip(each)
                raise

    def _translate(self, error: Exception, path: str) -> Exception | None:
        hint = _hint(path)
        if isinstance(error, aiohttp.ClientResponseError):
            who = self._who(error, path)
            said = f"{who} says {error.status} {one_line(error.message)}"
            if error.status in {401, 403}:
                return PermissionError(errno.EACCES, f"{said}{hint}", path)
            if error.status in FAILING:  # it was asked again
                number = errno.EBUSY if error.status in _BUSY else errno.EIO
                return final(OSError(number, said, path))
            return OSError(errno.EIO, said, path)
        if isinstance(error, aiohttp.ServerTimeoutError):
            return TimeoutError(errno.ETIMEDOUT, f"no answer in time: {error}", path)
        if isinstance(error, UnicodeError):
            return OSError(errno.EPROTO, "redirected to what names no valid host", path)
        if isinstance(error, aiohttp.ClientError):
            return ConnectionError(errno.ECONNREFUSED, str(error), path)
        if isinstance(error, FileNotFoundError):
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT) + hint, path)
        return None

    def _who(self, error: aiohttp.ClientResponseError, path: str) -> str:
        """Who answered a request, where it was redirected to another."""
        there = error.request_info and error.request_info.real_url.origin()
        if not there or there == self.encode_url(path).origin():
            return "The server"
        return f"{there}, to which the server redirects,"

    def encode_url(self, url: str) -> yarl.URL:
        """The URL as it is asked for.

        Raises
        ------
        InvalidURI
            It is none, or its host is none that a resolver takes.
        """
        try:
            encoded: yarl.URL = super().encode_url(url)
            _ = encoded.port, (encoded.raw_host or "").encode("idna")
        except ValueError:
            raise InvalidURI(f"{shown(url)!a} is no URL that names a valid host.") from None
        return encoded

    async def _info(self, url: str, **kwargs: Any) -> dict[str, Any]:
        # The driver says "not found" whatever went wrong.
        asked = merge(self.kwargs, kwargs)
        session = await self.set_session()
        found: dict[str, Any] = {}
        for policy in ("head", "get"):
            try:
                answer = await _file_info(
                    self.encode_url(url), size_policy=policy, session=session, **asked
                )
            except aiohttp.ClientResponseError as error:
                # Some servers know no HEAD, so only the answer to GET is one.
                if policy == "head" and error.status not in {404, *_BUSY}:
                    continue
                if error.status == 404:
                    raise FileNotFoundError(url) from error
                raise
            found.update(answer)
            if self._is_directory(url, yarl.URL(found["url"])):
                # The size would be the page's.
                return {**found, "name": url.rstrip("/"), "size": None, "type": "directory"}
            if found.get("size") is not None:
                break
        return {"name": url, "size": None, **found, "type": "file"}

    def _is_directory(self, url: str, answered: yarl.URL) -> bool:
        """Whether `url` is a directory, as `answered` is what its server answered for."""
        asked = self.encode_url(url).raw_path
        return asked.endswith("/") or answered.raw_path == f"{asked}/"

    def _raise_not_found_for_status(self, response: Any, url: str) -> None:
        super()._raise_not_found_for_status(response, url)
        # Not where the slash was asked for: that is the page, and can be read.
        if response.url.raw_path == f"{self.encode_url(url).raw_path}/":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), url)

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        entries = await super()._ls(path, detail=True, **kwargs)
        return entries if detail else [entry["name"] for entry in entries]

    async def _ls_real(
        self, url: str, detail: bool = True, surely: bool = False, **kwargs: Any
    ) -> Any:
        session = await self.set_session()
        # Some servers do not redirect from a directory's name to its page.
        spellings = (url,) if re.search(r"[?#]|/$", url) else (url, f"{url}/")
        for spelling in spellings:
            async with session.get(self.encode_url(spelling), **self.kwargs) as response:
                if response.status == 404 and spelling is not spellings[-1]:
                    continue
                super()._raise_not_found_for_status(response, url)
                if self._is_directory(spelling, response.url):
                    return await self._listed(url, response, surely)
            break
        return [await self._info(url)]

    async def _listed(
        self, url: str, response: aiohttp.ClientResponse, surely: bool
    ) -> list[dict[str, Any]]:
        """The entries of a directory, by its page; where that is to be sure, one that says so."""
        kind = response.headers.get("Content-Type", "text/html")
        page = await _text(response, url) if "html" in kind else ""
        if surely:
            asked = self.encode_url(url).with_path(
                f"{self.encode_url(url).raw_path.rstrip('/')}/", encoded=True
            )
            is_whole = {"Content-Length", "Transfer-Encoding"} & response.headers.keys() or (
                page.rstrip().lower().endswith("</html>")
            )
            is_of_it = response.url.origin() == asked.origin() and (
                is_index(page, asked.host or "", response.url.raw_path)
            )
            if not is_whole or not is_of_it or response.url.raw_path != asked.raw_path:
                raise OSError(errno.EBADMSG, "the server did not answer with an index of it", url)
        return self._linked(url, response.url, page)

    def find_surely(self, path: str) -> dict[str, dict[str, Any]]:
        with self._explaining(path):
            found: dict[str, dict[str, Any]] = synced(self.loop, self._find_surely, path)
        return found

    async def _find_surely(self, path: str) -> dict[str, dict[str, Any]]:
        self.invalidate_cache()
        found = {}
        async for _, _, files in self._walk(path, on_error="raise", detail=True, surely=True):
            found.update({info["name"]: info for info in files.values()})
        return found

    def _linked(self, url: str, answered: yarl.URL, page: str) -> list[dict[str, Any]]:
        """What a directory's page links to below it, under the name that it was asked by."""
        linked = links(page)
        if self.simple_links:
            linked += _URL.findall(page)
        here = answered.join(yarl.URL("."))
        above = re.split(r"[?#]", url)[0].rstrip("/")
        found = {}
        for link in linked:
            try:
                there = here.join(self.encode_url(link)).with_fragment(None)
            except ValueError:
                continue  # no URL
            below = there.raw_path_qs.removeprefix(here.raw_path)
            # Links to parents, and to the page in another order, are none of its files.
            if there.raw_authority == here.raw_authority and below and below[0] not in "/?":
                kind = "directory" if there.raw_path.endswith("/") else "file"
                name = f"{above}/{below.rstrip('/')}"
                found[name] = {"name": name, "size": None, "type": kind}
        return [found[name] for name in sorted(found)]

    def modified(self, path: str) -> datetime.datetime:
        """When a file was last changed, where its server says so."""
        said = str(self.info(path).get("Last-Modified", ""))
        try:
            return email.utils.parsedate_to_datetime(said)
        except (OverflowError, ValueError) as error:
            reason = "The server does not say when this was last changed"
            raise OSError(errno.EOPNOTSUPP, reason, path) from error

    async def _get_file(self, rpath: str, lpath: Any, **kwargs: Any) -> None:
        there = not isfilelike(lpath) and os.path.isdir(lpath)
        if there and rpath.endswith("/"):
            return  # the top of a tree that is got
        try:
            await super()._get_file(rpath, lpath, **merge(self.kwargs, kwargs))
        except IsADirectoryError as error:
            if error.filename not in {rpath, hide_query(rpath)} or isfilelike(lpath):
                raise
            os.makedirs(lpath, exist_ok=True)

    async def _cat_file(
        self, url: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        if (start or 0) < 0 or (end or 0) < 0:
            size = (await self._info(url, **kwargs))["size"]
            if size is None:
                return (await self._fetch(url, {}, kwargs))[start:end]
            start, end, _ = slice(start, end).indices(size)
        if end is not None and end <= (start or 0):
            return b""
        if start is None and end is None:
            return await self._fetch(url, {}, kwargs)
        wanted = {"Range": f"bytes={start or 0}-{'' if end is None else end - 1}"}
        return await self._fetch(url, wanted, kwargs, start or 0, end)

    async def _fetch(
        self,
        url: str,
        wanted: dict[str, str],
        options: dict[str, Any],
        first: int = 0,
        last: int | None = None,
    ) -> bytes:
        session = await self.set_session()
        asked = merge(self.kwargs, options)
        headers = {**UNPACKED, **asked.pop("headers", {}), **wanted}
        async with session.get(self.encode_url(url), headers=headers, **asked) as response:
            if response.status == 416:
                return b""  # behind the end, as a slice is
            self._raise_not_found_for_status(response, url)
            data: bytes = await response.read()
            # A server that knows no ranges sends everything.
            return data[first:last] if headers.get("Range") and response.status == 200 else data

    async def _ranged(self, path: str) -> bool:
        session = await self.set_session()
        given = dict(self.kwargs)
        headers = {**UNPACKED, **given.pop("headers", {}), "Range": "bytes=0-0"}
        async with session.get(self.encode_url(path), headers=headers, **given) as response:
            self._raise_not_found_for_status(response, path)
            response.close()  # all of it may be on its way
            # By a time in seconds, ranges of two versions would pass for those of one.
            version = response.headers.get("ETag", "W/")
            return response.status == 206 and not version.startswith("W/")

    def ranged(self, path: str) -> bool:
        """Whether the server gives ranges of one version; else all comes in one answer."""
        with self._explaining(path):
            known: bool = synced(self.loop, self._ranged, path)
        return known

    def ranges(self, path: str, size: int, modified: float | None) -> Callable[[int, int], bytes]:
        file = _File(self, path, {"size": size}, **self._reading({}))
        file.modified = modified
        explaining = functools.partial(self._explaining, path)
        return checked(file._fetch_range, path, size, explaining)

    def in_order(self, path: str) -> Stream:
        ask = functools.partial(self._answering, path, self.kwargs, {})
        return Stream(self, ask, functools.partial(self._explaining, path))

    @contextlib.asynccontextmanager
    async def _answering(
        self, path: str, given: dict[str, Any], headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a request for a file, an error raised; 416 is none."""
        session = await self.set_session()
        headers = {**UNPACKED, **given.get("headers", {}), **headers}
        url = self.encode_url(path)
        async with session.get(url, **{**given, "headers": headers}) as response:
            if response.status != 416:
                self._raise_not_found_for_status(response, path)
            yield response

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        if set(mode) & set("wax+"):
            _refuse(path)
        if mode != "rb":
            raise ValueError(f"HTTP files cannot be opened with mode {mode!r}.")
        of_request = {
            n: v for n, v in kwargs.items() if n not in {*_OF_FILES, "autocommit", "size"}
        }
        return _File(self, path, self.info(path, **of_request), **self._reading(kwargs))

    def _reading(self, given: dict[str, Any]) -> dict[str, Any]:
        """How a file is read: as it is asked for, or else as this filesystem was made."""
        own = {name: getattr(self, name) for name in _OF_FILES if given.get(name) is None}
        return {**merge(self.kwargs, given), **own}

    async def _pipe_file(self, path: str, *args: Any, **kwargs: Any) -> None:
        _refuse(path)

    async def _put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        _refuse(rpath)

    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        _refuse(path2)

    async def _rm_file(self, path: str, **kwargs: Any) -> None:
        _refuse(path)

    async def _rm(self, path: Any, recursive: bool = False, **kwargs: Any) -> None:
        _refuse(texts(path)[0])

    async def _mkdir(self, path: str, **kwargs: Any) -> None:
        _refuse(path)

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        _refuse(path)


class _File(RangedFile):
    def __init__(
        self, fs: HTTPArtifactFileSystem, path: str, info: dict[str, Any], **options: Any
    ) -> None:
        size = options.pop("size", None) or info["size"]
        options.pop("autocommit", None)
        own = {name: options.pop(name) for name in _OF_FILES}
        self._given = options
        super().__init__(fs, path, size, info.get("ETag"), **own)
        self.details = {**info, "size": self.size}

    def __repr__(self) -> str:
        return hide_queries(super().__repr__())

    __str__ = __repr__

    def ask(
        self, headers: dict[str, str]
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        answer: contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]
        answer = self.fs._answering(self.path, self._given, headers)
        return answer


async def _text(response: aiohttp.ClientResponse, url: str) -> str:
    """The text of a page, which a server may pack though nobody asked for it."""
    data = await response.read()
    packing = response.headers.get("Content-Encoding", "identity").lower()
    if packing in {"gzip", "x-gzip", "deflate"}:
        try:
            data = zlib.decompress(data, wbits=zlib.MAX_WBITS | 32)
        except zlib.error as error:
            raise OSError(errno.EBADMSG, f"the server's page is no {packing}", url) from error
    elif packing != "identity":
        raise OSError(errno.EBADMSG, f"the server's page is packed by {packing}", url)
    return data.decode(response.charset or "utf-8", "replace")


def _strip(error: BaseException) -> None:
    """Take from an error of aiohttp what it shows of requests: logins, and URLs' queries."""
    if isinstance(error, aiohttp.ClientResponseError):
        if error.request_info:
            url, method = error.request_info.real_url.with_query(None), error.request_info.method
            # As a dict: some libraries pickle the causes of errors, and no proxy of one can be.
            headers: Any = CIMultiDict()
            error.request_info = aiohttp.RequestInfo(url, method, headers, url)
        error.history, error.headers = (), None
        error.args = (error.request_info, ())
    elif isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
        # Where the server redirects to.
        there = str(error.args[0]).partition("?")[0]
        error.args = (there, *error.args[1:])
        if isinstance(error, aiohttp.InvalidURL):
            error._url = there


def _log_no_queries(record: logging.LogRecord) -> bool:
    record.msg, record.args = hide_queries(record.getMessage()), None
    return True


# The driver writes down the URLs that it asks for.
logging.getLogger("fsspec.http").addFilter(_log_no_queries)


def _for_origin(url: str, headers: dict[str, str]) -> Any:
    """A middleware that adds headers to requests to one server, redirected there or not."""

    def origin(url: yarl.URL) -> tuple[str, str | None, int | None]:
        return url.scheme, url.host, url.port  # with the scheme's own port where none is written

    wanted = origin(yarl.URL(url))

    async def add(request: Any, handler: Any) -> Any:
        if origin(request.url) == wanted:
            for name, value in headers.items():
                request.headers.setdefault(name, value)
        return await handler(request)

    return add


def _hint(path: str) -> str:
    """The cure for the mistake that MLflow's documentation warns of."""
    uri = s3_uri(path)
    if uri is None:
        return ""
    return (
        f". This is an object of S3's: write {uri}, give the tracking server s3://bucket/path as"
        " its artifact root, and unset MLFLOW_S3_ENDPOINT_URL on clients that it is not meant for"
    )


def _refuse(path: str) -> NoReturn:
    raise OSError(errno.EROFS, f"http: and https: artifacts can only be read{_hint(path)}", path)
