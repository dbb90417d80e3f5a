"""s3fs under this package's promises."""

from __future__ import annotations

import errno
import functools
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fsspec.asyn import _run_coros_in_chunks

from mlartifacts.carrying import Carrier
from mlartifacts.checksums import Checksum, Kind
from mlartifacts.environment import Environment
from mlartifacts.errors import InvalidConfig, InvalidURI, final, is_final, of_store
from mlartifacts.promises import TOO_LARGE, AsyncArtifactFileSystem, synced, texts, unfit_key
from mlartifacts.stores.s3 import STORE
from mlartifacts.uri import server_name_of
from mlartifacts.writing import WholeWrite

if TYPE_CHECKING:
    from mlartifacts.signing import Signer

with STORE.driver():
    from aiohttp import ClientError as AiohttpError
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectTimeoutError,
        CredentialRetrievalError,
        EndpointConnectionError,
        HTTPClientError,
        NoCredentialsError,
        NoRegionError,
        ParamValidationError,
        PartialCredentialsError,
        ProfileNotFound,
        ProxyConnectionError,
        ReadTimeoutError,
        SSLError,
        SSOError,
        TokenRetrievalError,
        UnauthorizedSSOTokenError,
        UnknownSignatureVersionError,
    )

    from mlartifacts.stores.s3.answers import has_md5
    from mlartifacts.stores.s3.asking import Hung
    from mlartifacts.stores.s3.driver import DELETED_AT_ONCE, S3Driver, redirected_to

__all__ = ["S3ArtifactFileSystem"]

_MISSING = frozenset("404 NoSuchKey NoSuchBucket NoSuchUpload NoSuchVersion NotFound".split())

_LOGIN = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile (AWS_PROFILE) or a role; for a"
    " public bucket, MLFLOW_EXPERIMENTAL_S3_SIGNATURE_VERSION=unsigned or anon=True"
)
_EXPIRED = "log in again, and renew AWS_SESSION_TOKEN if it is set"
_REGION = "set AWS_DEFAULT_REGION to the bucket's region"

#: What a refusal's code means to do.
_DENIED = {
    "401": _LOGIN,
    "403": f"not for these credentials, or (where they may not list) not there; {_LOGIN}",
    "AccessDenied": f"the credentials may not do this; for others, {_LOGIN}",
    "AccountProblem": "see the account's state",
    "AllAccessDisabled": "see the bucket's policy",
    "AuthorizationHeaderMalformed": _REGION,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "Forbidden": "the credentials may not do this",
    "InvalidAccessKeyId": "see AWS_ACCESS_KEY_ID or AWS_PROFILE, and MLFLOW_S3_ENDPOINT_URL",
    "InvalidObjectState": "the object is archived: restore it first",
    "InvalidSecurity": _LOGIN,
    "InvalidToken": _EXPIRED,
    "RequestExpired": _EXPIRED,
    "RequestTimeTooSkewed": "set this machine's clock",
    "SignatureDoesNotMatch": f"see AWS_SECRET_ACCESS_KEY; else, {_REGION}",
    "TokenRefreshRequired": _EXPIRED,
    "UnauthorizedAccess": _LOGIN,
}

# Those of them that concern one object, and not everything that the credentials ask for.
_OF_OBJECTS = frozenset({"403", "AccessDenied", "Forbidden", "InvalidObjectState"})

_THERE = "to which the server redirects"
_DAMAGED = "other bytes arrived than were sent"
_OTHERS: dict[str, tuple[int, str]] = {
    **dict.fromkeys(
        ("BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"),
        (errno.EIO, _DAMAGED),
    ),
    "BucketAlreadyExists": (errno.EEXIST, "the name is taken"),
    "BucketAlreadyOwnedByYou": (errno.EEXIST, "the bucket is there already"),
    "BucketNotEmpty": (errno.ENOTEMPTY, "the bucket is not empty"),
    "EntityTooLarge": (errno.EFBIG, "the store takes no object of this size"),
    "IllegalLocationConstraintException": (errno.EINVAL, _REGION),
    "NotImplemented": (errno.EOPNOTSUPP, "the store has no such request"),
    "KeyTooLongError": (errno.ENAMETOOLONG, "the key is too long"),
    "PermanentRedirect": (errno.EINVAL, _REGION),
    # The store's own time, and none that was set here: it may be mended by another try.
    "RequestTimeout": (errno.ECONNABORTED, "the store waited too long for the upload"),
    "301": (errno.EINVAL, _REGION),
    "413": (errno.EFBIG, TOO_LARGE),
    **dict.fromkeys(
        ("429", "503", "ServiceUnavailable", "SlowDown"), (errno.EBUSY, "the store is overloaded")
    ),
}

