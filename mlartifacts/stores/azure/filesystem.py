"""adlfs, with the login that MLflow documents and with its faults mended.

adlfs replaces most of fsspec's generic methods by its own, which expand patterns, hide
errors, list siblings and forget ``maxdepth``. :class:`_Driver` puts the generic ones back and
keeps the calls to Azure.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import copy
import errno
import hashlib
import io
import itertools
import math
import os
import re
import threading
import weakref
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem, _get_batch_size, _run_coros_in_chunks

from mlartifacts.errors import InvalidConfig, InvalidURI, MissingDriver, final, of_store
from mlartifacts.network import sockets, with_proxy
from mlartifacts.promises import (
    TOO_LARGE,
    AsyncArtifactFileSystem,
    begun,
    mirrored,
    texts,
    unfit_key,
)
from mlartifacts.reading import ProportionalCache
from mlartifacts.retrying import asked_for, pause
from mlartifacts.stores.azure import STORE, account, agree, alone
from mlartifacts.writing import WholeWrite

if TYPE_CHECKING:
    from mlartifacts.signing import Signer

with STORE.driver():
    import aiohttp
    from adlfs.spec import AzureBlobFile, AzureBlobFileSystem, make_callback
    from azure.core import MatchConditions
    from azure.core.credentials_async import AsyncTokenCredential
    from azure.core.exceptions import (
        AzureError,
        ClientAuthenticationError,
        HttpResponseError,
        IncompleteReadError,
        ResourceExistsError,
        ResourceNotFoundError,
        ServiceRequestError,
        ServiceRequestTimeoutError,
        ServiceResponseError,
        ServiceResponseTimeoutError,
        TooManyRedirectsError,
    )
    from azure.core.pipeline.transport import AioHttpTransport
    from azure.core.pipeline.transport._aiohttp import AioHttpStreamDownloadGenerator
    from azure.storage.blob import BlobBlock, ContentSettings
    from azure.storage.blob.aio import BlobPrefix, BlobServiceClient, ExponentialRetry

__all__ = ["AzureArtifactFileSystem"]

_CONNECTING = 20  # seconds; Azure's own default
_RETRIES = 5  # of a server that is busy; Azure's three where the connection is lost
_WAIT = 0.5  # seconds before the second try, at most; twice as long before each further one

# What each answer of Azure's has: the one if all went well, else the other.
_OF_AZURE = ("x-ms-version", "x-ms-error-code")
# Statuses of errors that say how things are; of others it does not matter whose they are.
_TELLING = frozenset({404, 409, 412, 416})

_OF_ACCOUNT = frozenset(
    "AccountIsDisabled AuthenticationFailed AuthorizationFailure ContainerBeingDeleted"
    " ContainerDisabled ContainerNotFound".split()
)

# Bytes of a block of a transfer, and of those that a write holds together with the one that is
# being gathered. Two are held where they are longer.
_BLOCK = 8 * 2**20
_HELD = 32 * 2**20
# What XML, and with it a listing, cannot have.
_UNLISTED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")

# How many blobs Azure deletes by one request, how many of these are on their way at once, and what
# is answered about a blob that is gone.
_DELETED_AT_ONCE = 256
# Of files whose errors matter: so many requests at once take no longer than one for all.
_DELETED_ONE_BY_ONE = 16
_BATCHES_AT_ONCE = 4
_GONE = frozenset({200, 202, 404})

_LOGIN = (
    "set AZURE_STORAGE_CONNECTION_STRING or AZURE_STORAGE_ACCESS_KEY to those of the account"
    " (they are tried in this order), or log in so that DefaultAzureCredential finds you"
)


@contextlib.contextmanager
def _asking(request: Any) -> Iterator[None]:
    """Have errors tell what was asked; its URL is another one after a redirect."""
    try:
        yield
    except AzureError as error:
        error.request = request
        raise


class _NotAzure(ServiceResponseError):  # type: ignore[misc]
    """Something else answered: a network's page to log in at, say."""


class _Retry(ExponentialRetry):  # type: ignore[misc]
    """Azure's retries, but none after a timeout or a failed login, and each soon.

    A caller who allows n seconds must not wait four times as long for the error, nor a minute
    to hear that nobody listens or that there is no login. Azure's own waits are 15 seconds and
    more, also where a server was busy for a moment, and never those that the server asks for.

    Parameters
    ----------
    most : float or None
        Seconds that are waited where a server asks for more.
    """

    def __init__(self, most: float | None, **settings: Any) -> None:
        super().__init__(**settings)
        self._most = math.inf if most is None else most

    def increment(
        self, settings: Any, request: Any, response: Any = None, error: Any = None
    ) -> bool:
        if isinstance(
            error,
            ServiceRequestTimeoutError
            | ServiceResponseTimeoutError
            | ClientAuthenticationError
            | _NotAzure,
        ):
            return False
        answer = response or getattr(error, "response", None)
        settings["asked"] = answer and answer.headers.get("Retry-After")
        again: bool = super().increment(settings, request, response=response, error=error)
        return again

    def get_backoff_time(self, settings: Any) -> float:
        wait = pause(_WAIT, settings["count"])
        asked = asked_for(settings["asked"])
        return wait if asked is None else max(wait, min(asked, self._most))


