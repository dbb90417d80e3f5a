"""What moves the bytes of many files faster than a driver's own filesystem does.

A store may offer a carrier for a directory (:meth:`~mlartifacts.promises.ArtifactFileSystem.
carrier`). It keeps the promises of its filesystem, or is not offered: what it cannot carry, the
filesystem does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from mlartifacts.checksums import Checksum

__all__ = ["Begun", "Carrier"]

# Takes what abandons a write that has begun.
Begun = Callable[[Callable[[], None]], object]


class Carrier(Protocol):
    """Reads and writes whole files and ranges; the errors are the filesystem's.

    Every method may be called by many threads at once.
    """

    def takes(self, path: str) -> bool:
        """Whether it can carry a file of this name."""

    def sends(self, path: str, size: int) -> bool:
        """Whether it can write a file of this name and of so many bytes."""

    def read(
        self, path: str, start: int, end: int, version: str | None, whole: bool = False
    ) -> list[Any]:
        """The bytes from `start` to `end`, as buffers that follow each other.

        Parameters
        ----------
        path : str
        start, end : int
            Below the size of the file, `end` at most that.
        version : str or None
            What :meth:`~fsspec.AbstractFileSystem.info` said as ``ETag``.
        whole : bool, default False
            These are all bytes that the file has: no range need be asked for.

        Raises
        ------
        OSError
            ``ESTALE``: the file is of another version.
        """

    def checksum(self, path: str, version: str | None) -> Checksum | None:
        """A checksum that the store keeps of a large file and does not list, if there is one.

        Parameters
        ----------
        path : str
        version : str or None
            As for :meth:`read`; ``None`` is said of any other.
        """

    def write(self, path: str, data: Any) -> Checksum | None:
        """Write a file at once; the checksum that its store then says of it, if it says one."""

    def write_pieces(
        self, path: str, pieces: Iterator[bytes], part: int, ahead: int, begun: Begun
    ) -> None:
        """Write a large file; nothing of it is left where `pieces` raises, or anything else does.

        The store is sent a checksum of every part, and refuses what arrives otherwise.

        Parameters
        ----------
        path : str
        pieces : iterator of bytes
        part : int
            Bytes of a part.
        ahead : int
            How many parts may be on their way at once.
        begun : callable
            Called before the first piece is taken, with a function that removes what this write
            has brought, and nothing of another write of the same name; this one fails then.
        """