_CHECKSUMS = "set AWS_REQUEST_CHECKSUM_CALCULATION=when_required for this older store"
_CA_BUNDLE = "AWS_CA_BUNDLE"
_TIMEOUT = "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT sets how long to wait"
_AMAZONS = re.compile(r"\.amazonaws\.com(\.cn)?$")
_CREDENTIALS = ("key", "secret", "token", "username", "password", "profile", "session")


class S3ArtifactFileSystem(AsyncArtifactFileSystem, S3Driver):
    """Amazon S3 and its like.

    Listings are not cached: other clients (MLflow's, say) write beside this one.
    """

    store = STORE
    lists_md5 = True
    lists_flat = True

    def __init__(self, *args: Any, uri: str | None = None, **explicit: Any) -> None:
        super().__init__(*args, uri=uri, **_over_the_environment(explicit))
        endpoint = urlsplit(self.endpoint_url or "")
        self._endpoint_host = endpoint.netloc
        if endpoint.scheme != "http" and "verify" not in self.client_kwargs:
            Environment().authorities(_CA_BUNDLE)  # botocore's words would not name the variable
        self._carriers: dict[str, Carrier | None] = {}

    def unstrip_protocol(self, name: str) -> str:
        """The URL of a path, in the scheme that the filesystem was opened with."""
        if not self.root_uri.netloc:
            return super().unstrip_protocol(name)
        bucket, _, key = self._strip_protocol(name).partition("/")
        return f"{self.root_uri.scheme}://{bucket}@{self.root_uri.netloc}/{key}"

    def servers(self) -> frozenset[str]:
        """The endpoint; Amazon's are one, as a bucket is the same at each."""
        with self._explaining(""):
            endpoint = synced(self.loop, self.set_session).meta.endpoint_url
        host = urlsplit(endpoint).hostname or ""
        if found := _AMAZONS.search(host):
            # Its partitions have buckets of their own.
            return frozenset({f"{'us-gov' if 'us-gov' in host else ''}{found[0]}"})
        return frozenset({server_name_of(endpoint)})

    def carrier(self, path: str) -> Carrier | None:
        from mlartifacts.stores.s3 import bulk

        bucket, _, _ = self.split_path(path)
        if bucket not in self._carriers:
            self._carriers[bucket] = bulk.carrier(self, bucket)
        return self._carriers[bucket]

    def signer(self) -> Signer | None:
        from mlartifacts.stores.s3 import signing

        return signing.signer(self)

    # ---- Errors --------------------------------------------------------------------------

    async def _call_s3(self, method: str, *akwarglist: Any, **kwargs: Any) -> Any:
        bucket = kwargs.get("Bucket", "")
        name = kwargs.get("Key") or kwargs.get("Prefix")
        path = f"{bucket}/{name.rstrip('/')}" if name else bucket
        # Here, as not every operation of fsspec is made of those that explain their errors.
        with self._explaining(path):
            if bucket and bucket == self._endpoint_host:
                raise InvalidURI(
                    f"{path} has the endpoint's host where the bucket belongs: write"
                    " s3://<bucket>/<key>. Where a tracking server gave this artifact"
                    " root, its --default-artifact-root was set to MLFLOW_S3_ENDPOINT_URL."
                )
            return await super()._call_s3(method, *akwarglist, **kwargs)

    async def _url(self, path: str, *args: Any, **kwargs: Any) -> str:
        with self._explaining(path):
            url: str = await super()._url(path, *args, **kwargs)
            return url

    def _translate(self, error: Exception, path: str) -> Exception | None:
        for each in (error, error.__cause__):
            if isinstance(each, ClientError):
                meant = self._translate_answer(each, path)
                return final(meant) if is_final(each) else meant
        if there := redirected_to(error):
            return OSError(_number(error), f"{there}, {_THERE}, cannot be reached", path)
        match error:
            case Hung() | ConnectTimeoutError() | ReadTimeoutError():
                return TimeoutError(errno.ETIMEDOUT, f"no answer in time ({_TIMEOUT})", path)
            case ParamValidationError() | TypeError():
                return self._translate_parameters(error, path)
            case NoCredentialsError() | PartialCredentialsError() | ProfileNotFound():
                return of_store(PermissionError(errno.EACCES, f"{error}: {_LOGIN}", path))
            case (
                CredentialRetrievalError()
                | TokenRetrievalError()
                | SSOError()
                | UnauthorizedSSOTokenError()
            ):
                return of_store(PermissionError(errno.EACCES, f"{error}: {_EXPIRED}", path))
            case NoRegionError():
                return InvalidConfig(f"{error} Set AWS_DEFAULT_REGION.")
            case UnknownSignatureVersionError():
                return InvalidConfig(f"MLFLOW_EXPERIMENTAL_S3_SIGNATURE_VERSION: {error}")
            case SSLError():
                hint = "name its authority in AWS_CA_BUNDLE, or set MLFLOW_S3_IGNORE_TLS=true"
                return ConnectionError(errno.ECONNABORTED, f"{error}: {hint}", path)
            case EndpointConnectionError() | ProxyConnectionError() | HTTPClientError():
                return OSError(_number(error), str(error), path)
            case AiohttpError():
                return OSError(_number(error), str(error), path)
            case BotoCoreError():
                return OSError(errno.EIO, str(error), path)
        return None

    def _translate_answer(self, error: ClientError, path: str) -> Exception:
        response: Any = error.response
        code = str(response["Error"].get("Code", ""))
        status = str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
        given = response["Error"].get("Message")
        message = f"{code}: {given}" if given and given != code else code
        if there := response.get("ResponseMetadata", {}).get("RedirectedTo"):
            message = f"{there}, {_THERE}, says {message}"
        bucket, key, _ = self.split_path(path)
        if code == "NoSuchBucket" or (code in _MISSING and not key):
            at = f" at {self.endpoint_url}" if self.endpoint_url else ""
            reason = f"There is no bucket {bucket!r}{at}"
            return of_store(FileNotFoundError(errno.ENOENT, reason, path))
        if code in _MISSING:
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if code in _DENIED or status in {"401", "403"}:
            hint = _DENIED.get(code, _LOGIN)
            denied = PermissionError(errno.EACCES, f"{message}: {hint}", path)
            return of_store(denied) if code in _DENIED.keys() - _OF_OBJECTS else denied
        if code in {"PreconditionFailed", "412", "ConditionalRequestConflict"}:
            if error.operation_name in {"PutObject", "CompleteMultipartUpload"}:
                return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
            return OSError(errno.ESTALE, "the object changed while it was read", path)
        if code == "MissingContentLength" or "x-amz-checksum" in message.lower():
            return OSError(errno.EINVAL, f"{message}: {_CHECKSUMS}", path)
        if code == "InvalidBucketName":
            return InvalidURI(f"{path}: {message}")
        if code in _OTHERS:
            number, hint = _OTHERS[code]
            return OSError(number, f"{message}: {hint}", path)
        number = errno.EINVAL if status.startswith("4") else errno.EIO
        return OSError(number, message, path)

    def _translate_parameters(self, error: Exception, path: str) -> Exception | None:
        said = str(error)
        if isinstance(error, ParamValidationError) and "Invalid bucket name" in said:
            return InvalidURI(f"{path}: {said.partition(': Bucket name must')[0]}.")
        named = [name for name in self.s3_additional_kwargs if name in said]
        if isinstance(error, TypeError) and "SSECustomerKey" in self.s3_additional_kwargs:
            named = ["SSECustomerKey"]
        if named:
            # The driver's words have the value, which may be a key.
            return InvalidConfig(
                f"MLFLOW_S3_UPLOAD_EXTRA_ARGS (or s3_additional_kwargs) has"
                f" {', '.join(named)} of a type that S3 does not take."
            )
        return None

    _isdir = S3Driver._isdir

    def entries(self, path: str) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = synced(
            self.loop, self._entries, self._strip_protocol(path)
        )
        return found

    def unfit(self, path: str) -> str | None:
        return unfit_key(self.split_path(path)[1])

    def cp_listed(self, path1: str, path2: str, size: int, version: str | None) -> None:
        with self._explaining(path1):
            synced(self.loop, self._copy_object, path1, path2, size, version)

    def checks_uploads(self, path: str) -> bool:
        """Whether requests are signed by SigV4.

        That signs the SHA-256 of each body, and S3 refuses a body of another one. botocore leaves
        it out over TLS alone, and there where the request has another checksum, which S3 compares
        as well; obstore never. An object in parts is made of those that were taken, by their ETags.
        """
        with self._explaining(path):
            checks: bool = synced(self.loop, self._checks_uploads, path)
        return checks

    async def _checks_uploads(self, path: str) -> bool:
        await self.set_session()
        config = (await self.get_s3(self.split_path(path)[0])).meta.config
        is_left_out = (config.s3 or {}).get("payload_signing_enabled") is False
        return not (self.anon or is_left_out) and config.signature_version in {"s3v4", None}

    def vouches(self, path: str, checksum: Checksum) -> bool:
        """Whether it is one, and if it is of parts, whether these are as long as it was made of."""
        with self._explaining(path):
            is_one: bool = synced(self.loop, self._vouches, path, checksum.kind)
        return is_one

    async def _vouches(self, path: str, kind: Kind) -> bool:
        bucket, key, _ = self.split_path(path)
        head = functools.partial(self._call_s3, "head_object", Bucket=bucket, Key=key)
        said = await head()
        if kind.algorithm == "md5" and not has_md5(bucket, said):
            return False
        if not kind.part:
            return True
        parts = -(-said["ContentLength"] // kind.part)
        asked = [head(PartNumber=number) for number in range(1, parts + 1)]
        sizes = [part["ContentLength"] for part in await _run_coros_in_chunks(asked)]
        return set(sizes[:-1]) <= {kind.part} and sum(sizes) == said["ContentLength"]

    # ---- Reading -------------------------------------------------------------------------

    async def _cat_file(  # type: ignore[override]
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        within = await self._within(path, start, end)
        if within is None:
            return b""
        try:
            data: bytes = await super()._cat_file(path, start=within[0], end=within[1], **kwargs)
        except FileNotFoundError as error:
            if await self._isdir(path):
                raise _is_a_directory(path) from error
            raise
        return data

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        if not self.split_path(path)[1]:
            raise _is_a_directory(path)
        file = super()._open(path, mode=mode, **kwargs)
        if mode == "rb" and kwargs.get("size") is None and file.details["type"] == "directory":
            raise _is_a_directory(path)
        return file

    # ---- Writing -------------------------------------------------------------------------

    def _open_whole(self, path: str, mode: str, **kwargs: Any) -> WholeWrite:
        # A condition on the upload says it too, but older servers do not heed it, and s3fs
        # does not make it for an empty file.
        if "x" in mode and self.exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        return super()._open_whole(path, mode, **kwargs)

    # ---- Deleting ------------------------------------------------------------------------

    def removed_together(self, path: str) -> int:
        return DELETED_AT_ONCE

    def rm_listed(self, paths: list[str]) -> list[str]:
        left: list[str] = synced(self.loop, self._rm_listed, paths)
        return left

    async def _rm_file(self, path: str, **kwargs: Any) -> None:
        try:
            await super()._rm_file(path, **kwargs)
        except FileNotFoundError as error:
            if await self._isdir(path):
                raise _is_a_directory(path) from error
            raise

    async def _rm(self, path: Any, recursive: bool = False, **kwargs: Any) -> None:
        paths = [self._strip_protocol(each) for each in texts(path)]
        if not recursive and len(paths) > 1:
            paths = await self._rm_files(paths)
        for each in paths:
            if not self.split_path(each)[1]:
                await super()._rm(each, recursive=recursive, **kwargs)
            elif recursive:
                await self._rm_tree(each)
            else:
                await self._rm_file(each)

    async def _rm_files(self, paths: list[str]) -> list[str]:
        """Delete files by few requests, and give those that are to be deleted by one each.

        As with s3fs, a file that is not there is no error: S3 does not tell.
        """
        keys: dict[str, list[str]] = {}
        left: list[str] = []
        for path in dict.fromkeys(paths):
            bucket, key, version = self.split_path(path)
            (keys.setdefault(bucket, []) if key and version is None else left).append(path)
        asked = [
            self._rm_listed(some[first : first + DELETED_AT_ONCE])
            for some in keys.values()
            for first in range(0, len(some), DELETED_AT_ONCE)
        ]
        for some in await _run_coros_in_chunks(asked):
            left += some
        return left


def _is_a_directory(path: str) -> IsADirectoryError:
    return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)


def _over_the_environment(explicit: dict[str, Any]) -> dict[str, Any]:
    """Spell out what options mean for others, which the environment would fill in."""
    given = dict(explicit)
    client = dict(given.get("client_kwargs") or {})
    if "endpoint_url" in client:
        # s3fs hands botocore both, which fails.
        given.setdefault("endpoint_url", client.pop("endpoint_url"))
        client.pop("endpoint_url", None)
        given["client_kwargs"] = client
    if any(given.get(name) for name in _CREDENTIALS) or "aws_access_key_id" in client:
        given.setdefault("anon", False)
    return given


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        inner = getattr(error, "kwargs", {}).get("error")
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__


def _number(error: Exception) -> int:
    """The error number that the system gave, beneath the layers; a broken connection's if none."""
    numbers = (each.errno for each in _causes(error) if isinstance(each, OSError) and each.errno)
    found = next(numbers, None)
    known = {errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT}
    return found if found in known else errno.ECONNABORTED
