"""The bytes of transfers through obstore, which is written in Rust.

A request costs aiobotocore one to two milliseconds of CPU and obstore a tenth of that. What is
said to the server is botocore's business here too: the credentials, the endpoint and how buckets
are addressed are asked of the filesystem's own client.

Where a setting means something to botocore that obstore does not know, there is no carrier, and
s3fs carries the bytes: nothing is dropped. The synchronous calls are used, on threads, as the
asynchronous ones may crash the interpreter at its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import errno
import functools
import inspect
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError, SSLError

from mlartifacts.carrying import Begun
from mlartifacts.checksums import Checksum, Kind, listed
from mlartifacts.promises import synced
from mlartifacts.stores.s3 import OBSTORES_OWN
from mlartifacts.stores.s3.answers import DIRECTORY_BUCKET, has_md5, no_answer
from mlartifacts.stores.s3.asking import Hung
from mlartifacts.stores.s3.driver import told_by_name

if TYPE_CHECKING:
    from mlartifacts.stores.s3.filesystem import S3ArtifactFileSystem

__all__ = ["S3Carrier", "carrier"]

T = TypeVar("T")

# Upload arguments that obstore knows as attributes of an object, and as settings of a store.
_ATTRIBUTES = {
    "CacheControl": "Cache-Control",
    "ContentDisposition": "Content-Disposition",
    "ContentEncoding": "Content-Encoding",
    "ContentLanguage": "Content-Language",
    "ContentType": "Content-Type",
    "StorageClass": "Storage-Class",
}
_SETTINGS = {
    "BucketKeyEnabled": "sse_bucket_key_enabled",
    "SSEKMSKeyId": "sse_kms_key_id",
    "ServerSideEncryption": "server_side_encryption",
}
_ENCRYPTIONS = frozenset({"AES256", "aws:kms", "aws:kms:dsse"})
# Options of the filesystem whose meaning is kept.
_CLIENT_OPTIONS = frozenset(
    "aws_access_key_id aws_secret_access_key aws_session_token endpoint_url region_name verify"
    " use_ssl".split()
)
_CONFIG_OPTIONS = frozenset(
    "connect_timeout max_pool_connections read_timeout region_name retries s3 signature_version"
    " connector_args".split()
)
# Which of these botocore would go through, and which obstore, they decide differently.
_PROXIES = "http_proxy https_proxy all_proxy".split()

# Bytes of what an answer is taken in.
_PIECE = 2**20
# obstore refuses them in names.
_UNNAMEABLE = re.compile(r"[\x00-\x1f\x7f]|(?:^|/)(?:\.{0,2})(?:/|$)")
_ASCII = re.compile(r"[\x20-\x7e]*")
# The ETag of an object that came in parts: the MD5 of their MD5s, unless it is encrypted.
_TAG_OF_PARTS = re.compile(r'"([0-9a-f]{32})-\d+"')
# Checksums of an object, the cheapest to make first.
_CHECKSUMS = ("CRC32C", "CRC32", "SHA1", "SHA256")
# What obstore says of an answer that is none of S3's.
_IS_NONE = re.compile(r"source: (Metadata|Invalid\w+Response|NotPartial)\b")
# What an upload is given to arrive besides the wait for its answer: obstore's timeout for the
# answer begins with the upload, and would end slow ones that go on well.
_SLOWEST = 2**16  # bytes a second
_AT_ONCE_SENT = 2**16  # what the sockets' buffers take
_PART = 2**23  # a usual part: smaller ones wait as long, in the same client
_LONGEST = datetime.timedelta(days=365)
_RETRIES = 3
# How long a server is thought to be busy, in seconds.
_BUSY_FOR = 60
# How long credentials that are renewed count; botocore renews them ten minutes before their end.
_FRESH = datetime.timedelta(minutes=9)
# The process that obstore's threads are in: a fork has none.
_process: int | None = None


def carrier(fs: S3ArtifactFileSystem, bucket: str) -> S3Carrier | None:
    """What carries a bucket's bytes; ``None`` where s3fs must."""
    global _process
    try:
        import obstore  # noqa: F401
    except ImportError:
        return None
    if _process not in {None, os.getpid()} or not _is_known(fs, bucket):
        return None
    try:
        settings = synced(fs.loop, _settings, fs, bucket)
    except (BotoCoreError, ClientError, OSError):
        return None  # s3fs says it better, at the first request
    if settings is None:
        return None
    _process = os.getpid()
    return S3Carrier(fs, bucket, settings)


