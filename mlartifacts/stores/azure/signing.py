"""Presigned URLs of Azure's: shared access signatures for one blob each."""

from __future__ import annotations

import base64
import datetime
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from azure.storage.blob import BlobBlock, BlobSasPermissions, generate_blob_sas

from mlartifacts.promises import synced
from mlartifacts.proxy.wire import Part, Upload
from mlartifacts.signing import UPLOADING

if TYPE_CHECKING:
    from mlartifacts.stores.azure.filesystem import AzureArtifactFileSystem

__all__ = ["AzureSigner", "signer"]


def signer(fs: AzureArtifactFileSystem) -> AzureSigner | None:
    """What signs for a filesystem's containers; ``None`` where there is no account key for it."""
    key = getattr(fs.service_client.credential, "account_key", None)
    return None if key is None or fs.version_aware else AzureSigner(fs, key)


class AzureSigner:
    """Signs for blobs.

    Parameters
    ----------
    fs : AzureArtifactFileSystem
    key : str
        The account's.
    """

    def __init__(self, fs: AzureArtifactFileSystem, key: str) -> None:
        self._fs = fs
        self._key = key

    def reading(self, path: str, seconds: int) -> str:
        """A URL that gives the blob, or a part of it."""
        signature = self._signed(path, BlobSasPermissions(read=True), seconds)
        return f"{self._client(path).url}?{signature}"

    def begin(self, path: str, parts: int) -> Upload:
        """Blocks of a name that no other upload has; Azure drops them after a week."""
        upload_id = secrets.token_hex(8)
        signature = self._signed(path, BlobSasPermissions(write=True), UPLOADING)
        url = self._client(path).url
        begun = []
        for number in range(1, parts + 1):
            # As the client encodes it when it commits.
            block = base64.b64encode(_name(upload_id, number).encode()).decode()
            asked = f"comp=block&blockid={quote(block, safe='')}&{signature}"
            begun.append(Part(number, f"{url}?{asked}", {}))
        return Upload(upload_id, tuple(begun))

    def complete(self, path: str, upload_id: str, parts: Sequence[tuple[int, str]]) -> None:
        """The blob is there afterwards, in the place of one that was."""
        blocks = [BlobBlock(_name(upload_id, number)) for number, _ in parts]

        async def commit() -> None:
            async with self._client(path) as client:
                await client.commit_block_list(blocks)

        with self._fs._explaining(path):
            synced(self._fs.loop, commit)

    def abort(self, path: str, upload_id: str) -> None:
        """Nothing: there is no call that drops blocks before a week is over."""

    def _client(self, path: str) -> Any:
        container, blob, _ = self._fs.split_path(path)
        return self._fs.service_client.get_blob_client(container, blob)

    def _signed(self, path: str, permission: BlobSasPermissions, seconds: int) -> str:
        container, blob, _ = self._fs.split_path(path)
        signature: str = generate_blob_sas(
            account_name=self._fs.service_client.account_name,
            container_name=container,
            blob_name=blob,
            account_key=self._key,
            permission=permission,
            expiry=datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds),
        )
        return signature


def _name(upload_id: str, number: int) -> str:
    """What a block is called; all of a blob's names are of one length, as Azure wants them."""
    return f"{upload_id}-{number:05}"
