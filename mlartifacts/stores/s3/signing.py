"""Presigned URLs of S3's, by botocore's own client."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlartifacts.promises import synced
from mlartifacts.proxy.wire import Part, Upload
from mlartifacts.signing import UPLOADING

if TYPE_CHECKING:
    from mlartifacts.stores.s3.filesystem import S3ArtifactFileSystem

__all__ = ["S3Signer", "signer"]


def signer(fs: S3ArtifactFileSystem) -> S3Signer | None:
    """What signs for a filesystem's buckets; ``None`` where a URL would not be enough.

    Nobody else is given a customer's key, and what a request must say besides (the expected
    owner, a checksum) is no part of what MLflow's clients send.
    """
    besides = any(re.search("SSECustomer|Checksum", name) for name in fs.s3_additional_kwargs)
    if fs.anon or fs.req_kw or fs.version_aware or besides:
        return None
    return S3Signer(fs)


def _newest(signature_version: str, **kwargs: Any) -> str | None:
    """Sign URLs as requests are signed; botocore would by a way that newer regions do not know.

    It is the client's, and so URLs that are asked of the filesystem itself are signed so, too.
    """
    return "s3v4-query" if signature_version in {"v4-query", "s3v4-query"} else None


class S3Signer:
    """Signs for objects.

    Parameters
    ----------
    fs : S3ArtifactFileSystem
    """

    def __init__(self, fs: S3ArtifactFileSystem) -> None:
        self._fs = fs

    def reading(self, path: str, seconds: int) -> str:
        """A URL that gives the object, or a part of it."""
        return self._signed(path, "get_object", [{}], seconds)[0]

    def begin(self, path: str, parts: int) -> Upload:
        """A multipart upload; S3 keeps its parts until it is completed or dropped."""
        upload_id: str = self._call("create_multipart_upload", path)["UploadId"]
        asked = [{"PartNumber": n, "UploadId": upload_id} for n in range(1, parts + 1)]
        urls = self._signed(path, "upload_part", asked, UPLOADING)
        return Upload(upload_id, tuple(Part(n, url, {}) for n, url in enumerate(urls, 1)))

    def complete(self, path: str, upload_id: str, parts: Sequence[tuple[int, str]]) -> None:
        """The object is there afterwards, in the place of one that was."""
        named = [{"PartNumber": number, "ETag": etag} for number, etag in parts]
        told = {"UploadId": upload_id, "MultipartUpload": {"Parts": named}}
        self._call("complete_multipart_upload", path, **told)

    def abort(self, path: str, upload_id: str) -> None:
        """Nothing is there afterwards but what was before."""
        self._call("abort_multipart_upload", path, UploadId=upload_id)

    def _call(self, method: str, path: str, **asked: Any) -> Any:
        bucket, key, _ = self._fs.split_path(path)
        return synced(self._fs.loop, self._fs._call_s3, method, Bucket=bucket, Key=key, **asked)

    def _signed(
        self, path: str, method: str, asked: Sequence[dict[str, Any]], seconds: int
    ) -> list[str]:
        """The URL of each request; none of them is sent."""
        bucket, key, _ = self._fs.split_path(path)

        async def urls() -> list[str]:
            client = await self._fs.get_s3(bucket)
            client.meta.events.register_first("choose-signer.s3", _newest, _newest.__name__)
            signed = []
            for each in asked:
                told = {"Bucket": bucket, "Key": key, **each}
                signed.append(
                    await client.generate_presigned_url(method, Params=told, ExpiresIn=seconds)
                )
                await asyncio.sleep(0)  # nothing is waited for else, and others share the loop
            return signed

        with self._fs._explaining(path):
            found: list[str] = synced(self._fs.loop, urls)
        return found