def _is_known(fs: Any, bucket: str) -> bool:
    """Whether the filesystem has no setting that obstore lacks."""
    variables = {name.lower() for name, value in os.environ.items() if value}
    if any(name in variables for name in _PROXIES) or any(map(os.environ.get, OBSTORES_OWN)):
        return False
    if bucket.startswith("arn:") or bucket.endswith(DIRECTORY_BUCKET):
        return False
    s3 = fs.config_kwargs.get("s3") or {}
    return not (
        fs.asynchronous
        or fs.version_aware
        or fs.req_kw
        or not fs._session_is_owned
        or fs.client_kwargs.keys() - _CLIENT_OPTIONS
        or fs.config_kwargs.keys() - _CONFIG_OPTIONS
        or s3.keys() - {"addressing_style"}
        or not _carries(fs.s3_additional_kwargs)
    )


def _carries(arguments: Mapping[str, Any]) -> bool:
    """Whether obstore can say all of the upload arguments."""
    known = {*_ATTRIBUTES, *_SETTINGS, "Metadata"}
    if arguments.keys() - known:
        return False
    if arguments.get("ServerSideEncryption", "AES256") not in _ENCRYPTIONS:
        return False
    if not isinstance(arguments.get("BucketKeyEnabled", False), bool):
        return False
    texts = {n: v for n, v in arguments.items() if n not in {"Metadata", "BucketKeyEnabled"}}
    metadata = arguments.get("Metadata", {})
    headers = {header.lower() for header in _ATTRIBUTES.values()}
    return (
        all(
            isinstance(v, str) and _ASCII.fullmatch(v)
            for v in (*texts.values(), *metadata.values())
        )
        and all(_ASCII.fullmatch(name) for name in metadata)
        and not any(name.lower() in headers for name in metadata)
    )


async def _settings(fs: Any, bucket: str) -> dict[str, Any] | None:
    """What botocore would do for this bucket, in obstore's words."""
    await fs.set_session()
    client = await fs.get_s3(bucket)
    config = client.meta.config
    anonymous = fs.anon or getattr(config.signature_version, "__name__", "") == "UNSIGNED"
    if config.signature_version not in {"s3v4", None} and not anonymous:
        return None
    if config.proxies or config.client_cert:
        return None
    url = urlsplit(
        await client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    )
    virtual = url.netloc.startswith(f"{bucket}.")
    if not url.path.endswith("/k" if virtual else f"/{bucket}/k"):
        return None
    prefix = url.path.removesuffix("/k" if virtual else f"/{bucket}/k")
    region = client.meta.region_name
    region = "us-east-1" if region in {None, "aws-global"} else region
    if ".amazonaws.com" in url.netloc and await _region_of(fs, bucket) not in {None, region}:
        return None  # botocore follows the bucket to its region
    endpoint = f"{url.scheme}://{url.netloc}{prefix}"
    settings: dict[str, Any] = {
        "endpoint": endpoint,
        "aws_endpoint_url_s3": endpoint,
        "region": region,
        "virtual_hosted_style_request": virtual,
        "skip_signature": bool(anonymous),
        # What the environment may say otherwise.
        "unsigned_payload": False,
        "s3_express": False,
        "request_payer": False,
    }
    if config.request_checksum_calculation == "when_supported":
        settings["checksum_algorithm"] = "SHA256"
    settings |= {
        _SETTINGS[name]: value
        for name, value in fs.s3_additional_kwargs.items()
        if name in _SETTINGS
    }
    if not anonymous:
        settings["credential_provider"] = _Credentials(fs, client._request_signer._credentials)
    options: dict[str, Any] = {
        "allow_http": url.scheme == "http",
        "allow_invalid_certificates": False,
        "connect_timeout": datetime.timedelta(seconds=config.connect_timeout or 60),
        "timeout": _LONGEST,
    }
    verify = fs.client_kwargs.get("verify")
    if verify is None:
        verify = client._endpoint.http_session._verify
    if url.scheme == "https" and verify is False:
        options["allow_invalid_certificates"] = True
    elif url.scheme == "https" and isinstance(verify, str | os.PathLike):
        with open(verify, "rb") as authorities:
            options["root_certificate"] = authorities.read()
    retries = _RETRIES
    if "retries" not in fs.config_kwargs:  # the environment, or a profile, says how often
        retries = max((config.retries or {}).get("total_max_attempts", _RETRIES + 1) - 1, 0)
    return {
        "options": options,
        "wait": config.read_timeout,
        "is_wait_set": fs.config_kwargs.get("read_timeout") is not None,
        "retries": retries,
        "store": settings,
    }