class _Stream(AioHttpStreamDownloadGenerator):  # type: ignore[misc]
    """The bytes of an answer, after whose silence Azure's package does not ask for them again."""

    async def __anext__(self) -> Any:
        with _asking(self.request):
            try:
                return await super().__anext__()
            except ServiceResponseTimeoutError as error:
                raise ServiceRequestTimeoutError(error, error=error) from error


class _Transport(AioHttpTransport):  # type: ignore[misc]
    """Large bodies as streams: aiohttp writes those bit by bit, and others in one go.

    What a server does not take any more ends by a timeout, too, and an answer that is not Azure's
    is an error, also where it says that all went well.
    """

    session: aiohttp.ClientSession | None

    async def open(self) -> None:
        wait = self.connection_config.read_timeout
        if self.session is None and not self._has_been_opened:
            options = {"cookie_jar": aiohttp.DummyCookieJar(), "auto_decompress": False}
            if wait:
                options["connector"] = aiohttp.TCPConnector(socket_factory=sockets(wait))
            self.session = aiohttp.ClientSession(**with_proxy(options))
        await super().open()

    async def send(self, request: Any, **config: Any) -> Any:
        with _asking(request):
            try:
                response = await super().send(request, **config)
            except ServiceRequestError as error:
                cause = error.__cause__
                if isinstance(cause, OSError) and cause.errno == errno.ETIMEDOUT:
                    raise ServiceRequestTimeoutError(str(error), error=cause) from cause
                raise
            status = response.status_code
            is_azures = any(name in response.headers for name in _OF_AZURE)
            if status == 200 and "x-ms-range" in request.headers:
                is_azures = is_azures and "Content-Range" in response.headers
            if not is_azures and (status < 300 or status in _TELLING):
                response.internal_response.close()
                raise _NotAzure(f"{status} {response.reason}")
            if status == 429:  # Azure's retries know it as an error alone
                if config.get("stream"):
                    await response.read()
                raise HttpResponseError(response=response)
            response._stream_download_generator = _Stream
            return response

    def _get_request_data(self, request: Any) -> Any:
        data = super()._get_request_data(request)
        large = isinstance(data, bytes | bytearray | memoryview) and len(data) > 2**20
        return io.BytesIO(data) if large else data


