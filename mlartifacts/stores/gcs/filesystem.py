"""gcsfs under this package's promises."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import io
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Coroutine, Iterator
from glob import has_magic
from typing import Any, TypeVar
from urllib.parse import urlencode

from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidConfig, InvalidURI, final, of_store
from mlartifacts.promises import TOO_LARGE, AsyncArtifactFileSystem, synced, texts, unfit_key
from mlartifacts.reading import UNPACKED
from mlartifacts.retrying import pause
from mlartifacts.stores.gcs import STORE
from mlartifacts.uri import server_name_of
from mlartifacts.writing import WholeWrite

with STORE.driver():
    import aiohttp
    import google.auth
    import google.auth.exceptions
    import google.auth.transport._http_client
    import requests

    # Not the package's own name for it: that class asks every bucket's kind over gRPC first, and
    # waits a minute for an endpoint that speaks none.
    from gcsfs.core import GCSFileSystem, quote
    from gcsfs.retry import HttpError, NonRetryableError, errs, is_retriable, logger

    from mlartifacts.network import sockets, with_proxy
    from mlartifacts.stores.gcs.answers import asked_to_wait, deletions, refuse_page
    from mlartifacts.stores.gcs.uploads import Uploads, whole

__all__ = ["GCSArtifactFileSystem"]

T = TypeVar("T")

# gcsfs logs what it raises, and has no handler: Python would print it where nobody set up logging.
logger.addHandler(logging.NullHandler())

_LARGE = 2**20

_RETRIES = 5  # of a server that is busy, or a connection that was lost; gcsfs's number
_WAIT = 0.5  # seconds before the second try, at most; twice as long before each further one

# How many objects Google deletes by one request.
_DELETED_AT_ONCE = 100

# A deletion in such a request.
_BOUNDARY = "mlartifacts-deletions"
_PART = f"""--{_BOUNDARY}\r
Content-Type: application/http\r
\r
DELETE /storage/v1/{{}} HTTP/1.1\r
Accept: application/json\r
Content-Length: 0\r
\r
"""

# Google unpacks an object with the content encoding gzip for whoever does not take it packed.
_AS_STORED = {"Accept-Encoding": "gzip"}

# What an append keeps besides the type and the metadata: gcsfs's names, and Google's.
_KEPT = {
    "cache_control": "cacheControl",
    "content_disposition": "contentDisposition",
    "content_encoding": "contentEncoding",
    "content_language": "contentLanguage",
    "custom_time": "customTime",
}

_CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS"
# The URL of an upload that begins; that of one which goes on has an id.
_NEW_OBJECT = re.compile(r"/upload/storage/v1/b/(?!.*[?&]upload_id=)")
# A checksum that was sent, and is of other bytes.
_DAMAGED = "doesn't match calculated"
_NUMBERS = {
    400: errno.EINVAL,
    408: errno.ETIMEDOUT,
    429: errno.EBUSY,
    503: errno.EBUSY,
    504: errno.ETIMEDOUT,
}
_LOGIN = (
    "set GOOGLE_APPLICATION_CREDENTIALS to a key's file, log in by"
    " `gcloud auth application-default login`, or pass token="
)


def _retried(
    method: Callable[..., Coroutine[Any, Any, T]],
) -> Callable[..., Coroutine[Any, Any, T]]:
    """Try again what gcsfs would, but soon; its own waits are one to three seconds, and more."""

    @functools.wraps(method)
    async def call(self: Any, *args: Any, **kwargs: Any) -> T:
        tries, waited = 0, 0.0
        allowed = getattr(self.requests_timeout, "sock_read", None) or math.inf
        while True:
            tries += 1
            asked_to_wait.set(None)
            try:
                return await method(self, *args, **kwargs)
            except Exception as error:
                asked = asked_to_wait.get()
                wait = pause(_WAIT, tries) if asked is None else asked
                waited += wait
                if tries > _RETRIES or not is_retriable(error) or waited > allowed:
                    if not isinstance(error, FileNotFoundError | FileExistsError):
                        logger.exception("a request failed")
                    raise
                logger.debug("a request is sent again after: %s", error)
            await asyncio.sleep(wait)

    return call


@_retried
async def _ask(
    self: Any, method: str, path: str, *args: Any, data: Any = None, **kwargs: Any
) -> Any:
    if kwargs.get("uploadType") == "multipart":
        data = whole(data)
    part = self._uploads.part(path, data, kwargs) if "upload_id=" in path else None
    if isinstance(data, bytes | bytearray | memoryview) and len(data) > _LARGE:
        data = io.BytesIO(data)  # aiohttp sends it piece by piece, and warns of large bytes
    if "alt=media" in path:
        kwargs["headers"] = {**_AS_STORED, **(kwargs.get("headers") or {})}
    try:
        with _for_good():
            answer = await GCSFileSystem._request.__wrapped__(
                self, method, path, *args, data=data, **kwargs
            )
    except Exception:
        if method == "DELETE" and "upload_id=" in path:
            # What was sent of an upload that is not finished is no object, and Google drops it
            # within a week; to cancel it at once is a courtesy, and what went wrong counts.
            return 499, {}, None, b""
        raise
    if part is not None:
        part.taken(answer[0], answer[1])
    return answer


@_retried
async def _download(self: Any, *args: Any, **kwargs: Any) -> Any:
    kwargs["headers"] = {**_AS_STORED, **(kwargs.get("headers") or {})}
    with _for_good():
        return await GCSFileSystem._get_file_request.__wrapped__(self, *args, **kwargs)


@contextlib.contextmanager
def _for_good() -> Iterator[None]:
    """Raise what is not to be tried again in a type that is not.

    One wait is what was asked for, and what a server has not learned it will not learn soon.
    """
    try:
        yield
    except HttpError as error:
        if error.code != 501:
            raise
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP)) from error
    except aiohttp.ServerTimeoutError as error:
        raise TimeoutError(errno.ETIMEDOUT, f"no answer in time: {error}") from error
    except aiohttp.ClientConnectorError as error:
        raise ConnectionError(errno.ECONNREFUSED, str(error)) from error
    except aiohttp.ClientOSError as error:
        if error.errno != errno.ETIMEDOUT:
            raise
        raise TimeoutError(errno.ETIMEDOUT, f"no answer in time: {error}") from error


class GCSArtifactFileSystem(AsyncArtifactFileSystem, GCSFileSystem):  # type: ignore[misc]
    """Google Cloud Storage.

    Listings are not cached: other clients (MLflow's, say) write beside this one.
    """

    store = STORE
    lists_md5 = True
    lists_flat = True
    session_kwargs: dict[str, Any]

    _request = _ask
    _get_file_request = _download
    # It is made of the two above; gcsfs repeats it as well, six times six times.
    _get_file_concurrent = GCSFileSystem._get_file_concurrent.__wrapped__

    def _driver_options(self, options: dict[str, Any]) -> dict[str, Any]:
        self._uploads = Uploads()
        self.upload_chunk_size: int = options.pop("upload_chunk_size")
        self.download_chunk_size: int = options.pop("download_chunk_size")
        seconds = options.get("requests_timeout")
        if seconds is None or isinstance(seconds, int | float):
            # As MLflow's client takes it: the wait for a connection, and between two answers.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
            options["requests_timeout"] = timeout
        if options.get("token") is None:
            options["token"], project = _default_login()
            if project:
                options.setdefault("project", project)
        session = {"auto_decompress": False, **(options.get("session_kwargs") or {})}
        options["session_kwargs"] = {**with_proxy(session), "raise_for_status": refuse_page}
        return options

    async def _set_session(self) -> aiohttp.ClientSession:
        wait = getattr(self.requests_timeout, "sock_read", None)
        if self._session is None and wait and not getattr(self, "_use_client_cert", False):
            connector = aiohttp.TCPConnector(socket_factory=sockets(wait))
            self.session_kwargs = {"connector": connector, **self.session_kwargs}
        session: aiohttp.ClientSession = await super()._set_session()
        return session

    def _get_headers(self, headers: dict[str, str] | None, *args: Any, **kwargs: Any) -> Any:
        return super()._get_headers({**UNPACKED, **(headers or {})}, *args, **kwargs)

    def split_path(self, path: str) -> tuple[str, str, str | None]:
        """Bucket, key and generation; ``#`` is part of the name unless `version_aware`."""
        if self.version_aware:
            bucket, key, generation = super().split_path(path)
            return bucket, key, generation
        trail = path[len(path.rstrip("/")) :]
        bucket, _, key = self._strip_protocol(path).lstrip("/").partition("/")
        if key in {".", ".."}:
            # No names to Google, and as steps of a URL they mean the bucket itself.
            raise InvalidURI(f"The path {path!r} names no object: {key!r} is no name.")
        return bucket, key + trail if key else "", None

    def chunks(self, path: str) -> tuple[int | None, int | None]:
        """``MLFLOW_GCS_DOWNLOAD_CHUNK_SIZE`` and ``MLFLOW_GCS_UPLOAD_CHUNK_SIZE``."""
        return self.download_chunk_size, self.upload_chunk_size

    def _translate(self, error: Exception, path: str) -> Exception | None:
        text = str(error).strip()
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
            return OSError(errno.EIO, f"Google's answer is damaged: {text}", path)
        if isinstance(error, google.auth.exceptions.TransportError):
            return ConnectionError(errno.ECONNABORTED, f"no token came: {text}", path)
        code, reason = _answer(error)
        if isinstance(error, google.auth.exceptions.GoogleAuthError | NonRetryableError) or (
            code in {401, 403}
        ):
            denied = PermissionError(errno.EACCES, f"{reason or 'access denied'}: {_LOGIN}", path)
            return denied if code == 403 else of_store(denied)
        if isinstance(error, FileNotFoundError) and _NEW_OBJECT.search(text):
            return self._no_bucket(path)
        if isinstance(error, FileNotFoundError | FileExistsError):  # of a URL, that is
            number = errno.ENOENT if isinstance(error, FileNotFoundError) else errno.EEXIST
            return OSError(number, os.strerror(number), path)
        if code:
            if code == 412:
                return OSError(errno.ESTALE, "the object has changed", path)
            if code == 413:
                return OSError(errno.EFBIG, TOO_LARGE, path)
            if code == 400 and _DAMAGED in reason:
                reason = "other bytes arrived than were sent (their checksum differs)"
                return OSError(errno.EIO, reason, path)
            if code == 400 and "requester pays" in reason:
                reason = f"{reason} (pass requester_pays=)"
            meant = OSError(_NUMBERS.get(code, errno.EIO), f"Google says {code}: {reason}", path)
            return final(meant) if code in errs else meant  # it was tried again
        if isinstance(error, aiohttp.ClientError | requests.exceptions.RequestException):
            return ConnectionError(errno.ECONNABORTED, text or type(error).__name__, path)
        return None

    # ---- Looking -------------------------------------------------------------------------

    def _process_object(self, bucket: str, object_metadata: Any) -> Any:
        try:
            entry = super()._process_object(bucket, object_metadata)
        except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"Google's answer has an entry that is none: {object_metadata!r:.200}"
            raise OSError(errno.EIO, reason) from error
        if entry["name"].endswith("/"):
            # It only says that there is a directory; Google's console wrote a word into it.
            entry |= {"type": "directory", "size": 0}
        return entry

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        clean = self._strip_protocol(path)
        entries = [
            {**entry, "name": entry["name"].rstrip("/")}
            for entry in await super()._ls(path, detail=True, **kwargs)
            # gcsfs lists the marker of a directory in that.
            if entry["type"] != "directory" or entry["name"].rstrip("/") != clean
        ]
        return entries if detail else [entry["name"] for entry in entries]

    async def _do_list_objects(self, path: str, *args: Any, **kwargs: Any) -> Any:
        items, prefixes = await super()._do_list_objects(path, *args, **kwargs)
        if kwargs.get("delimiter") == "":  # of a whole tree
            items = [{**entry, "name": entry["name"].rstrip("/")} for entry in items]
        return items, prefixes

    async def _find(
        self, path: str, withdirs: bool = False, detail: bool = False, **kwargs: Any
    ) -> Any:
        try:
            found = await super()._find(path, withdirs=withdirs, detail=True, **kwargs)
        except FileNotFoundError:  # the bucket is not there
            found = {}
        if not withdirs:
            found = {name: e for name, e in found.items() if e["type"] != "directory"}
        return found if detail else list(found)

    def servers(self) -> frozenset[str]:
        """The emulator, or Google, whose endpoints all have the same buckets."""
        name = server_name_of(self._location)
        return frozenset({"googleapis.com" if name.endswith(".googleapis.com") else name})

    def unfit(self, path: str) -> str | None:
        key = self.split_path(path)[1]
        if "\r" in key or "\n" in key:
            return "Google allows no line's end in a name"
        return unfit_key(key)

    # ---- Reading -------------------------------------------------------------------------

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        within = await self._within(path, start, end)
        if within is None:
            return b""
        try:
            data: bytes = await super()._cat_file(path, start=within[0], end=within[1], **kwargs)
        except HttpError as error:
            if str(error.code) == "416":
                return b""  # behind the end, as a slice is
            raise
        except FileNotFoundError as error:
            if await self._isdir(path):
                raise _is_a_directory(path) from error
            raise
        return data

    async def _get_file(self, rpath: str, lpath: Any, **kwargs: Any) -> None:
        kwargs.setdefault("chunk_size", self.download_chunk_size)
        await super()._get_file(rpath, lpath, **kwargs)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        if not self.split_path(path)[1]:
            raise _is_a_directory(path)
        if mode != "rb":
            kwargs["block_size"] = kwargs.get("block_size") or self.upload_chunk_size
            return super()._open(path, mode=mode, **kwargs)
        kwargs["cache_type"] = kwargs.get("cache_type") or "proportional"
        kwargs["block_size"] = kwargs.get("block_size") or self.download_chunk_size
        file = super()._open(path, mode=mode, **kwargs)
        if file.details["type"] == "directory":
            raise _is_a_directory(path)
        if (generation := file.details.get("generation")) is not None:
            # The object that was opened, and none that has taken its place.
            file.cache.fetcher = functools.partial(self._same, path, generation)
        return file

    def _same(self, path: str, generation: str, start: int, end: int) -> bytes:
        try:
            data: bytes = self.cat_file(path, start=start, end=end, generation=generation)
        except FileNotFoundError as error:
            reason = "the object changed while it was read"
            raise OSError(errno.ESTALE, reason, path) from error
        return data

    # ---- Writing -------------------------------------------------------------------------

    def checks_uploads(self, path: str) -> bool:
        """Always: each upload has its CRC32C, in parts at the end."""
        return True

    def _open_whole(self, path: str, mode: str, **kwargs: Any) -> WholeWrite:
        if "x" in mode and self.exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        if "a" not in mode:
            return super()._open_whole(path, mode, **kwargs)
        # gcsfs would overwrite. Objects cannot grow: the old content is written again.
        try:
            before = self.open(path, "rb")
        except FileNotFoundError:
            return super()._open_whole(path, "wb", **kwargs)
        with before:
            told = before.details
            kept = {name: told[key] for name, key in _KEPT.items() if key in told}
            kwargs.setdefault("fixed_key_metadata", kept)
            for name, key in (("content_type", "contentType"), ("metadata", "metadata")):
                kwargs.setdefault(name, told.get(key))
            writer = super()._open_whole(path, "wb", **kwargs)
            try:
                shutil.copyfileobj(before, writer, _LARGE)
            except BaseException:
                writer.abandon()
                raise
        return writer

    async def _refuse_existing(self, path: str, mode: str) -> None:
        # Google checks it again, atomically, where the emulators do not.
        if mode == "create" and await self._exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)

    async def _pipe_file(
        self, path: str, data: bytes, mode: str = "overwrite", **kwargs: Any
    ) -> Any:
        await self._refuse_existing(path, mode)
        kwargs.setdefault("chunksize", self.upload_chunk_size)
        return await super()._pipe_file(path, data, mode=mode, **kwargs)

    async def _put_file(
        self, lpath: str, rpath: str, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        await self._refuse_existing(rpath, mode)
        kwargs.setdefault("chunksize", self.upload_chunk_size)
        await super()._put_file(lpath, rpath, mode=mode, **kwargs)

    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        try:
            await super()._cp_file(path1, path2, **kwargs)
        except FileNotFoundError:
            # A tree is copied file by file, and its directories are no objects.
            if await self._kind(path1) != "directory":
                await self._look_for_bucket(path2)
                raise

    async def _look_for_bucket(self, path: str) -> None:
        """Raise that a bucket is not there; Google says of a copy only that something is not."""
        try:
            await self._call("GET", "b/{}/o", self.split_path(path)[0], maxResults=1)
        except FileNotFoundError as error:
            raise self._no_bucket(path) from error
        except Exception:
            return  # nobody may look

    def _no_bucket(self, path: str) -> FileNotFoundError:
        reason = f"There is no bucket {self.split_path(path)[0]!r}"
        return of_store(FileNotFoundError(errno.ENOENT, reason, path))

    def cp_listed(self, path1: str, path2: str, size: int, version: str | None) -> None:
        with self._explaining(path1):
            synced(self.loop, self._cp_listed, path1, path2, version)

    async def _cp_listed(self, path1: str, path2: str, version: str | None) -> None:
        try:
            await self._cp_generation(path1, path2, version)
        except FileNotFoundError:
            await self._look_for_bucket(path2)
            raise

    async def _cp_generation(self, path1: str, path2: str, generation: str | None) -> None:
        """As gcsfs's ``_cp_file``, which has no condition on the source."""
        bucket1, key1, _ = self.split_path(path1)
        bucket2, key2, _ = self.split_path(path2)
        route, token = "b/{}/o/{}/rewriteTo/b/{}/o/{}", None
        while True:
            answer = await self._call(
                "POST",
                route,
                *(bucket1, key1, bucket2, key2),
                headers={"Content-Type": "application/json"},
                ifSourceGenerationMatch=generation,
                rewriteToken=token,
                json_out=True,
            )
            if answer["done"]:
                return
            token = answer["rewriteToken"]

    async def _mv(self, path1: Any, path2: Any, recursive: bool = False, **kwargs: Any) -> None:
        if isinstance(path1, str) and has_magic(path1) and await self._isfile(path1):
            if path2.endswith("/") or await self._isdir(path2):
                path2 = f"{path2.rstrip('/')}/{path1.rpartition('/')[2]}"
            path1, path2 = [self._strip_protocol(path1)], [self._strip_protocol(path2)]
        await super()._mv(path1, path2, recursive=recursive, **kwargs)

    # ---- Deleting ------------------------------------------------------------------------

    def removed_together(self, path: str) -> int:
        """As many as Google takes; emulators have no batches."""
        return _DELETED_AT_ONCE if self.on_google else 1

    async def _rm_listed(self, paths: list[str]) -> list[str]:
        errors = await self._rm_together(paths)
        return [path for path, error in zip(paths, errors, strict=True) if error is not None]

    async def _rm_together(self, paths: list[str]) -> list[Exception | None]:
        """Delete objects by one request; why each was not deleted."""
        parts = []
        for path in paths:
            bucket, key, generation = self.split_path(path)
            query = urlencode(self._get_params({"generation": generation}))
            url = f"b/{quote(bucket)}/o/{quote(key)}"
            parts.append(_PART.format(f"{url}?{query}" if query else url))
        headers, said = await self._call(
            "POST",
            self.batch_url_base,
            headers={"Content-Type": f"multipart/mixed; boundary={_BOUNDARY}"},
            data="".join([*parts, f"--{_BOUNDARY}--"]),
        )
        errors = list(deletions(headers["Content-Type"], said, paths))
        await self._rm_files_cache_update(
            [path for path, error in zip(paths, errors, strict=True) if error is None]
        )
        return errors

    async def _rm_files(self, paths: list[str]) -> list[str | Exception]:
        """Not as gcsfs, to which any answer of 200 is a deletion, and which waits by itself."""

        async def settled(path: str, error: Exception | None) -> str | Exception:
            try:
                if error is not None and is_retriable(error):
                    await self._rm_file(path)
                elif error is not None:
                    return error
            except Exception as last:
                return last
            return path

        errors = await self._rm_together(paths)
        return await asyncio.gather(*map(settled, paths, errors))

    async def _rm(self, path: Any, recursive: bool = False, **kwargs: Any) -> None:
        paths = [self._strip_protocol(each) for each in texts(path)]
        if recursive and kwargs.get("maxdepth") is None:
            for each in paths:
                await self._rm_tree(each)
        elif recursive:
            for each in paths:
                await super()._rm(each, recursive=True, **kwargs)
        else:
            await asyncio.gather(*map(self._rm_one, paths))

    async def _rm_tree(self, path: str) -> None:
        """Delete an object and all below it, markers too; of a bucket, the bucket itself."""
        bucket, key, _ = self.split_path(path)
        below, _prefixes = await super()._do_list_objects(path, delimiter="")
        names = [entry["name"] for entry in below]
        done = await self._delete_files([*([path] if key else []), *names], _DELETED_AT_ONCE)
        for each in done:
            if isinstance(each, Exception) and not isinstance(each, FileNotFoundError):
                raise each
        if not key:
            await self._rmdir(bucket)
        elif all(isinstance(each, Exception) for each in done):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    async def _rm_one(self, path: str) -> None:
        bucket, key, _ = self.split_path(path)
        try:
            await (self._rm_file(path) if key else self._rmdir(bucket))
        except FileNotFoundError as error:
            if key and await self._isdir(path):
                raise _is_a_directory(path) from error
            raise


def _answer(error: Exception) -> tuple[int, str]:
    """The status of the answer that gcsfs made an error of, and what it said; 0 for none."""
    text = str(error).strip()
    reason = text.split("\n")[-1]
    if isinstance(error, HttpError):
        return int(error.code or 0), reason
    if isinstance(error, requests.exceptions.ProxyError):
        return 502, reason or "bad gateway"
    if text.startswith("Forbidden"):
        return 403, reason
    if isinstance(error, ValueError) and text.startswith("Bad Request"):
        return 400, reason
    with contextlib.suppress(ValueError, KeyError, TypeError):  # of one deletion among many
        answer = json.loads(text)
        return int(answer["code"]), str(answer.get("message", ""))
    return 0, ""


def _default_login() -> tuple[Any, str | None]:
    """The application default credentials and their project, or anonymous access.

    Raises
    ------
    InvalidConfig
        ``GOOGLE_APPLICATION_CREDENTIALS`` is set and names no credentials.
    """
    try:
        # gcsfs goes on to ask the machine's metadata server, also where there is none.
        scope = "https://www.googleapis.com/auth/devstorage.full_control"
        credentials, project = google.auth.default(scopes=[scope], request=_quick)
    except google.auth.exceptions.DefaultCredentialsError as error:
        if Environment().text(_CREDENTIALS):
            raise InvalidConfig(
                f"{_CREDENTIALS} names no file of credentials: {error.args[0]}"
            ) from error
        return "anon", None
    return credentials, project


def _quick(*args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
    """Ask the metadata server, which answers at once where there is one."""
    request = google.auth.transport._http_client.Request()
    return request(*args, timeout=min(timeout or 1, 1), **kwargs)


def _is_a_directory(path: str) -> IsADirectoryError:
    return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
