"""s3fs under this package's promises."""

from __future__ import annotations

import errno
import functools
import mimetypes
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    SSLError,
)
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem
from s3fs.core import _error_wrapper

from mlartifacts.errors import InvalidURI
from mlartifacts.promises import AsyncArtifactFileSystem
from mlartifacts.stores.s3 import STORE
from mlartifacts.writing import WholeWrite

__all__ = ["S3ArtifactFileSystem"]

_DENIED = frozenset(
    "403 AccessDenied AccountProblem AllAccessDisabled ExpiredToken Forbidden InvalidAccessKeyId"
    " InvalidToken InvalidSecurity RequestTimeTooSkewed SignatureDoesNotMatch"
    " TokenRefreshRequired UnauthorizedAccess XAmzContentSHA256Mismatch".split()
)
_MISSING = frozenset("404 NoSuchKey NoSuchBucket NoSuchVersion NotFound".split())
_LOGIN = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile (AWS_PROFILE) or a role; for a"
    " public bucket, MLFLOW_EXPERIMENTAL_S3_SIGNATURE_VERSION=unsigned or anon=True"
)


class _Hung(Exception):
    """A timeout, in a type that s3fs does not try again: one wait is what was asked for."""


class S3ArtifactFileSystem(AsyncArtifactFileSystem, S3FileSystem):  # type: ignore[misc]
    """Amazon S3 and its like.

    Listings are not cached: other clients (MLflow's, say) write beside this one.
    """

    store = STORE
    retries = 3

    def unstrip_protocol(self, name: str) -> str:
        """The URL of a path, in the scheme that the filesystem was opened with."""
        if not self.root_uri.netloc:
            return super().unstrip_protocol(name)
        bucket, _, key = self._strip_protocol(name).partition("/")
        return f"{self.root_uri.scheme}://{bucket}@{self.root_uri.netloc}/{key}"

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

    # ---- Requests and errors -------------------------------------------------------------

    async def _call_s3(self, method: str, *akwarglist: Any, **kwargs: Any) -> Any:
        await self.set_session()
        client = await self.get_s3(kwargs.get("Bucket"))
        # By one name, so that once is enough however often it is said.
        client.meta.events.register("request-created.s3", _expect_nothing, unique_id="mlartifacts")
        call = getattr(client, method)
        arguments = self._get_s3_method_kwargs(call, *akwarglist, **kwargs)
        return await _error_wrapper(_once(call), kwargs=arguments, retries=self.retries)

    call_s3 = sync_wrapper(_call_s3)  # the driver's own mirrors the driver's own

    def _translate(self, error: Exception, path: str) -> Exception | None:
        cause = error if isinstance(error, ClientError) else error.__cause__
        if isinstance(cause, ClientError):
            return self._translate_answer(cause.response, path)
        if isinstance(error, _Hung | ConnectTimeoutError | ReadTimeoutError):
            return TimeoutError(errno.ETIMEDOUT, f"no answer in time: {error}", path)
        if isinstance(error, ParamValidationError):
            return InvalidURI(f"{path}: {error}")
        if isinstance(error, NoCredentialsError | PartialCredentialsError | ProfileNotFound):
            return PermissionError(errno.EACCES, f"{error}: {_LOGIN}", path)
        if isinstance(error, CredentialRetrievalError):
            return PermissionError(errno.EACCES, str(error), path)
        if isinstance(error, SSLError):
            hint = "name its authority in AWS_CA_BUNDLE, or set MLFLOW_S3_IGNORE_TLS=true"
            return ConnectionError(errno.ECONNABORTED, f"{error}: {hint}", path)
        if isinstance(error, BotoCoreError):  # what is left has to do with the connection
            return ConnectionError(errno.ECONNREFUSED, str(error), path)
        return None

    def _translate_answer(self, response: Any, path: str) -> Exception | None:
        code = str(response["Error"].get("Code", ""))
        status = str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
        message = response["Error"].get("Message") or code
        if code == "NoSuchBucket":
            bucket = self.split_path(path)[0]
            return FileNotFoundError(errno.ENOENT, f"There is no bucket {bucket!r}", path)
        if code in _MISSING:
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if code in _DENIED or status in {"401", "403"}:
            return PermissionError(errno.EACCES, f"{code}: {message} ({_LOGIN})", path)
        if code == "PreconditionFailed" and response["Error"].get("Condition") == "If-None-Match":
            return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        if code == "PreconditionFailed":
            return OSError(errno.ESTALE, "The object changed while it was read", path)
        if code == "MissingContentLength":
            hint = "set AWS_REQUEST_CHECKSUM_CALCULATION=when_required for this older store"
            return OSError(errno.EINVAL, f"{code}: {hint}", path)
        if code == "InvalidBucketName":
            return InvalidURI(f"{path}: {message}")
        return None

    # ---- Looking -------------------------------------------------------------------------

    async def _iterdir(self, *args: Any, **kwargs: Any) -> AsyncIterator[dict[str, Any]]:
        async for entry in super()._iterdir(*args, **kwargs):
            # A key "dir/" of no bytes only says that there is a directory.
            if not (entry["type"] == "file" and entry["name"].endswith("/") and not entry["size"]):
                yield entry

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        try:
            return await super()._ls(path, detail=detail, **kwargs)
        except FileNotFoundError as error:
            if error.__cause__ is None and await self._isdir(path):
                return []  # only a marker is in it
            raise

    async def _isdir(self, path: str) -> bool:
        # s3fs lists all of the directory; one key tells.
        bucket, key, _ = self.split_path(path)
        if not bucket:
            return True
        try:
            if not key:
                return bool((await self._info(bucket))["type"] == "directory")
            answer = await self._call_s3(
                "list_objects_v2", Bucket=bucket, Prefix=key.rstrip("/") + "/", MaxKeys=1
            )
        except FileNotFoundError:
            return False
        return bool(answer.get("Contents"))

    async def _find(self, path: str, *args: Any, detail: bool = False, **kwargs: Any) -> Any:
        try:
            return await super()._find(path, *args, detail=detail, **kwargs)
        except FileNotFoundError:  # the bucket is not there
            return {} if detail else []

    # ---- Reading -------------------------------------------------------------------------

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        within = await self._within(path, start, end)
        if within is None:
            return b""
        try:
            data: bytes = await super()._cat_file(path, start=within[0], end=within[1], **kwargs)
        except OSError as error:
            cause = error.__cause__
            if isinstance(cause, ClientError) and cause.response["Error"].get("Code") in {
                "416",
                "InvalidRange",
            }:
                return b""  # behind the end, as a slice is
            if isinstance(error, FileNotFoundError) and await self._isdir(path):
                raise _is_a_directory(path) from error
            raise
        return data

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        if mode == "rb":
            file = super()._open(path, mode=mode, **kwargs)
            if kwargs.get("size") is None and file.details["type"] == "directory":
                raise _is_a_directory(path)
            return file
        if not self.split_path(path)[1]:
            raise _is_a_directory(path)
        return super()._open(path, mode=mode, **self._content(path, kwargs))

    # ---- Writing -------------------------------------------------------------------------

    def _content(self, path: str, given: dict[str, Any]) -> dict[str, Any]:
        """Add the type and the encoding that the name tells, as MLflow's uploads do."""
        kind, encoding = mimetypes.guess_type(path)
        guessed = {"ContentType": kind, "ContentEncoding": encoding}
        set_already = {**self.s3_additional_kwargs, **given}
        found = {name: value for name, value in guessed.items() if value is not None}
        # Also where a setting has it: s3fs' own guess for uploaded files would win over that.
        return {**found, **{n: set_already[n] for n in guessed if n in set_already}, **given}

    def _open_whole(self, path: str, mode: str, **kwargs: Any) -> WholeWrite:
        if "x" in mode and self.exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        return super()._open_whole(path, mode, **kwargs)

    async def _pipe_file(self, path: str, data: bytes, **kwargs: Any) -> Any:
        return await super()._pipe_file(path, data, **self._content(path, kwargs))

    async def _put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        await super()._put_file(lpath, rpath, **self._content(rpath, kwargs))

    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        try:
            await super()._cp_file(path1, path2, **kwargs)
        except FileNotFoundError:
            # A tree is copied file by file, and its directories are no objects.
            if not await self._isdir(path1):
                raise

    # ---- Deleting ------------------------------------------------------------------------

    async def _rm_file(self, path: str, **kwargs: Any) -> None:
        bucket, key, _ = self.split_path(path)
        await self._call_s3("head_object", Bucket=bucket, Key=key)  # S3 deletes nothing silently
        await super()._rm_file(path, **kwargs)

    async def _rm(self, path: Any, recursive: bool = False, **kwargs: Any) -> None:
        for each in [path] if isinstance(path, str) else path:
            each = self._strip_protocol(each)
            if not self.split_path(each)[1]:
                await super()._rm(each, recursive=recursive, **kwargs)
            elif recursive:
                await self._rm_tree(each)
            elif (await self._info(each))["type"] == "directory":
                raise _is_a_directory(each)
            else:
                await super()._rm_file(each)

    async def _rm_tree(self, path: str) -> None:
        """Delete the key, and every key below it, markers of directories too."""
        bucket, key, _ = self.split_path(path)
        pages = self._list_pages("list_objects_v2", Bucket=bucket, Prefix=key)
        found = 0
        async for page in pages:
            # The prefix alone would take "foobar" with "foo".
            keys = [
                item["Key"]
                for item in page.get("Contents", [])
                if item["Key"] == key or item["Key"].startswith(key + "/")
            ]
            found += len(keys)
            await self._bulk_delete([f"{bucket}/{each}" for each in keys])
        if not found:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    async def _bulk_delete(self, pathlist: list[str], **kwargs: Any) -> list[str]:
        if not pathlist:
            return []
        bucket = self.split_path(pathlist[0])[0]
        keys = [path.removeprefix(f"{bucket}/") for path in pathlist]
        for path in pathlist:
            self.invalidate_cache(self._parent(path))
        objects = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        answer = await self._call_s3("delete_objects", kwargs, Bucket=bucket, Delete=objects)
        # s3fs passes over what could not be deleted.
        for failure in answer.get("Errors", []):
            raise ClientError({"Error": failure}, "DeleteObjects")
        return pathlist


def _is_a_directory(path: str) -> IsADirectoryError:
    return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)


def _expect_nothing(request: Any, **kwargs: Any) -> None:
    """Drop ``Expect: 100-continue``: no timeout of aiohttp's bounds the wait for that answer."""
    if "Expect" in request.headers:
        del request.headers["Expect"]


def _once(call: Callable[..., Any]) -> Callable[..., Any]:
    """Make a client's method raise its timeouts in a type that s3fs does not try again."""

    @functools.wraps(call)
    async def call_once(**kwargs: Any) -> Any:
        try:
            return await call(**kwargs)
        except (ConnectTimeoutError, ReadTimeoutError) as error:
            raise _Hung(str(error)) from error

    return call_once