async def _region_of(fs: Any, bucket: str) -> str | None:
    client = await fs.get_s3(bucket)
    try:
        answer = await client.head_bucket(Bucket=bucket)
    except ClientError as error:
        answer = error.response
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region: str | None = headers.get("x-amz-bucket-region")
    return region


class _Credentials:
    """Gives obstore the credentials that botocore has, again where they are renewed."""

    def __init__(self, fs: Any, credentials: Any) -> None:
        self._loop = fs.loop
        self._credentials = credentials

    def __call__(self) -> dict[str, Any]:
        frozen = synced(self._loop, self._frozen)
        renewed = hasattr(self._credentials, "refresh_needed")
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.datetime.now(datetime.UTC) + _FRESH if renewed else None,
        }

    async def _frozen(self) -> Any:
        frozen = self._credentials.get_frozen_credentials()
        return await frozen if inspect.isawaitable(frozen) else frozen


class S3Carrier:
    """Carries the bytes of one bucket.

    Parameters
    ----------
    fs : S3ArtifactFileSystem
        Whose promises are kept.
    bucket : str
    settings : dict
    """

    def __init__(self, fs: S3ArtifactFileSystem, bucket: str, settings: dict[str, Any]) -> None:
        self._fs = fs
        self._bucket = bucket
        self._settings = settings
        arguments = fs.s3_additional_kwargs
        self._attributes = {
            **{_ATTRIBUTES[n]: v for n, v in arguments.items() if n in _ATTRIBUTES},
            **arguments.get("Metadata", {}),
        }
        self._stores: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._busy_until = 0.0

    def takes(self, path: str) -> bool:
        """Whether obstore can say the name, to a server that takes it as it comes.

        One that is busy may say when to come again, and one that redirects says where to: s3fs'
        requests heed it, and obstore's do not.
        """
        if time.monotonic() < self._busy_until or self._fs.is_redirected.is_set():
            return False
        return path.startswith(f"{self._bucket}/") and not _UNNAMEABLE.search(self._key(path))

    def sends(self, path: str, size: int) -> bool:
        """Whether obstore also ends an upload in time that the server does not take.

        Its wait for an answer begins with the upload, so that it must be longer by what a slow
        line may take. Where the user sets the wait, s3fs keeps to it.
        """
        return self.takes(path) and (size <= _AT_ONCE_SENT or not self._settings["is_wait_set"])

    def read(
        self, path: str, start: int, end: int, version: str | None, whole: bool = False
    ) -> list[Any]:
        """The bytes from `start` to `end`; without asking for a range where these are all.

        A server may have to look twice for a range (Ceph keeps a small object with its entry).
        """
        if start == end:
            return []
        import obstore

        key = self._key(path)
        asked: dict[str, Any] = {} if whole else {"range": (start, end)}
        if version is not None:
            asked["if_match"] = version
        store = self._store(0)

        def get() -> list[Any]:
            answer = obstore.get(store, key, options=asked)
            if answer.meta["e_tag"] is None:
                raise no_answer("it has no ETag")
            if answer.range != (start, end):  # before any of it is taken into memory
                reason = f"{end - start} bytes were asked for, and {answer.range} are given"
                raise OSError(errno.ESTALE, reason, path)
            # Short pieces use memory again that is there; a long one takes new pages each time.
            return [answer.bytes()] if end - start <= _PIECE else [*answer.stream(_PIECE)]

        return self._explained(path, "GetObject", get)

    def checksum(self, path: str, version: str | None) -> Checksum | None:
        """What an upload gave the object, in whole or in parts; no other than of `version`."""
        try:
            said, first = synced(self._fs.loop, self._heads, self._key(path), version)
            if version is not None and said.get("ETag") != version:
                return None
            part = _part(said, first)
            algorithm = next((name for name in _CHECKSUMS if said.get(f"Checksum{name}")), None)
            if algorithm is None:
                tag = _TAG_OF_PARTS.fullmatch(said.get("ETag", ""))
                if tag is None or part is None or not has_md5(self._bucket, said):
                    return None
                return Checksum(Kind("md5", part), bytes.fromhex(tag[1]), certain=False)
            text, of_parts, _ = said[f"Checksum{algorithm}"].partition("-")
            kind = "COMPOSITE" if of_parts else said.get("ChecksumType")
            if kind is None and "-" in said["ETag"]:
                return None  # nobody says what it is of
            if kind == "COMPOSITE" and part is None:
                return None
            size = part if kind == "COMPOSITE" else 0
        except OSError:
            return None  # not everybody may ask
        made = Checksum.encoded(algorithm.lower(), text, size or 0)
        # That the parts between the first and the last are as long as the first, nobody says.
        return dataclasses.replace(made, certain=False) if made and size else made

    async def _heads(self, key: str, version: str | None) -> tuple[dict[str, Any], ...]:
        """What is said of an object, and of the first of its parts, at once if it has some."""
        ask = functools.partial(self._fs._call_s3, "head_object", Bucket=self._bucket, Key=key)
        asked = [ask(ChecksumMode="ENABLED")]
        if version is None or "-" in version:
            asked.append(ask(PartNumber=1))
        said, *first = await asyncio.gather(*asked, return_exceptions=True)
        if isinstance(said, BaseException):
            raise said
        # A server need not know of parts.
        return said, first[0] if first and isinstance(first[0], dict) else {}

    def write(self, path: str, data: Any) -> Checksum | None:
        """Write an object at once."""
        import obstore

        key = self._key(path)
        store = self._store(len(data))
        put: Callable[..., Any] = obstore.put
        if len(data) > _AT_ONCE_SENT:  # on a slow line, this takes long enough to be stopped
            put = functools.partial(synced, self._fs.loop, obstore.put_async)
        sent = {"use_multipart": False, "attributes": self._described(key)}
        answer = self._explained(path, "PutObject", lambda: put(store, key, data, **sent))
        return listed({"ETag": answer["e_tag"]})

    def write_pieces(
        self, path: str, pieces: Iterator[bytes], part: int, ahead: int, begun: Begun
    ) -> None:
        """Write an object in parts."""
        import obstore

        key = self._key(path)
        pieces = self._telling(begun, key, self._uploads(key), pieces)
        store = self._store(part)
        put = functools.partial(obstore.put, store, key, chunk_size=part, max_concurrency=ahead)
        self._explained(
            path,
            "UploadPart",
            lambda: put(file=pieces, use_multipart=True, attributes=self._described(key)),
        )

    def _telling(
        self, begun: Begun, key: str, before: frozenset[str], pieces: Iterator[bytes]
    ) -> Iterator[bytes]:
        """Tell how to abort an upload: obstore does not give its id, but begins it by now."""
        new = self._uploads(key) - before

        def abort() -> None:
            if len(new) == 1:  # another may be somebody else's
                with contextlib.suppress(OSError):
                    self._fs.call_s3(
                        "abort_multipart_upload", Bucket=self._bucket, Key=key, UploadId=min(new)
                    )

        begun(abort)
        yield from pieces

    def _uploads(self, key: str) -> frozenset[str]:
        try:
            answer = self._fs.call_s3("list_multipart_uploads", Bucket=self._bucket, Prefix=key)
        except (ConnectionError, FileNotFoundError, TimeoutError):
            raise
        except OSError:  # not everybody who may write may list
            return frozenset()
        uploads = answer.get("Uploads", [])
        return frozenset(each["UploadId"] for each in uploads if each["Key"] == key)

    def _key(self, path: str) -> str:
        return path.removeprefix(f"{self._bucket}/")

    def _described(self, key: str) -> dict[str, str]:
        named = {_ATTRIBUTES[name]: value for name, value in told_by_name(key).items()}
        return {**named, **self._attributes}

    def _store(self, size: int) -> Any:
        """A client that waits for an upload of this size."""
        from obstore.store import S3Store

        wait = self._settings["wait"]
        slow = 0 if size <= _AT_ONCE_SENT else -(-max(size, _PART) // _SLOWEST)
        with self._lock:
            if slow in self._stores:
                return self._stores[slow]
            options = dict(self._settings["options"])
            if wait is not None:
                options["read_timeout"] = datetime.timedelta(seconds=wait + slow)
            store = S3Store(
                self._bucket,
                client_options=options,
                # A quick refusal is asked about again, and a wait that was in vain is not.
                retry_config={
                    "max_retries": self._settings["retries"],
                    "retry_timeout": datetime.timedelta(seconds=min(wait or 60, 60)),
                },
                **self._settings["store"],
            )
            self._stores[slow] = store
            return store

    # ---- Errors --------------------------------------------------------------------------

    def _explained(self, path: str, operation: str, act: Callable[[], T]) -> T:
        """Do something, and raise the filesystem's errors in the place of obstore's.

        These hold all of an answer, and with it what was signed.
        """
        from obstore.exceptions import BaseError

        try:
            return act()
        except (BaseError, FileNotFoundError) as error:
            if isinstance(error, FileNotFoundError) and error.filename is not None:
                raise  # the source's
            plain = self._plain(str(error), operation)
        explained = self._fs._explain(plain, path)
        if isinstance(explained, OSError) and explained.errno == errno.EBUSY:
            self._busy_until = time.monotonic() + _BUSY_FOR
        raise explained from plain

    def _plain(self, text: str, operation: str) -> Any:
        """The error that botocore would have raised, without what it does not say."""
        if _IS_NONE.search(text):
            return no_answer(text.partition("\n")[0].rpartition(": ")[2])
        if status := re.search(r"status code: (\d{3})", text):
            if status[1].startswith("3"):
                self._fs.is_redirected.set()
            code = re.search(r"<Code>([^<]*)</Code>", text)
            if status[1] == "404" and code is None and "<html" in text.lower():
                return no_answer("status 404")
            message = re.search(r"<Message>([^<]*)</Message>", text)
            return ClientError(
                {
                    "Error": {
                        "Code": code[1] if code else status[1],
                        "Message": message[1] if message else "",
                    },
                    "ResponseMetadata": {"HTTPStatusCode": int(status[1])},
                },
                operation,
            )
        if "timed out" in text or "TimedOut" in text:
            return Hung("no answer in time")
        if found := re.search(r"InvalidCertificate\(\s*(\w+)", text):
            return SSLError(endpoint_url=self._settings["store"]["endpoint"], error=found[1])
        number = re.search(r"code: (\d+),", text)
        said = re.search(r"HTTP error: ([^\n]*)", text)
        reason = said[1] if said else "the connection broke off"
        if number:
            return OSError(int(number[1]), os.strerror(int(number[1])))
        return ConnectionAbortedError(errno.ECONNABORTED, reason)


def _part(whole: dict[str, Any], first: dict[str, Any]) -> int | None:
    """How long each part of an object is, most likely; ``None`` where they differ for sure."""
    size: int = first.get("ContentLength", 0)
    is_alike = size and first.get("PartsCount") == -(-whole["ContentLength"] // size)
    return size if is_alike else None
