"""s3fs, with its faults mended.

What differs from s3fs, and why:

- A request that nobody answers ends. s3fs waits for ever where the server does not take an
  upload; a read that timed out it asks for 25 times, and 125 times within an open file.
- Reads in sequence share one request (:mod:`~mlartifacts.stores.s3.ranges`).
- A large copy keeps the type and the metadata of its source, takes any name, and leaves nothing
  behind where it fails; nor does an upload that is cancelled because another one failed.
- A directory costs no request to make, and never makes a bucket.
- Upload settings reach uploads and copies, and no other request.
- Times and listings are read more quickly (:mod:`~mlartifacts.stores.s3.answers`).
- The logs show no secret, however much is logged (:mod:`~mlartifacts.stores.s3.logs`).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import contextvars
import errno
import functools
import hashlib
import math
import mimetypes
import os
import re
import threading
import weakref
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError, ConnectTimeoutError, ReadTimeoutError
from s3fs import S3FileSystem
from s3fs.core import _PRESERVE_KWARGS

from mlartifacts.network import sockets
from mlartifacts.promises import begun, synced
from mlartifacts.stores.s3 import FULL_CHECKSUMS, UPLOAD_ARGUMENTS
from mlartifacts.stores.s3.answers import DIRECTORY_BUCKET, files_listed, read_quickly
from mlartifacts.stores.s3.asking import Hung, Silence, ask
from mlartifacts.stores.s3.logs import hide_secrets
from mlartifacts.stores.s3.ranges import Ranges

__all__ = ["DELETED_AT_ONCE", "S3Driver", "redirected_to", "told_by_name"]

# Upload arguments that other requests take in the same sense.
_EVERYWHERE = frozenset(
    "ExpectedBucketOwner RequestPayer SSECustomerAlgorithm SSECustomerKey SSECustomerKeyMD5".split()
)
_NOT_FOR = {
    "put_object": frozenset[str](),
    "create_multipart_upload": FULL_CHECKSUMS,
    "complete_multipart_upload": frozenset[str](),
    "copy_object": FULL_CHECKSUMS,
    "upload_part": UPLOAD_ARGUMENTS - _EVERYWHERE - {"ChecksumAlgorithm"},
}
# Requests that say what is in an object, which MLflow tells by its name.
_NAMED_BY_KEY = frozenset({"put_object", "create_multipart_upload"})
# How many parts S3 allows.
_PARTS = 10_000
# The most that s3fs copies in one request.
_COPIED_AT_ONCE = 150 * 2**20
#: How many keys S3 deletes in one request, and lists in one answer.
DELETED_AT_ONCE = 1000
# Keys that come out of XML as they went in: some servers' parsers strip what they read, and that
# could be another key.
_IN_XML = re.compile(r"(?!\s)[^\x00-\x1f\x7f]+(?<!\s)")
# What servers say to a condition that they do not know (B2's among them).
_UNKNOWN = frozenset({"501", "NotImplemented"})
# Turns of the event loop after which a request that has a connection is on its way.
_UNTIL_SENT = 3

#: The multipart uploads that the running task has begun.
_uploads: contextvars.ContextVar[list[dict[str, str]] | None] = contextvars.ContextVar(
    "_uploads", default=None
)


class S3Driver(S3FileSystem):  # type: ignore[misc]
    """s3fs' filesystem, mended."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        hide_secrets()
        self._silence = Silence()
        super().__init__(*args, **kwargs)
        #: Answers that wait to be read on, the longest waiting first.
        self.waiting: dict[Ranges, None] = {}
        self._expecting_nothing: Any = None
        #: Whether the server redirected to another, which this follows with a body, too.
        self.is_redirected = threading.Event()

    def split_path(self, path: str) -> tuple[str, str, str | None]:
        """Bucket, key and version; ``?versionId=`` is part of the name unless `version_aware`."""
        if self.version_aware:
            bucket, key, version = super().split_path(path)
            return bucket, key, version
        trail = path[len(path.rstrip("/")) :]
        path = self._strip_protocol(path).lstrip("/")
        if "/" not in path:
            return path, "", None
        bucket, key = self._find_bucket_key(path)
        return bucket, key + trail, None

    # ---- Requests ------------------------------------------------------------------------

    def _prepare_config_kwargs(self) -> dict[str, Any]:
        config: dict[str, Any] = super()._prepare_config_kwargs()
        if config["read_timeout"] is not None:
            connector = config.setdefault("connector_args", {})
            made = sockets(config["read_timeout"], self._silence.hear)
            connector.setdefault("socket_factory", made)
        return config

    async def set_session(self, *args: Any, **kwargs: Any) -> Any:
        """Make a client, unless there is one."""
        client = await super().set_session(*args, **kwargs)
        if client is not self._expecting_nothing:
            self._prepare(client)
            self._expecting_nothing = client
        return client

    _connect = set_session

    def call_s3(self, *args: Any, **kwargs: Any) -> Any:
        """Ask the server; open files do by this, and s3fs' own does not know subclasses."""
        return synced(self.loop, self._call_s3, *args, **kwargs)

    async def _call_s3(self, method: str, *akwarglist: Any, **kwargs: Any) -> Any:
        await self.set_session()
        client = await self.get_s3(kwargs.get("Bucket"))
        if client is not self._expecting_nothing:  # of another region
            self._prepare(client)
        call = getattr(client, method)
        arguments = self._get_s3_method_kwargs(call, *akwarglist, **kwargs)
        allowed = client.meta.config.read_timeout
        asking = self._unless_there(call, arguments, allowed)
        if method != "create_multipart_upload":
            return await asking

        def named(answer: dict[str, Any]) -> dict[str, str]:
            upload = {name: arguments[name] for name in ("Bucket", "Key")}
            return {**upload, "UploadId": answer["UploadId"]}

        answer = await begun(asking, lambda answer: self._abort(named(answer)))
        if (uploads := _uploads.get()) is not None:
            uploads.append(named(answer))
        return answer

    async def _unless_there(
        self, call: Any, arguments: dict[str, Any], allowed: float | None
    ) -> Any:
        """Ask, and again without a condition where the server knows none: it was looked before."""
        try:
            return await ask(call, arguments, self.retries, allowed, self._silence)
        except ClientError as error:
            if "IfNoneMatch" not in arguments or _refusal(error) not in _UNKNOWN:
                raise
        arguments = {name: value for name, value in arguments.items() if name != "IfNoneMatch"}
        return await ask(call, arguments, self.retries, allowed, self._silence)

    def _prepare(self, client: Any) -> None:
        """Have a client hear of what is done here, once."""
        read_quickly(client)
        events = client.meta.events
        events.register("before-sign.s3.DeleteObjects", _add_md5, unique_id="mlartifacts-md5")
        events.register("request-created.s3", _expect_nothing, unique_id="mlartifacts-expect")
        events.register_first("needs-retry.s3", _give_up, unique_id="mlartifacts-give-up")
        look = functools.partial(_look_where, self.is_redirected)
        events.register_first("needs-retry.s3", look, unique_id="mlartifacts-look-where")

    async def _abort(self, upload: dict[str, str]) -> None:
        """Abort an upload in parts, because of an error that counts more than one of this."""
        with contextlib.suppress(Exception):
            await asyncio.shield(self._call_s3("abort_multipart_upload", **upload))

    def _get_s3_method_kwargs(self, method: Any, *akwarglist: Any, **kwargs: Any) -> Any:
        not_for = _NOT_FOR.get(method.__name__, UPLOAD_ARGUMENTS - _EVERYWHERE)
        given = dict(self.req_kw)
        for more in akwarglist:
            given.update(more)
        # An open file may be told that nobody pays whom the filesystem's `requester_pays` names.
        given = {**self.s3_additional_kwargs, **_without_payer(given)}
        settings = {name: value for name, value in given.items() if name not in not_for}
        if method.__name__ in _NAMED_BY_KEY:
            settings = {**told_by_name(kwargs["Key"]), **settings}
        # A copy reads its source by the key that everything is encrypted with.
        encryption = {name: value for name, value in settings.items() if "SSECustomer" in name}
        settings |= {f"CopySource{name}": value for name, value in encryption.items()}
        return self._filter_kwargs(method, _without_payer({**settings, **kwargs}))

    @contextlib.asynccontextmanager
    async def _leaving_nothing(self) -> AsyncIterator[None]:
        """Abort the multipart uploads begun inside, where they are cancelled.

        s3fs aborts them on an error. It is a cancellation, though, that ends an upload because
        another one of the same ``put`` failed.
        """
        uploads: list[dict[str, str]] = []
        token = _uploads.set(uploads)
        try:
            yield
        except asyncio.CancelledError:
            for upload in uploads:
                await self._abort(upload)
            raise
        finally:
            _uploads.reset(token)

    # ---- Looking -------------------------------------------------------------------------

    async def _lsdir(self, path: str, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        return [e for e in await super()._lsdir(path, *args, **kwargs) if not _is_marker(e)]

    async def _ls(
        self, path: str, detail: bool = False, refresh: bool = False, versions: bool = False
    ) -> Any:
        path = self._strip_protocol(path)
        bucket, key, _ = self.split_path(path)
        if not bucket:
            entries = await self._lsbuckets(refresh)
        else:
            found = await super()._lsdir(path, refresh, versions=versions)
            entries = [entry for entry in found if not _is_marker(entry)]
            if not found and key:
                # s3fs lists all of the parent to find a file.
                entries = [await self._head(path)]
        return entries if detail else sorted(entry["name"] for entry in entries)

    async def _head(self, path: str) -> dict[str, Any]:
        """The entry of a file.

        Raises
        ------
        FileNotFoundError
            There is no object of this name.
        """
        bucket, key, version = self.split_path(path)
        head = await self._call_s3(
            "head_object", Bucket=bucket, Key=key, **({"VersionId": version} if version else {})
        )
        return {
            "name": f"{bucket}/{key}",
            "type": "file",
            "size": head["ContentLength"],
            "ETag": head.get("ETag", ""),
            "LastModified": head.get("LastModified", ""),
            "StorageClass": head.get("StorageClass", "STANDARD"),
            "VersionId": head.get("VersionId"),
            "ContentType": head.get("ContentType"),
        }

    async def _isdir(self, path: str) -> bool:
        # s3fs lists all of the directory; one key tells.
        bucket, key, _ = self.split_path(path)
        if not bucket:
            return True
        try:
            if not key.strip("/"):
                return bool((await self._info(bucket))["type"] == "directory")
            below = key.rstrip("/") + "/"
            answer = await self._call_s3("list_objects_v2", Bucket=bucket, Prefix=below, MaxKeys=1)
        except FileNotFoundError:
            return False
        return bool(answer.get("Contents"))

    async def _find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool | None = None,
        detail: bool = False,
        prefix: str = "",
        **kwargs: Any,
    ) -> Any:
        bucket, key, _ = self.split_path(path)
        is_plain = not (maxdepth or withdirs or prefix or kwargs or self.version_aware)
        try:
            if is_plain and bucket:
                listed = await self._files(bucket, key.rstrip("/") + "/" if key else "")
                if not listed and key:
                    listed = [await self._head(path)]
                found = {entry["name"]: entry for entry in listed if not _is_marker(entry)}
            else:
                options = {"maxdepth": maxdepth, "withdirs": withdirs, "prefix": prefix, **kwargs}
                found = await super()._find(path, detail=True, **options)
        except FileNotFoundError:  # the bucket is not there
            found = {}
        if not withdirs:  # s3fs gives a directory that has nothing in it
            found = {name: e for name, e in found.items() if e["type"] != "directory"}
        return found if detail else list(found)

    async def _entries(self, path: str) -> dict[str, dict[str, Any]]:
        """The entry of a file, or those of all files below a directory, by path.

        In one request, where what begins with the name fits into one answer: it says of the name
        itself, too.
        """
        bucket, key, _ = self.split_path(path)
        if not key:
            found = await self._files(bucket, "")
        else:
            begun = await self._beginning_with(bucket, key)
            if begun is None:
                try:
                    begun = [await self._head(path)]
                except FileNotFoundError:
                    begun = await self._files(bucket, f"{key}/")
            for entry in begun:
                if entry["name"] == f"{bucket}/{key}":
                    return {path: entry}
            found = [entry for entry in begun if entry["name"].startswith(f"{bucket}/{key}/")]
            if not found:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return {entry["name"]: entry for entry in found if not _is_marker(entry)}

    async def _beginning_with(self, bucket: str, name: str) -> list[dict[str, Any]] | None:
        """The entries of all keys that begin with a name; ``None`` where it takes more requests."""
        if self.version_aware or bucket.endswith(DIRECTORY_BUCKET):
            return None
        try:
            answer = await self._list_page(bucket, name)
        except PermissionError:  # a policy may let list what is below, and that alone
            return None
        return None if answer.get("IsTruncated") else [*files_listed(answer, bucket)]

    async def _files(self, bucket: str, prefix: str) -> list[dict[str, Any]]:
        """The entries of all keys that begin with a prefix, markers of directories too.

        A page is read while the next one is on its way.
        """
        if self.version_aware:
            return list(await super()._lsdir(bucket, delimiter="", prefix=prefix))
        found: list[dict[str, Any]] = []
        token: str | None = None
        page = asyncio.ensure_future(self._list_page(bucket, prefix))
        try:
            while True:
                answer = await page
                if answer.get("IsTruncated"):
                    before, token = token, answer.get("NextContinuationToken")
                    if token in {None, before}:
                        reason = "the listing is cut off, and says no place to go on"
                        raise OSError(errno.EIO, reason, f"{bucket}/{prefix}")
                    ask = self._list_page(bucket, prefix, ContinuationToken=token)
                    page = asyncio.ensure_future(ask)
                    for _ in range(_UNTIL_SENT):
                        await asyncio.sleep(0)
                found += files_listed(answer, bucket)
                if not answer.get("IsTruncated"):
                    return found
        finally:
            page.cancel()

    async def _list_page(self, bucket: str, prefix: str, **more: str) -> Any:
        asked = {"Bucket": bucket, "Prefix": prefix, "EncodingType": "url", **more, **self.req_kw}
        return await self._call_s3("list_objects_v2", **asked)

    # ---- Reading -------------------------------------------------------------------------

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        file = super()._open(path, mode=mode, **kwargs)
        if mode == "rb":
            said = {name: value for name, value in file.read_kw.items() if value is not None}
            etag = said.pop("IfMatch", None)
            if etag is None and self.local_expiry_check:
                etag = file.details.get("ETag")
            ranges = Ranges(self, {**self._target(path, file.version_id), **said}, etag)
            file.cache.fetcher = functools.partial(synced, self.loop, ranges.follow)
            # A file that is closed, or forgotten, drops its cache.
            weakref.finalize(file.cache, _let_go, self.loop, ranges).atexit = False
        return file

    def _target(self, path: str, version: str | None = None) -> dict[str, Any]:
        bucket, key, version_in_path = self.split_path(path)
        version = version or version_in_path
        return {"Bucket": bucket, "Key": key, **({"VersionId": version} if version else {})}

    async def _cat_file(
        self,
        path: str,
        start: int | None = None,
        end: int | None = None,
        version_id: str | None = None,
        chunksize: int | None = None,
        max_concurrency: int | None = None,
    ) -> bytes:
        """The bytes from `start` to `end`, neither of them negative."""
        target = self._target(path, version_id)
        ranges = Ranges(self, target)
        try:
            if start or end is not None:
                return await ranges.read(start or 0, end)
            size = await ranges.size()
            step = chunksize or self.default_block_size
            at_once = max_concurrency or self.max_concurrency
            if at_once == 1 or size <= step:
                return await ranges.read(0, size)
            return await self._cat_pieces(target, ranges.etag, size, step, at_once)
        except OSError as error:
            if _refusal(error) in {"416", "InvalidRange"}:
                return b""  # behind the end, as a slice is
            raise
        finally:
            ranges.drop()

    async def _cat_pieces(
        self, target: dict[str, Any], etag: str | None, size: int, step: int, at_once: int
    ) -> bytes:
        places = asyncio.Semaphore(at_once)

        async def piece(start: int) -> bytes:
            async with places:
                return await Ranges(self, target, etag).read(start, min(start + step, size))

        return b"".join(await asyncio.gather(*map(piece, range(0, size, step))))

    # ---- Writing -------------------------------------------------------------------------

    async def _pipe_file(
        self, path: str, data: Any, *args: Any, mode: str = "overwrite", **kwargs: Any
    ) -> Any:
        await self._refuse_existing(path, mode)
        async with self._leaving_nothing():
            return await super()._pipe_file(path, data, *args, mode=mode, **kwargs)

    async def _put_file(
        self, lpath: str, rpath: str, *args: Any, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        if os.path.isdir(lpath):
            await self._makedirs(rpath, exist_ok=True)
            return
        await self._refuse_existing(rpath, mode)
        # s3fs tells the type by the local name, and would have it win.
        told = {**told_by_name(rpath), **self.s3_additional_kwargs, **kwargs}
        if "ContentType" in told:
            kwargs["ContentType"] = told["ContentType"]
        async with self._leaving_nothing():
            await super()._put_file(lpath, rpath, *args, mode=mode, **kwargs)

    async def _refuse_existing(self, path: str, mode: str) -> None:
        # A condition on the upload says it too, but older servers do not heed it.
        if mode == "create" and await self._exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)

    async def _mkdir(self, path: str, acl: Any = False, **kwargs: Any) -> None:
        # s3fs would make the bucket that a wrong name says.
        if not self.split_path(path)[1].strip("/"):
            await super()._mkdir(path, acl=acl, **kwargs)

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        try:
            await self._mkdir(path)
        except (FileExistsError, PermissionError):  # who may not look may be let write
            if not exist_ok:
                raise

    async def _cp_file(
        self, path1: str, path2: str, preserve_etag: bool | None = None, **kwargs: Any
    ) -> None:
        entry = await self._info(path1)
        if entry["type"] == "directory":
            return  # a tree is copied file by file, and its directories are no objects
        if preserve_etag:
            await super()._cp_file(path1, path2, preserve_etag=preserve_etag, **kwargs)
        else:
            await self._copy_object(path1, path2, entry["size"], None, **kwargs)

    async def _copy_object(
        self, path1: str, path2: str, size: int, etag: str | None, **kwargs: Any
    ) -> None:
        """Copy an object of so many bytes, and none with another ETag than is given."""
        if size <= _COPIED_AT_ONCE:
            same = {} if etag is None else {"CopySourceIfMatch": etag}
            await self._copy_basic(path1, path2, **same, **kwargs)
        else:
            await self._copy_managed(path1, path2, size, etag=etag, **kwargs)

    async def _copy_managed(
        self,
        path1: str,
        path2: str,
        size: int,
        block: int = 50 * 2**20,
        etag: str | None = None,
        **kwargs: Any,
    ) -> None:
        bucket1, key1, version = self.split_path(path1)
        bucket2, key2, _ = self.split_path(path2)
        source = {"Bucket": bucket1, "Key": key1, **({"VersionId": version} if version else {})}
        target = {"Bucket": bucket2, "Key": key2}
        head = await self._call_s3("head_object", **source)
        kept = {n: head[n] for n in _PRESERVE_KWARGS if n in head and n != "ContentLength"}
        kept = {**kept, **self.s3_additional_kwargs, **kwargs}
        upload = await self._call_s3("create_multipart_upload", kept, **target)
        target["UploadId"] = upload["UploadId"]
        block = max(block, math.ceil(size / _PARTS))
        try:
            parts = []
            for number, first in enumerate(range(0, size, block), 1):
                answer = await self._call_s3(
                    "upload_part_copy",
                    **target,
                    PartNumber=number,
                    CopySource=source,
                    CopySourceRange=f"bytes={first}-{min(first + block, size) - 1}",
                    CopySourceIfMatch=etag or head["ETag"],
                )
                parts.append({"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]})
            await self._call_s3(
                "complete_multipart_upload", **target, MultipartUpload={"Parts": parts}
            )
        except BaseException:
            await self._abort(target)
            raise
        self.invalidate_cache(path2)

    async def _mv_file(self, path1: str, path2: str) -> None:
        await self._cp_file(path1, path2)
        await S3FileSystem._rm_file(self, path1)

    # ---- Deleting ------------------------------------------------------------------------

    async def _rm_file(self, path: str, **kwargs: Any) -> None:
        await self._head(path)  # S3 itself says nothing where there is nothing
        await super()._rm_file(path, **kwargs)

    async def _rm_tree(self, path: str) -> None:
        """Delete the key, and every key below it, markers of directories too."""
        bucket, key, _ = self.split_path(path)
        names, deleted = [key], False  # a file may have the directory's name
        async for page in self._list_pages("list_objects_v2", Bucket=bucket, Prefix=f"{key}/"):
            names += [item["Key"] for item in page.get("Contents", [])]
            if len(names) > DELETED_AT_ONCE:
                await self._delete(bucket, names[:DELETED_AT_ONCE])
                names, deleted = names[DELETED_AT_ONCE:], True
        if names == [key] and not deleted:
            await self._rm_file(path)
        else:
            await self._delete(bucket, names)

    async def _rm_listed(self, paths: list[str]) -> list[str]:
        if len(paths) == 1:
            await S3FileSystem._rm_file(self, paths[0])
            return []
        bucket = self.split_path(paths[0])[0]
        keys = {self.split_path(path)[1]: path for path in paths}
        sure = [key for key in keys if _IN_XML.fullmatch(key)]
        answer = await self._delete_keys(bucket, sure, quiet=False) if sure else {}
        deleted = {each.get("Key") for each in answer.get("Deleted", [])}
        return [path for key, path in keys.items() if key not in deleted]

    async def _bulk_delete(self, pathlist: list[str], **kwargs: Any) -> list[str]:
        if pathlist:
            bucket = self.split_path(pathlist[0])[0]
            await self._delete(bucket, [path.removeprefix(f"{bucket}/") for path in pathlist])
        return pathlist

    async def _delete(self, bucket: str, keys: list[str]) -> None:
        """Delete up to 1,000 keys; s3fs passes over what could not be deleted."""
        if not keys:
            return
        answer = await self._delete_keys(bucket, keys, quiet=True)
        for failure in answer.get("Errors", []):
            raise ClientError({"Error": failure}, "DeleteObjects")

    async def _delete_keys(self, bucket: str, keys: list[str], quiet: bool) -> Any:
        """What the store says of each key, or (`quiet`) of those that it did not delete."""
        objects = {"Objects": [{"Key": key} for key in keys], "Quiet": quiet}
        answer = await self._call_s3("delete_objects", Bucket=bucket, Delete=objects)
        for key in keys:
            self.invalidate_cache(self._parent(f"{bucket}/{key}"))
        return answer


def told_by_name(name: str) -> dict[str, str]:
    """What an object's name says of its type, as MLflow reads it."""
    kind, encoding = mimetypes.guess_type(name)
    told = {"ContentType": kind, "ContentEncoding": encoding}
    return {header: value for header, value in told.items() if value is not None}


def _let_go(loop: asyncio.AbstractEventLoop, ranges: Ranges) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed, and so are its connections
        loop.call_soon_threadsafe(ranges.drop)


def _is_marker(entry: dict[str, Any]) -> bool:
    """Whether it is a key ``dir/`` of no bytes, which only says that there is a directory."""
    return bool(entry["type"] == "file" and entry["name"].endswith("/") and not entry["size"])


def _refusal(error: BaseException | None) -> str:
    """The code that the server gave, beneath the layers; ``""`` where it gave none."""
    while error is not None:
        if isinstance(error, ClientError):
            return str(error.response["Error"].get("Code", ""))
        error = error.__cause__
    return ""


def _give_up(caught_exception: BaseException | None = None, **kwargs: Any) -> None:
    """Have botocore, which asks whether to try again, raise a timeout at once."""
    if isinstance(caught_exception, ConnectTimeoutError | ReadTimeoutError) or (
        # The system's, which ends an upload that the server does not take.
        isinstance(cause := getattr(caught_exception, "__context__", None), OSError)
        and cause.errno == errno.ETIMEDOUT
    ):
        raise Hung(str(caught_exception)) from caught_exception


def _look_where(
    is_redirected: threading.Event,
    request_dict: dict[str, Any],
    response: Any = None,
    caught_exception: BaseException | None = None,
    **kwargs: Any,
) -> None:
    """Note an answer of another server than was asked, as one to which that redirected."""
    if response is not None:
        http, parsed = response
        if _server(http.url) != _server(request_dict["url"]):
            is_redirected.set()
            there = urlsplit(http.url).netloc
            parsed.setdefault("ResponseMetadata", {})["RedirectedTo"] = there
    elif caught_exception is not None and redirected_to(caught_exception):
        is_redirected.set()


def redirected_to(error: BaseException) -> str | None:
    """Which server could not be reached, where another one was asked."""
    asked: dict[str, Any] = getattr(error, "kwargs", {})
    host, port = (getattr(asked.get("error"), name, None) for name in ("host", "port"))
    is_other = host is not None and (host, port) != _server(asked.get("endpoint_url", ""))
    return f"{host}:{port}" if is_other else None


def _server(url: str) -> tuple[str | None, int | None]:
    """The host and the port of a URL."""
    parts = urlsplit(url)
    return parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _without_payer(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments without a payer that is ``None``, as s3fs' open files say it."""
    return {n: value for n, value in arguments.items() if (n, value) != ("RequestPayer", None)}


def _add_md5(request: Any, **kwargs: Any) -> None:
    """Say the MD5 of a list of what is to be deleted, as older servers want it."""
    made = hashlib.md5(request.data, usedforsecurity=False).digest()
    request.headers["Content-MD5"] = base64.b64encode(made).decode()


def _expect_nothing(request: Any, **kwargs: Any) -> None:
    """Upload without waiting for a ``100 Continue``, for which aiohttp has no timeout."""
    if "Expect" in request.headers:
        del request.headers["Expect"]
