"""What is uploaded: bytes that can be read more than once, in parts and again."""

from __future__ import annotations

import asyncio
import errno
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

__all__ = ["Body", "Spool"]

_PIECE = 2**20
_IN_MEMORY = 16 * 2**20


class Body:
    """The bytes of an open file, read at any place by any number of readers.

    Parameters
    ----------
    file : binary file
        Whoever made it closes it.
    size : int
        How many bytes of it are meant.
    """

    def __init__(self, file: Any, size: int) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.size = size

    def _read(self, start: int, length: int) -> bytes:
        with self._lock:
            self._file.seek(start)
            data: bytes = self._file.read(length)
        return data

    async def pieces(
        self, start: int, stop: int, sent: Callable[[int], object]
    ) -> AsyncIterator[bytes]:
        """The bytes from `start` to before `stop`, a megabyte at a time; `sent` hears how many.

        Raises
        ------
        OSError
            The file is shorter than it was.
        """
        while start < stop:
            data = await asyncio.to_thread(self._read, start, min(_PIECE, stop - start))
            if not data:
                raise OSError(errno.EIO, "the file became shorter while it was read")
            yield data
            start += len(data)
            sent(len(data))


class Spool:
    """A file being written, kept until its size is known: on the disk, where it is large.

    The proxy publishes what it was sent when a request ends, and must know the size first.

    Parameters
    ----------
    publish : callable
        Sends the whole.
    autocommit : bool
        Whether :meth:`close` publishes, or :meth:`commit` later.
    """

    def __init__(self, publish: Callable[[Body], object], autocommit: bool) -> None:
        self._publish = publish
        self._autocommit = autocommit
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115

    def write(self, data: Any) -> int:
        """Take bytes."""
        return self._file.write(data)

    def tell(self) -> int:
        """How many there are."""
        return self._file.tell()

    def flush(self) -> None:
        """Nothing is published before the end."""

    def seekable(self) -> bool:
        """Never: artifacts do not change in place."""
        return False

    def close(self) -> None:
        """End the file, and publish it unless a transaction does."""
        if self._autocommit:
            self.commit()

    def commit(self) -> None:
        """Publish the file."""
        self._publish(Body(self._file, self._file.tell()))
        self._file.close()

    def discard(self) -> None:
        """Drop what was written."""
        self._file.close()
