"""What lets others read and write a store for a while: presigned URLs.

A store may offer a signer (:meth:`~mlartifacts.promises.ArtifactFileSystem.signer`): whoever has a
URL of its can do what the URL says, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mlartifacts.proxy.wire import Upload

__all__ = ["UPLOADING", "Signer"]

#: Seconds that a part may take to arrive, from when its upload begins: MLflow's server gives as
#: much.
UPLOADING = 3600


class Signer(Protocol):
    """Signs for one file at a time; the errors are the filesystem's.

    Every method may be called by many threads at once.
    """

    def reading(self, path: str, seconds: int) -> str:
        """The URL by which a file can be read, if there is one; no store is asked.

        Parameters
        ----------
        path : str
        seconds : int
            How long.
        """

    def begin(self, path: str, parts: int) -> Upload:
        """Begin to write a file, whose parts are sent to the URLs that this gives.

        Parameters
        ----------
        path : str
        parts : int
            How many.
        """

    def complete(self, path: str, upload_id: str, parts: Sequence[tuple[int, str]]) -> None:
        """Make a file of the parts that were sent, each by its number and its ETag."""

    def abort(self, path: str, upload_id: str) -> None:
        """Drop the parts that were sent."""
