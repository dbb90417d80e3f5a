"""Open SFTP files: a reader that fetches what is asked, and a writer whose file lands whole."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import errno
import os
import stat
import weakref
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from fsspec.spec import AbstractBufferedFile

from mlartifacts.promises import synced
from mlartifacts.stores.sftp.connection import LOST, alone, seen
from mlartifacts.writing import temporary_beside

if TYPE_CHECKING:
    from mlartifacts.stores.sftp.filesystem import SFTPArtifactFileSystem

__all__ = ["PIECE", "SENT", "Ranges", "Reader", "Upload", "one_by_one", "parallel"]

#: Bytes that are read ahead at most, and copied at once.
PIECE = 4 * 2**20
#: Bytes that are sent together, and how many such pieces are on their way at once.
SENT = 2**20
_AHEAD = 8
# Of a large file, so many handles at most, one for each so many bytes.
_HANDLES = 4
_RANGE = 8 * 2**20

# For servers that do not tell their limits (limits@openssh.com), for which asyncssh takes the
# least that SFTP allows: what OpenSSH's take, as sshfs has it.
_LEAST = 16 * 2**10
_READ_LENGTH = 48 * 2**10
_WRITE_LENGTH = 240 * 2**10


def parallel(channel: Any, *, writing: bool = False) -> dict[str, int]:
    """How asyncssh splits one read or write into requests that are under way together."""
    told = channel.limits.max_write_len if writing else channel.limits.max_read_len
    usual = _WRITE_LENGTH if writing else _READ_LENGTH
    return {"block_size": told if told > _LEAST else usual}


def one_by_one(channel: Any, *, writing: bool = False) -> tuple[int, dict[str, int]]:
    """The most bytes of one request, and how to open a file whose reads and writes are just that.

    asyncssh otherwise asks on behind a small file's end. What is larger than a request goes in
    parallel once ``read_len`` or ``write_len`` of the file is set.
    """
    most = parallel(channel, writing=writing)["block_size"]
    return most, {"block_size": 0, "max_requests": max(PIECE // most, 16)}


class Reader(AbstractBufferedFile):  # type: ignore[misc]
    """A file open for reading; it is opened again where its connection was lost."""

    def __init__(self, fs: SFTPArtifactFileSystem, path: str, **options: Any) -> None:
        self._file: Any = None
        self.fs, self.path = fs, path
        options.pop("size", None)  # of a pickle: the file's own is asked anyway
        self._stamp = synced(fs.loop, self._reopen)
        super().__init__(fs, path, "rb", size=self._stamp[0], **options)

    async def _reopen(self) -> tuple[int, Any]:
        self._file, attributes = await self.fs._run(self._open)
        self._details = self.fs._described(self.path, attributes)
        return attributes.size or 0, attributes.mtime

    async def _open(self, channel: Any) -> tuple[Any, Any]:
        file = await channel.open(self.path, "rb", **parallel(channel))
        attributes = await file.stat()
        if attributes.permissions is not None and stat.S_ISDIR(attributes.permissions):
            await file.close()
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self.path)
        return file, attributes

    def _fetch_range(self, start: int, end: int) -> bytes:
        data: bytes = synced(self.fs.loop, self._read, start, end)
        return data

    async def _read(self, start: int, end: int) -> bytes:
        data: bytes
        try:
            data = await self.fs._limited(self._file.read(end - start, start))
        except LOST:
            self.fs._pool.refuse_silence()
            if await self._reopen() != self._stamp:
                reason = "the file changed while its connection was lost"
                raise OSError(errno.ESTALE, reason, self.path) from None
            data = await self.fs._limited(self._file.read(end - start, start))
        return data

    def close(self) -> None:
        """Close the file, without waiting for the server."""
        file, self._file = self._file, None
        super().close()
        if file is not None:
            # Nothing hangs on the answer, and the collector of garbage may close on any thread.
            _start(self.fs, file.close())


class Ranges:
    """Ranges of one file, to several threads, as it was when it was opened.

    A file that is replaced can be read on by the handles that it had, and no time in seconds would
    tell. There are as many as are used at once, of a channel each. With their connection, they
    are lost.

    Parameters
    ----------
    fs : SFTPArtifactFileSystem
    path : str
    size : int
        How many bytes it has.
    """

    def __init__(self, fs: SFTPArtifactFileSystem, path: str, size: int) -> None:
        self._fs, self._path = fs, path
        self._free: asyncio.Queue[Any] = asyncio.Queue()
        synced(fs.loop, self._open, min(_HANDLES, -(-size // _RANGE)))

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`."""
        data: bytes = synced(self._fs.loop, self._read, start, end)
        return data

    async def _open(self, count: int) -> None:
        async def open_all(channel: Any) -> tuple[list[Any], contextlib.AsyncExitStack]:
            async with contextlib.AsyncExitStack() as held:
                with alone():
                    others = [
                        await held.enter_async_context(self._fs._pool.get())
                        for _ in range(count - 1)
                    ]
                files = await asyncio.gather(*map(self._handle, [channel, *others]))
                return files, held.pop_all()

        async with self._fs._looking_closer(self._path):
            files, held = await self._fs._run(open_all)
        for file in files:
            self._free.put_nowait(file)
        # Without waiting for the server, and on whichever thread this is forgotten.
        end = weakref.finalize(self, lambda fs: _start(fs, _close(files, held)), self._fs)
        end.atexit = False

    async def _handle(self, channel: Any) -> Any:
        most, options = one_by_one(channel)
        file = await channel.open(self._path, "rb", **options)
        file.read_len = most
        return file

    async def _read(self, start: int, end: int) -> bytes:
        file = await self._free.get()
        try:
            async with self._fs._looking_closer(self._path):
                data: bytes = await self._fs._limited(file.read(end - start, start))
            return data
        except LOST:
            self._fs._pool.refuse_silence()
            raise
        finally:
            self._free.put_nowait(file)


