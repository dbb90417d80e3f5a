"""Bytes on their way: from a file to a client, and from a client to a file.

The store's filesystems are called on threads, as some of them have no other form; a client that
is slow holds none of them.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import anyio
from anyio import to_thread

from mlartifacts.server.errors import BadRequest
from mlartifacts.writing import WholeWrite

__all__ = ["Sending", "at_end", "on_thread", "receive"]

T = TypeVar("T")

_PIECE = 2**20
# Threads of what is asked of the store, and of what is given back: a store that hangs keeps nobody
# from ending.
_ASKING = anyio.CapacityLimiter(64)
_ENDING = anyio.CapacityLimiter(64)


async def on_thread(act: Callable[[], T]) -> T:
    """Do on a thread what may wait for the store."""
    return await to_thread.run_sync(act, limiter=_ASKING)


async def at_end(act: Callable[[], object]) -> None:
    """Do what is to be done, whoever is cancelled."""
    with anyio.CancelScope(shield=True):
        await to_thread.run_sync(act, limiter=_ENDING)


class Sending:
    """Bytes of an open file, on their way to a client.

    Parameters
    ----------
    file : file-like
        It is closed in the end.
    start, end : int
    """

    def __init__(self, file: Any, start: int, end: int) -> None:
        self._file = file
        self._at = start
        self._end = end
        self._first: bytes | None = None

    async def begin(self) -> None:
        """Read the first piece, while an error can still be told as one."""

        def first() -> bytes:
            if self._at:
                self._file.seek(self._at)
            return self._piece()

        if self._at < self._end:
            self._first = await on_thread(first)

    async def pieces(self) -> AsyncIterator[bytes]:
        """All of them. The client is told before how many bytes there are.

        An error here cuts its connection, so that what came does not pass for the whole.
        """
        while self._at < self._end:
            piece, self._first = self._first, None
            if piece is None:
                piece = await on_thread(self._piece)
            self._at += len(piece)
            yield piece

    def _piece(self) -> bytes:
        data: bytes = self._file.read(min(_PIECE, self._end - self._at))
        if not data:
            raise OSError(errno.ESTALE, "the file became shorter while it was read")
        if self._at + len(data) == self._end:
            self._file.close()
        return data

    async def close(self) -> None:
        """Close the file, whether all of it was sent or not."""
        if not self._file.closed:
            await at_end(self._file.close)


async def receive(
    body: AsyncIterator[bytes], size: int | None, create: Callable[[], WholeWrite]
) -> None:
    """Write what a client sends; nothing of it is there unless all of it came.

    Parameters
    ----------
    body : async iterator of bytes
        It raises where the client goes away.
    size : int or None
        Bytes that are to come, where it was said.
    create : callable
        Opens the file.

    Raises
    ------
    BadRequest
        Another number of bytes came.
    """
    gathered = bytearray()
    came = 0
    writer: WholeWrite | None = None

    def take() -> None:
        nonlocal writer
        if writer is None:
            writer = create()
        if gathered:
            writer.write(bytes(gathered))
            gathered.clear()

    def finish() -> None:
        take()
        assert writer is not None
        writer.close()

    try:
        async for chunk in body:
            gathered += chunk
            came += len(chunk)
            if len(gathered) >= _PIECE:
                await on_thread(take)
        if size not in {None, came}:
            raise BadRequest(f"{came} bytes came, where {size} were said")
        await on_thread(finish)  # a small file, in one go
    finally:
        if writer is not None and not writer.closed:
            await at_end(writer.abandon)