class _File(AzureBlobFile):  # type: ignore[misc]
    """A blob, open; what is written is staged in blocks and published by one commit.

    Azure is sent the MD5 of each block, and refuses what arrives otherwise.
    """

    def __init__(self, fs: Any, path: str, *, details: Any = None, **kwargs: Any) -> None:
        if details is not None:
            self.details = details  # where it is there, the driver does not ask again
        super().__init__(fs, path, **kwargs)
        self._staging: collections.deque[asyncio.Task[None]] = collections.deque()

    def _get_loop(self) -> Any:
        # The driver would also make it the calling thread's loop.
        return self.fs.loop

    async def _async_fetch_range(self, start: int, end: int, **kwargs: Any) -> bytes:
        """Bytes of the blob that was opened, and of none that has taken its place."""
        etag = self.details.get("etag")
        same = {"etag": etag, "match_condition": MatchConditions.IfNotModified} if etag else {}
        async with self.container_client as container:
            stream = await container.download_blob(
                blob=self.blob,
                offset=start,
                length=end - start,
                version_id=self.version_id,
                max_concurrency=self.fs.max_concurrency or 1,
                decompress=False,
                **same,
            )
            data: bytes = await stream.readall()
            return data

    _fetch_range = mirrored(_async_fetch_range)

    async def _async_initiate_upload(self, **kwargs: Any) -> None:
        self._block_list: list[str] = []
        self._md5 = hashlib.md5(usedforsecurity=False)

    _initiate_upload = mirrored(_async_initiate_upload)

    async def _async_upload_chunk(self, final: bool = False, **kwargs: Any) -> None:
        """Send what was gathered, without waiting for it where a block more may be on its way."""
        data = self.buffer.getvalue()
        self._md5.update(data)
        if final and not self._block_list:
            self._whole = data
        else:
            most: int = self.fs.max_concurrency or 1
            ahead = min(most, max(_HELD // self.blocksize - 1, 1))
            # Bytes that were written at once are in memory anyhow.
            at_once = ahead if len(data) < 2 * self.blocksize else most
            for start, end in self._get_chunks(data):
                await self._settle(at_once - 1)
                # Azure's package hashes nothing but bytes.
                self._stage(data[start:end])
            await self._settle(0 if final else ahead)
        if final and self.autocommit:
            await self._publish()

    _upload_chunk = mirrored(_async_upload_chunk)

    def _stage(self, block: bytes) -> None:
        """Begin to send a block."""
        self._block_list.append(self._get_block_id())
        staging = asyncio.create_task(self._stage_block(self._block_list[-1], block))
        # It is looked at by who waits for it, where anybody does.
        staging.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._staging.append(staging)

    async def _stage_block(self, name: str, block: bytes) -> None:
        async with self.container_client.get_blob_client(blob=self.blob) as client:
            await client.stage_block(name, block, len(block), validate_content=True)

    async def _settle(self, left: int) -> None:
        """Wait until no more than so many blocks are on their way."""
        while len(self._staging) > left:
            await self._staging.popleft()

    async def _publish(self) -> None:
        """Commit the staged blocks; what is no more than one block goes as a whole blob.

        Two writers of one blob drop each other's staged blocks, but whole blobs follow each
        other. The blob has the MD5 of all its bytes, which Azure makes of whole blobs alone.
        """
        described = copy.copy(self._content_settings or ContentSettings())
        described.content_md5 = bytearray(self._md5.digest())
        settings: dict[str, Any] = {"metadata": self.metadata, "content_settings": described}
        async with self.container_client.get_blob_client(blob=self.blob) as client:
            if not self._block_list:
                response = await client.upload_blob(
                    self._whole,
                    overwrite=self.mode != "xb",
                    validate_content=True,
                    **settings,
                )
            else:
                if self.mode == "xb":
                    settings["match_condition"] = MatchConditions.IfMissing
                blocks = [BlobBlock(block) for block in self._block_list]
                response = await client.commit_block_list(blocks, **settings)
        if self.fs.version_aware:
            self.version_id = response.get("version_id")

    commit = mirrored(_publish)

    def discard(self) -> None:
        """Send no more, and leave what is staged: Azure has no call that drops it but in a week."""

        def stop() -> None:
            for staging in self._staging:
                staging.cancel()

        if self._staging:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and its connections
                self.loop.call_soon_threadsafe(stop)

    def close(self) -> None:
        # The driver's own also schedules, and does not await, the end of a client that holds
        # no connection.
        super(AzureBlobFile, self).close()


class _Driver(AzureBlobFileSystem):  # type: ignore[misc]
    """adlfs with the caller's credentials and no others, and with fsspec's generic methods."""

    _cat = AsyncFileSystem._cat
    _expand_path = AsyncFileSystem._expand_path
    _size = AsyncFileSystem._size
    _walk = AsyncFileSystem._walk

    def __init__(
        self,
        account_name: str | None = None,
        account_key: str | None = None,
        connection_string: str | None = None,
        credential: Any = None,
        sas_token: str | None = None,
        *,
        client_id: str | None = None,
        client_secret: str | None = None,
        tenant_id: str | None = None,
        anon: bool | None = None,
        account_host: str | None = None,
        location_mode: str = "primary",
        blocksize: int = 50 * 2**20,
        default_cache_type: str = ProportionalCache.name,
        version_aware: bool = False,
        assume_container_exists: bool | None = None,
        max_concurrency: int | None = None,
        timeout: int | None = None,
        connection_timeout: int | None = None,
        read_timeout: int | None = None,
        use_listings_cache: bool = False,
        **options: Any,
    ) -> None:
        # The driver's own __init__ fills in what the caller left out from the environment,
        # where it may name somebody else, and holds every instance for the process's life.
        AsyncFileSystem.__init__(self, use_listings_cache=use_listings_cache, **options)
        self.account_name = account_name
        self.account_key = account_key
        self.connection_string = connection_string
        self.credential = credential
        self.sync_credential = None
        self.sas_token = sas_token
        self.client_id = client_id
        self.client_secret = client_secret
        self.tenant_id = tenant_id
        self.anon = anon
        self.account_host = account_host or f"{account_name}.blob.core.windows.net"
        self.location_mode = location_mode
        self.blocksize = blocksize
        self.default_cache_type = default_cache_type
        self.version_aware = version_aware
        self.assume_container_exists = assume_container_exists
        self.max_concurrency = max_concurrency or max(_get_batch_size(), 1)
        limits = {
            "timeout": timeout,
            "connection_timeout": connection_timeout,
            "read_timeout": read_timeout,
        }
        self._timeout_kwargs = {name: value for name, value in limits.items() if value is not None}
        self.do_connect()
        if self.loop is not None:  # otherwise the caller's own loop holds the connections
            weakref.finalize(self, _close, self.loop, self.service_client, self.credential)

    # ---- Logging in ----------------------------------------------------------------------

    def do_connect(self) -> None:
        """Make the client.

        Raises
        ------
        InvalidConfig
            No account is named.
        MissingDriver
            ``DefaultAzureCredential`` is asked for and its package is not installed.
        """
        limits = self._timeout_kwargs
        whole = limits.get("timeout")
        settings = {
            "transport": _Transport(
                connection_timeout=limits.get(
                    "connection_timeout", min(_CONNECTING, whole or _CONNECTING)
                ),
                read_timeout=limits.get("read_timeout", whole),
            ),
            "retry_policy": _Retry(
                limits.get("read_timeout", whole), retry_total=_RETRIES, retry_status=_RETRIES
            ),
            "user_agent": "mlartifacts",
        }
        if self.connection_string:
            self.service_client = BlobServiceClient.from_connection_string(
                self.connection_string, **settings
            )
            return
        if not self.account_name:
            raise InvalidConfig(
                "No storage account is named: name it in the URI"
                " (wasbs://<container>@<account>.blob.core.windows.net/<path>), set"
                " AZURE_STORAGE_ACCOUNT_NAME or AZURE_STORAGE_CONNECTION_STRING, or pass"
                " account_name=."
            )
        self.account_url = f"https://{self.account_host}"
        url = self.account_url
        credential = self.credential or self.account_key or None
        if credential is None and self.sas_token:
            url += f"?{self.sas_token.removeprefix('?')}"
        elif credential is None and not self.anon:
            self.credential = credential = self._found_credential()
        self.service_client = BlobServiceClient(
            url,
            credential=credential,
            _location_mode=self.location_mode,
            **settings,
        )

    def _found_credential(self) -> Any:
        try:
            from azure.identity.aio import ClientSecretCredential, DefaultAzureCredential
        except ModuleNotFoundError as error:
            raise MissingDriver("azure", "azure-identity") from error
        if self.client_id:
            return ClientSecretCredential(self.tenant_id, self.client_id, self.client_secret)
        return DefaultAzureCredential()

    # ---- Names ---------------------------------------------------------------------------

    def split_path(
        self, path: str, delimiter: str = "/", return_container: bool = False, **kwargs: Any
    ) -> tuple[str, str, str | None]:
        trail = path[len(path.rstrip("/")) :]
        container, _, key = self._strip_protocol(path).partition("/")
        key += trail if key else ""
        if not {".", ".."}.isdisjoint(key.split("/")):
            # The way to the server would shorten them to another blob's name.
            raise InvalidURI(f"The path {path!r} has a step '.' or '..': Azure has no such names.")
        if "\\" in key:
            raise InvalidURI(f"The path {path!r} has a backslash: Azure takes it for a slash.")
        version = ""
        if self.version_aware:
            key, _, version = key.partition("?versionid=")
        return container, key, version or None

    # ---- Listings ------------------------------------------------------------------------

    async def _listed(
        self, container: str, prefix: str, delimiter: str = ""
    ) -> AsyncIterator[dict[str, Any]]:
        """What is below a prefix, one level of it with a delimiter."""
        async with self.service_client.get_container_client(container) as client:
            if delimiter:
                found = client.walk_blobs(prefix, include=["metadata"], delimiter=delimiter)
            else:
                found = client.list_blobs(prefix, include=["metadata"])
            # A directory may be listed as a prefix, as an empty blob whose metadata says so
            # (hierarchical accounts), and as an empty blob whose name ends with a slash.
            seen: set[str] = set()
            async for item in found:
                entry = (await self._details([item]))[0]
                if not isinstance(item, BlobPrefix):
                    if item.name.endswith("/") and item.size:  # what has bytes is a file
                        entry.update(type="file", name=f"{container}/{item.name}")
                    elif item.name.endswith("/"):
                        entry.update(type="directory", size=None)
                    if entry["type"] == "directory":
                        entry["marker"] = item.name
                if entry["type"] == "directory":
                    if entry["name"] in seen:
                        continue
                    seen.add(entry["name"])
                yield entry

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        if self.version_aware:
            return await super()._ls(path, detail=detail, **kwargs)  # type: ignore[no-any-return]
        container, key, _ = self.split_path(path.rstrip("/"))
        if not container:
            containers = self.service_client.list_containers(include_metadata=True)
            found = await self._details([each async for each in containers])
        else:
            found = [each async for each in self._listed(container, f"{key}/" if key else "", "/")]
        if not found and key:
            info = await self._blob(container, key)
            found = [] if info["type"] == "directory" else [info]
        itself = f"{container}/{key}"
        found = [e for e in found if e["type"] == "file" or e["name"] != itself]
        found.sort(key=lambda entry: entry["name"])
        return found if detail else [each["name"] for each in found]

    async def _info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        # A blob "dir/" of no bytes would be a file to the driver.
        info: dict[str, Any] = await super()._info(path.rstrip("/"), **kwargs)
        return info

    async def _blob(self, container: str, key: str) -> dict[str, Any]:
        async with self.service_client.get_blob_client(container, key) as client:
            try:
                properties = await client.get_blob_properties()
            except ResourceNotFoundError as error:
                raise _missing(f"{container}/{key}") from error
        info: dict[str, Any] = (await self._details([properties]))[0]
        return info

    async def _find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        prefix: str = "",
        detail: bool = False,
        **kwargs: Any,
    ) -> Any:
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        container, key, _ = self.split_path(path.rstrip("/"))
        if not container:
            return await AsyncFileSystem._find(
                self, path, maxdepth=maxdepth, withdirs=withdirs, detail=detail
            )
        base = f"{container}/{key}".rstrip("/")
        below = (f"{key}/" if key else "") + prefix
        found: dict[str, dict[str, Any]] = {}
        with contextlib.suppress(ResourceNotFoundError):  # no container: nothing is found
            async for entry in self._listed(container, below, "/" if maxdepth == 1 else ""):
                directory = {"name": base, "size": None, "type": "directory"}
                found.setdefault(base, directory)
                if entry["name"] == base:
                    found[base] = entry
                    continue
                steps = entry["name"].removeprefix(f"{base}/").split("/")
                for depth in range(1, len(steps)):
                    name = "/".join([base, *steps[:depth]])
                    found.setdefault(name, {**directory, "name": name})
                found[entry["name"]] = entry
            if not found and key and not prefix:
                with contextlib.suppress(FileNotFoundError):
                    found[base] = await self._blob(container, key)
        deepest = base.count("/") + (maxdepth or len(found) + 2**30)
        names = sorted(
            name
            for name, entry in found.items()
            if (withdirs or entry["type"] == "file") and name.count("/") <= deepest
        )
        return {name: found[name] for name in names} if detail else names

    # ---- Containers ----------------------------------------------------------------------

    async def _container_exists(self, container_name: str) -> bool:
        if self.assume_container_exists:
            return True
        async with self.service_client.get_container_client(container_name) as client:
            try:
                await client.get_container_properties()
            except ResourceNotFoundError:
                return False
            except HttpResponseError as error:
                # Credentials for a container's blobs alone may not ask for the container.
                if error.status_code != 403 or self.assume_container_exists is False:
                    raise
        return True

    async def _mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        container, key, _ = self.split_path(path)
        if await self._container_exists(container):
            if not key and not kwargs.get("exist_ok", True):
                raise FileExistsError(errno.EEXIST, "The container exists already", container)
        elif key and not create_parents:
            raise FileNotFoundError(errno.ENOENT, "No such container", container)
        else:
            with contextlib.suppress(ResourceExistsError):  # somebody else was quicker
                await self.service_client.create_container(container)

    async def _rmdir(self, path: str, **kwargs: Any) -> None:
        """Delete an empty container; a directory is gone with its last blob anyhow."""
        container, key, _ = self.split_path(path)
        if key:
            return
        async for _ in self._listed(container, ""):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), container)
        await self.service_client.delete_container(container)

    # ---- Bytes ---------------------------------------------------------------------------

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        if (start or 0) < 0 or (end or 0) < 0:
            size = (await self._info(path))["size"]
            if size is None:
                raise _directory(path)
            start, end, _ = slice(start, end).indices(size)
        if end is not None and end <= (start or 0):
            await self._info(path)  # an empty range of a missing file is missing, too
            return b""
        container, key, version = self.split_path(path)
        first, most = start, None
        if end is not None:
            first, most = start or 0, end - (start or 0)
        try:
            async with self._downloading(container, key, version, first, most) as stream:
                data: bytes = await stream.readall()
        except ResourceNotFoundError as error:
            if await self._dir_exists(container, key):
                raise _directory(path) from error
            raise
        except HttpResponseError as error:
            if version is not None and error.status_code != 416:
                raise _missing(path) from error
            if error.status_code != 416:
                raise
            return b""  # it ends before the range begins
        return data

    @contextlib.asynccontextmanager
    async def _downloading(
        self,
        container: str,
        key: str,
        version: str | None,
        start: int | None = None,
        length: int | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """A blob's bytes as they are stored, which Azure's package would unpack."""
        async with self.service_client.get_blob_client(container, key) as client:
            yield await client.download_blob(
                offset=start,
                length=length,
                version_id=version,
                max_concurrency=self.max_concurrency,
                decompress=False,
                **self._timeout_kwargs,
                **kwargs,
            )

    async def _get_file(self, rpath: str, lpath: Any, **kwargs: Any) -> None:
        if os.path.isdir(lpath):
            return  # directories come with their files
        container, key, version = self.split_path(rpath)
        told = make_callback("download_stream_current", kwargs.get("callback"))
        asked = (container, key.rstrip("/"), version)
        async with self._downloading(*asked, raw_response_hook=told) as stream:
            with open(lpath, "wb") as file:
                await stream.readinto(file)

    async def _pipe_file(self, path: str, value: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("validate_content", True)
        return await super()._pipe_file(path, value, **kwargs)

    async def _put_file(
        self,
        lpath: str,
        rpath: str,
        callback: Any = None,
        overwrite: bool = True,
        mode: str = "overwrite",
        max_concurrency: int | None = None,
        **kwargs: Any,
    ) -> None:
        if os.path.isdir(lpath):
            return
        container, key, _ = self.split_path(rpath)
        with open(lpath, "rb") as file:
            async with self.service_client.get_blob_client(container, key) as client:
                await client.upload_blob(
                    file,
                    overwrite=overwrite and mode != "create",
                    metadata={"is_directory": "false"},
                    raw_response_hook=make_callback("upload_stream_current", callback),
                    max_concurrency=max_concurrency or self.max_concurrency,
                    **self._timeout_kwargs,
                    **kwargs,
                )

    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        container1, key1, version = self.split_path(path1)
        container2, key2, _ = self.split_path(path2)
        source = self.service_client.get_blob_client(container1, key1, version_id=version)
        async with self.service_client.get_blob_client(container2, key2) as target:
            try:
                answer = await begun(
                    target.start_copy_from_url(source.url, **kwargs),
                    lambda answer: _end_copy(target, answer["copy_id"]),
                )
            except ResourceNotFoundError as error:
                if _code(error) == "ContainerNotFound":  # whichever that is
                    is_there = await self._container_exists(container1)
                    raise self._explain(error, path2 if is_there else path1) from error
                if key1 and await self._dir_exists(container1, key1):
                    return  # a tree is copied blob by blob, and its directories are none
                raise
            status = answer["copy_status"]
            try:
                while status == "pending":
                    await asyncio.sleep(0.2)
                    status = (await target.get_blob_properties()).copy.status
            except asyncio.CancelledError:
                with contextlib.suppress(Exception):  # the cancellation is what counts
                    await asyncio.shield(_end_copy(target, answer["copy_id"]))
                raise
        if status != "success":
            raise OSError(errno.EIO, f"Azure did not copy it: {status}", path1)

    async def _rm_file(self, path: str, **kwargs: Any) -> None:
        container, key, version = self.split_path(path)
        if not key:
            await self._rmdir(path)
            return
        async with self.service_client.get_container_client(container) as client:
            try:
                await client.delete_blob(key, version_id=version)
            except ResourceNotFoundError as error:
                if await self._dir_exists(container, key):
                    why = "It is a directory: rm(path, recursive=True) deletes what is in it"
                    raise IsADirectoryError(errno.EISDIR, why, path) from error
                raise

    async def _rm_listed(self, paths: list[str]) -> list[str]:
        container, names = self.split_path(paths[0])[0], [self.split_path(p)[1] for p in paths]
        async with self.service_client.get_container_client(container) as client:
            return [] if {*await _delete_together(client, names)} <= _GONE else paths

    async def _rm(self, path: Any, recursive: bool = False, **kwargs: Any) -> None:
        if not recursive:
            await self._rm_files(texts(path))
            return
        for each in texts(path):
            container, key, _ = self.split_path(each)
            if not key and kwargs.get("maxdepth") is None:
                await self.service_client.delete_container(container)
            else:
                await self._rm_tree(each, **kwargs)

    async def _rm_files(self, paths: Iterable[str]) -> None:
        """Delete all that can be of some files, and raise the first error then."""
        together: dict[str, list[str]] = collections.defaultdict(list)
        for path in dict.fromkeys(paths):
            container, key, version = self.split_path(path)
            together[container if key and version is None else path].append(path)
        some = [
            self._rm_some(each[first : first + _DELETED_AT_ONCE])
            for each in together.values()
            for first in range(0, len(each), _DELETED_AT_ONCE)
        ]
        _raise_first(await _in_chunks(some, _BATCHES_AT_ONCE))

    async def _rm_some(self, paths: list[str]) -> None:
        """Delete some files of one container."""
        said: set[int] = set()
        if len(paths) > _DELETED_ONE_BY_ONE:
            container, names = self.split_path(paths[0])[0], [self.split_path(p)[1] for p in paths]
            async with self.service_client.get_container_client(container) as client:
                with contextlib.suppress(HttpResponseError, ValueError):  # each has its own
                    said = {*await _delete_together(client, names)}
        if said and said <= _GONE:
            if 404 in said:
                reason = f"This file, or another one of {len(paths)} to be deleted, was not there"
                raise FileNotFoundError(errno.ENOENT, reason, paths[0])
            return
        errors = await _in_chunks([self._rm_file(path) for path in paths], self.batch_size)
        _raise_first(e for e in errors if not (said and isinstance(e, ResourceNotFoundError)))

    async def _rm_tree(
        self, path: str, maxdepth: int | None = None, batch_size: int | None = None
    ) -> None:
        container, key, _ = self.split_path(path.rstrip("/"))
        found = await self._find(path, maxdepth=maxdepth, withdirs=True, detail=True)
        if not found:
            raise _missing(path)
        files, markers = [], [key] if key else []  # a blob may have the tree's own name
        for name, entry in found.items():
            if entry["type"] == "file":
                files.append(name.removeprefix(f"{container}/"))
            elif "marker" in entry:
                markers.append(entry["marker"])
        async with self.service_client.get_container_client(container) as client:

            async def delete(name: str) -> None:
                with contextlib.suppress(ResourceNotFoundError):  # gone is gone
                    await client.delete_blob(name)

            async def delete_some(names: list[str]) -> list[str]:
                with contextlib.suppress(HttpResponseError, ValueError):  # each has its own
                    if len(names) > 1 and {*await _delete_together(client, names)} <= _GONE:
                        return []
                return names

            starts = range(0, len(files), _DELETED_AT_ONCE)
            some = [delete_some(files[first : first + _DELETED_AT_ONCE]) for first in starts]
            left = itertools.chain(*await _run_coros_in_chunks(some, batch_size=_BATCHES_AT_ONCE))
            await _run_coros_in_chunks(
                [delete(name) for name in left], batch_size=batch_size or self.batch_size
            )
            # A hierarchical account refuses to delete a directory before what is in it.
            for name in sorted(markers, reverse=True):
                await delete(name)

    def _open(
        self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any
    ) -> _File:
        if not self.version_aware and kwargs.get("version_id"):
            raise ValueError("version_id needs version_aware=True")
        details = None
        if mode == "rb":
            details = self.info(path, version_id=kwargs.get("version_id"))
        if not self.split_path(path)[1] or (details and details["type"] == "directory"):
            raise _directory(path)
        if kwargs.get("cache_type") is None:
            kwargs["cache_type"] = self.default_cache_type
        block_size = block_size or self.blocksize
        before = None
        if mode == "ab":
            # Only append blobs can grow, which nobody else writes artifacts as: the old
            # content is written again, and replaced as a whole.
            mode = "wb"
            with contextlib.suppress(FileNotFoundError):
                before = self.info(path)
                kwargs.setdefault("metadata", before["metadata"])
                kwargs.setdefault("content_settings", ContentSettings(**before["content_settings"]))
        file = _File(self, path, mode=mode, block_size=block_size, details=details, **kwargs)
        for start in range(0, before["size"] if before else 0, block_size):
            file.write(self.cat_file(path, start, start + block_size))
        return file


# fsspec makes these of the asynchronous ones where it finds its own.
for _name in ("cat", "expand_path", "size"):
    setattr(_Driver, _name, getattr(AbstractFileSystem, _name))


class AzureArtifactFileSystem(AsyncArtifactFileSystem, _Driver):
    """Artifacts in Azure Blob Storage."""

    store = STORE
    lists_flat = True

    def __init__(self, *args: Any, uri: str | None = None, **explicit: Any) -> None:
        super().__init__(*args, uri=uri, **alone(explicit))

    def _open_whole(self, path: str, mode: str, **kwargs: Any) -> WholeWrite:
        if "x" in mode and self.exists(path):  # and Azure is asked once more at the end
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        return super()._open_whole(path, mode, **kwargs)

    def cp_listed(self, path1: str, path2: str, size: int, version: str | None) -> None:
        same = {"source_etag": version, "source_match_condition": MatchConditions.IfNotModified}
        self.cp_file(path1, path2, **(same if version else {}))

    def do_connect(self) -> None:
        agree(self.root_uri, vars(self))
        super().do_connect()

    @classmethod
    def _clean(cls, path: str) -> str:
        # A library that takes the scheme off a URI by itself (UPath) leaves the account's host.
        container, slash, key = path.strip("/").partition("/")
        return container.partition("@")[0] + slash + key

    def servers(self) -> frozenset[str]:
        return frozenset({account(self.service_client.primary_endpoint)})

    def signer(self) -> Signer | None:
        from mlartifacts.stores.azure import signing

        return signing.signer(self)

    def checks_uploads(self, path: str) -> bool:
        """Always: each request has the MD5 of what it brings (``validate_content``)."""
        return True

    def removed_together(self, path: str) -> int:
        return 1 if self.version_aware else _DELETED_AT_ONCE

    def chunks(self, path: str) -> tuple[int | None, int | None]:
        return None, _BLOCK

    def unfit(self, path: str) -> str | None:
        if "\\" in path:
            return "Azure takes a backslash for a slash"
        if _UNLISTED.search(path):
            return "it has a character that no listing can have (XML cannot contain it)"
        return unfit_key(self.split_path(path)[1], "characters")

    def unstrip_protocol(self, name: str) -> str:
        """The URI of a path, as it was opened: the container before the account."""
        url = super().unstrip_protocol(name)
        if url == name:
            return url
        container, slash, key = self._strip_protocol(name).partition("/")
        root = self.root_uri
        if root.netloc:
            return f"{root.scheme}://{container}@{root.netloc}{slash}{key}"
        scheme = "az" if root.scheme.startswith("wasb") else root.scheme
        return f"{scheme}://{container}{slash}{key}"

    def _translate(self, error: Exception, path: str) -> Exception | None:
        if isinstance(error, ValueError) and not self.split_path(path)[1]:
            return _directory(path)  # Azure's client wants a blob's name
        cause = _azure(error)
        if cause is None:
            return None
        number, reason = self._meaning(cause, path)
        meant = OSError(number, reason, path)
        status = getattr(cause, "status_code", None) or 0
        if number == errno.ECONNREFUSED or status == 429 or status >= 500:
            meant = final(meant)  # Azure's client has tried again
        return of_store(meant) if _is_of_account(cause) else meant

    def _meaning(self, error: AzureError, path: str) -> tuple[int, str]:
        who = self._who(error)
        if isinstance(error, ServiceRequestTimeoutError | ServiceResponseTimeoutError):
            return errno.ETIMEDOUT, (
                f"no answer from {who}; MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT sets"
                " for how long to wait"
            )
        if isinstance(error, _NotAzure):
            return errno.EPROTO, f"{who} says {error}, but that is no answer of Azure's"
        if isinstance(error, IncompleteReadError):
            return errno.ECONNRESET, f"the connection to {who} was lost amid the answer"
        if isinstance(error, TooManyRedirectsError):
            return errno.ELOOP, f"{self._host} redirects without end"
        if isinstance(error, ServiceRequestError | ServiceResponseError):
            return _of_connection(error), f"no connection to {who}"
        code = _code(error)
        status = getattr(error, "status_code", None)
        if status in {401, 403}:
            hint = f": {_LOGIN}" if who == self._host else ""
            return errno.EACCES, f"{who} refused ({code or status}){hint}"
        if isinstance(error, ClientAuthenticationError):
            # Its own text is long, and tells of each way to log in that was tried.
            signing = type(error).__name__ == "AzureSigningError"
            what = "the account key is none (not base64)" if signing else "no login was found"
            return errno.EACCES, f"{what}: {_LOGIN}"
        if not isinstance(error, HttpResponseError):
            return errno.EIO, type(error).__name__
        if status is not None and status < 300:
            return errno.EBADMSG, f"the answer of {who} cannot be read: {error.message}"
        if status == 413:
            return errno.EFBIG, TOO_LARGE
        if code == "ContainerNotFound":
            return errno.ENOENT, f"no such container: {self.split_path(path)[0]!r}"
        if code == "OperationTimedOut":
            status = 504
        number = {
            400: errno.EINVAL,
            404: errno.ENOENT,
            408: errno.ETIMEDOUT,
            409: errno.EEXIST if code.endswith("AlreadyExists") else errno.EBUSY,
            412: errno.ESTALE,
            429: errno.EBUSY,
            501: errno.EOPNOTSUPP,
            503: errno.EBUSY,
            504: errno.ETIMEDOUT,
        }.get(status or 0, errno.EIO)
        if code == "Md5Mismatch" or (code == "InvalidOperation" and "MD5" in str(error)):  # Azurite
            return errno.EIO, "other bytes arrived than were sent (their MD5 differs)"
        if code == "InvalidBlockList":
            return errno.EBUSY, "another write of this blob ended meanwhile"
        if number in {errno.ENOENT, errno.EEXIST}:
            return number, os.strerror(number)
        if number == errno.ESTALE:
            return number, "the blob has changed"
        return number, f"{who} says {status} {code or error.reason}"

    def _who(self, error: AzureError) -> str:
        """Who answered, or did not."""
        answer = getattr(error, "response", None)
        request = answer.request if answer is not None else getattr(error, "request", None)
        if request is None or "x-ms-version" not in request.headers:  # a login's has none
            return self._host
        there = urlsplit(request.url).netloc.rpartition("@")[2]
        client = self.service_client
        own = (client.primary_hostname, client.secondary_hostname)
        if there in {str(each).partition("/")[0] for each in own}:
            return self._host
        return f"{there} (to which {self._host} redirects)"

    @property
    def _host(self) -> str:
        return str(self.service_client.primary_hostname)


def _close(loop: Any, client: Any, credential: Any) -> None:
    """Close the connections of a filesystem that is gone, or at the end of the process."""

    async def close() -> None:
        await client.close()
        if isinstance(credential, AsyncTokenCredential):
            await credential.close()

    if not loop.is_running():
        return
    ending = asyncio.run_coroutine_threadsafe(close(), loop)
    # The garbage collector may be running in the loop's own thread.
    if threading.get_ident() != getattr(loop, "_thread_id", None):
        with contextlib.suppress(Exception):
            ending.result(1)


async def _delete_together(client: Any, names: list[str]) -> list[int]:
    """Delete blobs of a container by one request, and give the statuses, in any order.

    Raises
    ------
    AzureError, ValueError
        The server refuses such requests, or answers otherwise.
    """
    answers = await client.delete_blobs(
        *names, raise_on_any_failure=False, raw_request_hook=_bound_plainly
    )
    said = [answer.status_code async for answer in answers]
    if len(said) != len(names):
        raise ValueError(f"{len(said)} answers to {len(names)} deletions")
    return said


async def _in_chunks(some: list[Any], size: int) -> list[BaseException | None]:
    errors: list[BaseException | None] = await _run_coros_in_chunks(
        some, batch_size=size, return_exceptions=True
    )
    return errors


def _raise_first(errors: Iterable[BaseException | None]) -> None:
    for error in errors:
        if error is not None:
            raise error


def _bound_plainly(request: Any) -> None:
    """Bound the parts of a request without ``=``, which Azurite does not look for in a boundary."""
    http = request.http_request
    kind, _, boundary = http.headers["Content-Type"].partition("; boundary=")
    plain = boundary.strip('"=')
    http.headers["Content-Type"] = f"{kind}; boundary={plain}"
    http.set_bytes_body(http.body.replace(b"--" + boundary.encode(), b"--" + plain.encode()))


async def _end_copy(target: Any, copy_id: str) -> None:
    """End a copy that Azure is at, and remove the empty blob that this leaves."""
    await target.abort_copy(copy_id)
    await target.delete_blob()


def _missing(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _directory(path: str) -> IsADirectoryError:
    return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)


def _azure(error: BaseException | None) -> AzureError | None:
    """The error of Azure's that is behind one of the driver's."""
    while error is not None and not isinstance(error, AzureError):
        error = error.__cause__ or error.__context__
    # What Azure's package says after its own tries has nothing but the last error.
    inner = getattr(error, "inner_exception", None)
    return inner if isinstance(inner, AzureError) else error


def _code(error: AzureError) -> str:
    """Azure's name of what is wrong."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or "")


def _is_of_account(error: AzureError) -> bool:
    """Whether every blob would meet the error: the login is refused, or the container missing."""
    return isinstance(error, ClientAuthenticationError) or _code(error) in _OF_ACCOUNT


def _of_connection(error: AzureError) -> int:
    inner: BaseException | None = error.inner_exception
    if isinstance(inner, aiohttp.ClientConnectorError):
        return errno.ECONNREFUSED
    return errno.ECONNRESET if isinstance(inner, OSError) else errno.ECONNABORTED