async def _close(files: list[Any], held: contextlib.AsyncExitStack) -> None:
    await held.aclose()
    await asyncio.gather(*(file.close() for file in files), return_exceptions=True)


class Upload:
    """A file being written under another name beside its target.

    Parameters
    ----------
    fs : SFTPArtifactFileSystem
    path : str
        The target.
    mode : {"wb", "xb", "ab"}
    autocommit : bool
        Publish the file in :meth:`finish`; else in :meth:`commit`.
    is_sized : bool
        Its size is known, so that it is written without a pause.
    """

    def __init__(
        self,
        fs: SFTPArtifactFileSystem,
        path: str,
        mode: str,
        autocommit: bool = True,
        is_sized: bool = False,
    ) -> None:
        self.fs, self.path, self.mode = fs, path, mode
        self.temporary = temporary_beside(path, passing=is_sized and autocommit)
        self._autocommit = autocommit
        self._buffer = bytearray()
        self._file: Any = None
        self._start = 0  # where this writing begins
        self._sending: collections.deque[concurrent.futures.Future[None]] = collections.deque()
        synced(fs.loop, self._begin)
        self._offset = self._start

    def write(self, data: Any) -> int:
        """Take bytes; they are sent in pieces, while the next is gathered."""
        view = memoryview(data).cast("B")
        if not self._buffer and view.nbytes >= SENT:
            for start in range(0, view.nbytes, SENT):
                self._send(bytes(view[start : start + SENT]))
        else:
            self._buffer += view
            if len(self._buffer) >= SENT:
                self._send(self._take())
        return view.nbytes

    def flush(self) -> None:
        """Nothing: half a file is of no use to anybody."""

    def tell(self) -> int:
        """Bytes written so far, with those that were appended to."""
        return self._offset + len(self._buffer)

    def seekable(self) -> bool:
        """Never."""
        return False

    def finish(self) -> None:
        """Send the rest and close the file; publish it."""
        if self._buffer:
            self._send(self._take())
        self._settle()
        file, self._file = self._file, None
        synced(self.fs.loop, self.fs._limited, file.close())
        if self._autocommit:
            self.commit()

    def commit(self) -> None:
        """Publish a file that is closed."""
        synced(self.fs.loop, self.fs._land, self.temporary, self.path, "x" in self.mode)

    def abandon(self) -> None:
        """Remove what was written."""
        self._buffer.clear()
        dropping = _start(self.fs, self._drop())
        if dropping is not None and not _on_loop(self.fs):
            dropping.result()

    async def _begin(self) -> None:
        if "x" in self.mode and await self.fs._exists(self.path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self.path)
        try:
            if "a" in self.mode and await self.fs._exists(self.path):
                await self.fs._copy_to(self.path, self.temporary)
                self._start = (await self.fs._info(self.temporary))["size"]
            await self._open()
        except BaseException:
            if "a" in self.mode:
                await self.fs._discard(self.temporary)
            raise

    async def _open(self) -> None:
        # What was appended to must not be cut off.
        mode = "r+b" if self._start else "wb"

        async def begin(channel: Any) -> Any:
            return await channel.open(self.temporary, mode, **parallel(channel, writing=True))

        self._file = await self.fs._with_parents(self.path, begin)

    def _take(self) -> bytes:
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def _send(self, data: bytes) -> None:
        self._settle(_AHEAD - 1)
        offset, self._offset = self._offset, self._offset + len(data)
        put = self._put(data, offset)
        self._sending.append(asyncio.run_coroutine_threadsafe(put, self.fs.loop))
        if offset == self._start:
            self._settle()  # it may have to open the file again

    def _settle(self, left: int = 0) -> None:
        """Wait until no more than so many pieces are on their way."""
        while len(self._sending) > left:
            synced(self.fs.loop, self._sent, self._sending.popleft())

    async def _sent(self, sending: concurrent.futures.Future[None]) -> None:
        await self.fs._pool.unless_cancelled(asyncio.wrap_future(sending))

    async def _put(self, data: bytes, offset: int) -> None:
        async with self.fs._looking_closer(self.path):
            try:
                await self.fs._limited(self._file.write(data, offset))
            except LOST:
                self.fs._pool.refuse_silence()
                if offset != self._start:
                    raise
                # The session ended while the file lay open, before the first byte: begin again.
                await self._open()
                await self.fs._limited(self._file.write(data, offset))

    async def _drop(self) -> None:
        for sending in list(self._sending):  # who writes may be at it, too
            sending.cancel()
        await self.fs._discard(self.temporary, self._file)


def _on_loop(fs: SFTPArtifactFileSystem) -> bool:
    try:
        return asyncio.get_running_loop() is fs.loop
    except RuntimeError:
        return False


def _start(
    fs: SFTPArtifactFileSystem, coroutine: Coroutine[Any, Any, None]
) -> concurrent.futures.Future[None] | None:
    """Begin to run a coroutine on the filesystem's loop, if that is still there."""
    if fs._pid != os.getpid() or fs.loop is None or fs.loop.is_closed():
        coroutine.close()
        return None
    future = asyncio.run_coroutine_threadsafe(coroutine, fs.loop)
    future.add_done_callback(seen)
    return future
