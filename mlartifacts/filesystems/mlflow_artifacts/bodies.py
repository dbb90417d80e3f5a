"""What is uploaded: bytes that can be read more than once, in parts and again, or as they come."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fsspec.callbacks import DEFAULT_CALLBACK

from mlartifacts.promises import synced
from mlartifacts.proxy import wire

__all__ = ["IN_MEMORY", "PARTS_AT_ONCE", "Body", "Spool", "Stream", "Window"]

_PIECE = 2**20
#: Bytes of a file that are held in memory while it is written.
IN_MEMORY = 8 * 2**20
#: Parts that are on their way at once: each holds a piece in memory.
PARTS_AT_ONCE = 8
# Where it passes in parts, so long ones, and so many bytes.
_PART = 8 * 2**20
_OF_PARTS = 32 * 2**20


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
        kept = stack.enter_context(tempfile.SpooledTemporaryFile(IN_MEMORY))  # noqa: SIM115
        shutil.copyfileobj(file, kept, _PIECE)
        return cls(kept, kept.tell())

    async def parts(self, size: int) -> tuple[int, int]:
        """How long parts are that should have `size` bytes, and how many are sent at once."""
        return max(size, -(-self.size // wire.MOST_PARTS)), PARTS_AT_ONCE

    def holds(self, start: int) -> bool:
        """Whether the bytes from `start` on can be sent again."""
        return True

    async def release(self, start: int, stop: int) -> None:
        """A part has arrived."""

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
            The file is shorter or longer than it was, or its bytes are not held any more. The
            last piece is not given then, so that no request ends well.
        """
        alone = (start, stop) == (0, self.size)
        while start < stop:
            data = await self._piece(start, min(start + _PIECE, stop), alone)
            yield data
            start += len(data)
            sent(len(data))

    async def sha256(self) -> str:
        """The SHA-256 of all bytes, which are read for it."""
        made = hashlib.sha256()
        async for piece in self.pieces(0, self.size, DEFAULT_CALLBACK.relative_update):
            made.update(piece)
        return made.hexdigest()

    async def _piece(self, start: int, stop: int, alone: bool) -> bytes:
        """The bytes from `start` to before `stop`; `alone` if one request sends all the file."""
        length = stop - start
        data = await asyncio.to_thread(self._read, start, length + (stop == self.size))
        if not data:
            raise OSError(errno.EIO, "the file became shorter while it was read")
        if len(data) > length:
            raise OSError(errno.EIO, "the file became longer while it was read")
        return data


