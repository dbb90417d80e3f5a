"""What is uploaded: bytes that can be read more than once, in parts and again."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import stat
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

    @classmethod
    def of(cls, path: str, stack: contextlib.ExitStack) -> Body:
        """The bytes of a local file; what tells its size only at its end is kept until there.

        Parameters
        ----------
        path : str
        stack : ExitStack
            Closes what is opened.
        """
        file = stack.enter_context(open(path, "rb"))  # noqa: SIM115  (the stack is one)
        about = os.fstat(file.fileno())
        if stat.S_ISREG(about.st_mode) and about.st_size:
            return cls(file, about.st_size)
        # A pipe; or one of /proc, which are regular files of no size, and have bytes.
        kept = stack.enter_context(tempfile.SpooledTemporaryFile(_IN_MEMORY))  # noqa: SIM115
        shutil.copyfileobj(file, kept, _PIECE)
        return cls(kept, kept.tell())

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
            The file is shorter or longer than it was. The last piece is not given then, so that
            no request ends well.
        """
        while start < stop:
            length = min(_PIECE, stop - start)
            last = start + length == self.size
            data = await asyncio.to_thread(self._read, start, length + last)
            if not data:
                raise OSError(errno.EIO, "the file became shorter while it was read")
            if len(data) > length:
                raise OSError(errno.EIO, "the file became longer while it was read")
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
