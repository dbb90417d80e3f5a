"""Ranges of one object; those that follow each other come from one request.

A sequence of reads takes one answer piece by piece, however long the object is, without holding
more of it than was asked for. A jump asks for its range alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import TYPE_CHECKING, Any

from aiohttp import ClientPayloadError
from botocore.exceptions import HTTPClientError, IncompleteReadError, ReadTimeoutError

if TYPE_CHECKING:
    from mlartifacts.stores.s3.driver import S3Driver

__all__ = ["Ranges"]

# Answers that wait for their next read hold a connection each, of ten that a client has.
_WAITING = 4
# Who begins by reading less looks at a header, and what comes next is anywhere.
_HEAD = 2**16
# Bytes that are sooner read and thrown away than jumped over, which takes a request.
_SKIPPED = 2**16
# What an answer breaks off with.
_BROKEN = (ClientPayloadError, ConnectionError, HTTPClientError, IncompleteReadError)
# How often in a row an answer may break off without a byte.
_TRIES = 5


class Ranges:
    """Reads ranges of one object, on the loop of its filesystem.

    Parameters
    ----------
    fs : S3Driver
    target : dict
        What every request says: ``Bucket`` and ``Key``, and perhaps more.
    etag : str, optional
        Which content is meant; without, the first that an answer has.
    """

    def __init__(self, fs: S3Driver, target: dict[str, Any], etag: str | None = None) -> None:
        self._fs = fs
        self._target = target
        self.etag = etag
        self._body: Any = None
        # Where the answer at hand goes on, or (a first read is in no sequence) the next one would.
        self._position = -1
        self._stop = 0  # where the answer at hand ends
        self._lock = asyncio.Lock()

    async def size(self) -> int:
        """Begin to read at the start, and tell the size by the answer."""
        await self._reach(0, None)
        return self._stop

    async def follow(self, start: int, end: int) -> bytes:
        """Read as :meth:`read`, but ask for all the rest where a sequence goes on, or begins."""
        async with self._lock:
            sequence = start == self._position or (start == 0 and end >= _HEAD)
            return await self.read(start, end, onward=sequence)

    async def read(self, start: int, end: int | None = None, onward: bool = False) -> bytes:
        """Read the bytes from `start` to `end`; fewer only where the object ends before."""
        self._fs.waiting.pop(self, None)
        pieces: list[bytes] = []
        tries = 0
        try:
            while end is None or start < end:
                if not await self._reach(start, None if onward else end):
                    break
                stop = self._stop if end is None else min(end, self._stop)
                try:
                    while start < stop:
                        piece = await self._body.read(stop - start)
                        if not piece:
                            raise ConnectionResetError(errno.ECONNRESET, "the answer broke off")
                        pieces.append(piece)
                        start = self._position = start + len(piece)
                        tries = 0
                    break
                except _BROKEN as error:
                    tries += 1
                    # Who waited as long as was asked for waits no second time.
                    if tries == _TRIES or isinstance(error, ReadTimeoutError):
                        raise
                    self.drop()
                    await asyncio.sleep(0.1 * 2 ** (tries - 1))
            if self._body is not None:
                await self._rest()
        except BaseException:
            self.drop()
            raise
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def drop(self) -> None:
        """Let go of the answer at hand."""
        self._fs.waiting.pop(self, None)
        if self._body is not None:
            with contextlib.suppress(Exception):  # it may be broken, and is not needed
                self._body.close()
            self._body = None

    async def _reach(self, start: int, end: int | None) -> bool:
        """Have an answer that goes on at `start`; False where the object ends before."""
        if self._body is not None and 0 < start - self._position <= _SKIPPED:
            with contextlib.suppress(*_BROKEN):
                while piece := await self._body.read(start - self._position):
                    self._position += len(piece)
        if self._body is not None and self._position == start < self._stop:
            return True
        self.drop()
        last = "" if end is None else end - 1
        asked = {"Range": f"bytes={start}-{last}"} if start or end is not None else {}
        if self.etag is not None and not self._fs.local_expiry_check:
            asked["IfMatch"] = self.etag
        answer = await self._fs._call_s3("get_object", **self._target, **asked)
        self._body = answer["Body"]
        if start and "ContentRange" not in answer:
            raise OSError(errno.EIO, "the server knows no ranges")
        if self.etag is None:
            self.etag = answer.get("ETag")
        elif answer.get("ETag", self.etag) != self.etag:
            raise OSError(errno.ESTALE, "the object changed while it was read")
        self._position = start
        self._stop = start + int(answer["ContentLength"])
        return start < self._stop

    async def _rest(self) -> None:
        """Give the connection back where the answer is at its end, or keep few of them."""
        if self._position >= self._stop:
            # Nothing is left but the check of its checksum.
            try:
                await self._body.read(1)
            finally:
                self.drop()
            return
        self._fs.waiting[self] = None
        while len(self._fs.waiting) > _WAITING:
            next(iter(self._fs.waiting)).drop()