class Window(Body):
    """The bytes of a file that passes: the last that came, until they have arrived.

    Parameters
    ----------
    size : int
        Of the file.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._held, self._start = bytearray(), 0
        self._room = IN_MEMORY
        self._arrived: dict[int, int] = {}
        self._ended = False
        self._changed = asyncio.Condition()

    @property
    def came(self) -> int:
        """How many bytes came so far."""
        return self._start + len(self._held)

    async def put(self, data: Any) -> None:
        """Take bytes as soon as there is room.

        Raises
        ------
        OSError
            There are more than the file has.
        """
        left = memoryview(data).cast("B")
        if self.came + len(left) > self.size:
            raise OSError(errno.EIO, f"it has more than the {self.size} bytes that were said")
        async with self._changed:
            while left:
                await self._changed.wait_for(lambda: len(self._held) < self._room)
                room = self._room - len(self._held)
                self._held += left[:room]
                left = left[room:]
                self._changed.notify_all()

    async def end(self) -> None:
        """All bytes came: until then the last of them are not sent, so that no request ends well.

        Raises
        ------
        OSError
            They did not.
        """
        if self.came != self.size:
            raise OSError(errno.EIO, f"it has {self.came} bytes, and not {self.size} as was said")
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def parts(self, size: int) -> tuple[int, int]:
        """Shorter parts than asked for, as all of those on their way are held."""
        part, _ = await super().parts(min(size, _PART))
        async with self._changed:  # who waits for room may have it now
            self._room = max(_OF_PARTS, part)
            self._changed.notify_all()
        return part, self._room // part

    def holds(self, start: int) -> bool:
        """Whether the bytes from `start` on can be sent again."""
        return start >= self._start

    async def release(self, start: int, stop: int) -> None:
        """A part has arrived: drop it, if what is before it has, too."""
        self._arrived[start] = stop
        async with self._changed:
            while self._start in self._arrived:
                self._drop(self._arrived.pop(self._start))

    def _drop(self, stop: int) -> None:
        del self._held[: stop - self._start]
        self._start = stop
        self._changed.notify_all()

    async def _piece(self, start: int, stop: int, alone: bool) -> bytes:
        """Wait until the bytes have come; an error where they are not held any more."""
        async with self._changed:
            while self.came < stop or (stop == self.size and not self._ended):
                # By one request, nobody says what has arrived: where there is room, its
                # beginning is held, for the server may refuse it at once, and be asked again.
                if alone and len(self._held) == self._room:
                    self._drop(start)
                await self._changed.wait()
            if not self.holds(start):
                raise OSError(errno.EIO, "what was sent is to be sent again, and not held")
            return bytes(self._held[start - self._start : stop - self._start])


class Writing:
    """A file being written, published at its end alone.

    Parameters
    ----------
    autocommit : bool
        Whether :meth:`close` publishes, or :meth:`commit` later.
    """

    def __init__(self, autocommit: bool) -> None:
        self._autocommit = autocommit

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
        raise NotImplementedError


class Spool(Writing):
    """A file being written, kept until its size is known: on the disk, where it is large.

    The proxy publishes what it was sent when a request ends, and must know the size first.

    Parameters
    ----------
    publish : callable
        Sends the whole.
    autocommit : bool
    """

    def __init__(self, publish: Callable[[Body], object], autocommit: bool) -> None:
        super().__init__(autocommit)
        self._publish = publish
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115

    def write(self, data: Any) -> int:
        """Take bytes."""
        return self._file.write(data)

    def tell(self) -> int:
        """How many there are."""
        return self._file.tell()

    def commit(self) -> None:
        """Publish the file."""
        self._publish(Body(self._file, self._file.tell()))
        self._file.close()

    def discard(self) -> None:
        """Drop what was written."""
        self._file.close()


class Stream(Writing):
    """A file being written whose size is known: its bytes are sent as they come.

    Parameters
    ----------
    loop : event loop
        Where they are sent.
    send : callable
        A coroutine function that sends the whole.
    size : int
    autocommit : bool
    """

    def __init__(
        self, loop: Any, send: Callable[[Body], Awaitable[Any]], size: int, autocommit: bool
    ) -> None:
        super().__init__(autocommit)
        self._loop = loop
        self._window = Window(size)

        async def begin() -> asyncio.Future[Any]:
            return asyncio.ensure_future(send(self._window))

        self._sending: asyncio.Future[Any] = synced(loop, begin)

    def write(self, data: Any) -> int:
        """Take bytes, as soon as there is room for them."""
        synced(self._loop, self._put, data)
        return memoryview(data).nbytes

    async def _put(self, data: Any) -> None:
        putting = asyncio.ensure_future(self._window.put(data))
        try:
            await asyncio.wait({putting, self._sending}, return_when=asyncio.FIRST_COMPLETED)
            if self._sending.cancelled():
                raise OSError(errno.ECANCELED, "the write was abandoned")
            if self._sending.done():
                self._sending.result()
                raise OSError(errno.EIO, "the server says that it has all before it was sent")
            putting.result()
        finally:
            putting.cancel()

    def tell(self) -> int:
        """How many there are."""
        return self._window.came

    def commit(self) -> None:
        """Publish the file."""
        synced(self._loop, self._end)

    async def _end(self) -> None:
        await self._window.end()
        await self._sending

    def discard(self) -> None:
        """Break off what is being sent."""
        synced(self._loop, self._stop)

    async def _stop(self) -> None:
        self._sending.cancel()
        await asyncio.gather(self._sending, return_exceptions=True)
