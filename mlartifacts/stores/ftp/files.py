"""Open files on an FTP server: a reader that can jump, and a writer that lands by rename."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from typing import TYPE_CHECKING, Any

from fsspec.spec import AbstractBufferedFile

from mlartifacts.stores.ftp.connections import (
    ConnectionPool,
    Download,
    Parkable,
    Upload,
    dropped,
    reply,
)
from mlartifacts.writing import temporary_beside

if TYPE_CHECKING:
    from mlartifacts.stores.ftp.driver import FTPFileSystem

__all__ = ["COLLECTED", "FTPReadFile", "FTPWriteFile", "RangeReader"]

# Bytes that are sooner read and thrown away than jumped over, which takes some round trips.
_SKIPPED = 2**16
#: Bytes that a writer collects before it sends them: so few stay in the processor's cache.
COLLECTED = 2**16


class RangeReader(Parkable):
    """Reads ranges of one file; ranges that follow each other come from one transfer.

    A transfer that breaks goes on where it stopped, on a new connection, as long as it gets
    anywhere and the file still has its size.

    Parameters
    ----------
    pool : ConnectionPool
    path : str
    size : int, optional
        Bytes in the file, if known.
    """

    def __init__(self, pool: ConnectionPool, path: str, size: int | None = None) -> None:
        self._pool = pool
        self.path = path
        self._size = size
        self._download: Download | None = None
        self._lock = threading.Lock()
        self._process = os.getpid()
        pool.register(self)

    def read(self, start: int, end: int) -> bytes:
        """Read the bytes from `start` to `end`; fewer only where the file ends before."""
        buffer = bytearray(max(end - start, 0))
        filled = 0
        with self._held(), memoryview(buffer) as view:
            while filled < len(buffer):
                count = self._some(start + filled, view[filled:])
                if count == 0:
                    break
                filled += count
            return bytes(view[:filled])

    def readinto(self, start: int, view: memoryview) -> int:
        """Read some bytes at `start`; 0 where the file ends."""
        with self._held():
            return self._some(start, view)

    def park(self) -> bool:
        """Give the connection to somebody else, unless it is in use now."""
        if self._process != os.getpid() or not self._lock.acquire(blocking=False):
            return False
        try:
            had = self._download is not None and not self._download.finished
            self._stop()
            return had
        finally:
            self._lock.release()

    def close(self) -> None:
        """End the transfer, if one is under way."""
        with self._held():
            self._stop()

    def _held(self) -> threading.Lock:
        if self._process != os.getpid():
            # A fork's copy: the transfer is its parent's, and so was whoever held the lock.
            self._lock = threading.Lock()
            self._process = os.getpid()
            if self._download is not None:
                self._download.forget()
                self._download = None
        return self._lock

    def _some(self, start: int, view: memoryview) -> int:
        stalled = False
        while True:
            try:
                download = self._at(start)
                count = download.readinto(view)
                if start + count == self._size:
                    download.finish()
                ended_early = count == 0 and self._size is not None and start < self._size
                if not ended_early:
                    return count
                raise EOFError(f"the transfer ended {self._size - start} bytes early")  # type: ignore[operator]
            except Exception as error:
                broken, self._download = self._download, None
                progress = broken is not None and broken.position > broken.origin
                if not (dropped(error) or reply(error) == "426") or (stalled and not progress):
                    raise
                stalled = not progress
                self._refuse_change(error)

    def _refuse_change(self, cause: Exception) -> None:
        if self._size is None:
            return
        size = self._pool.run(lambda connection: connection.size(self.path), repeatable=True)
        if size != self._size:
            raise OSError(
                errno.EIO, f"it had {self._size} bytes and now has {size}", self.path
            ) from cause

    def _at(self, start: int) -> Download:
        download = self._download
        if download is not None and not download.finished:
            gap = start - download.position
            if 0 < gap <= _SKIPPED:
                with memoryview(bytearray(gap)) as waste:
                    while (gap := start - download.position) > 0 and download.readinto(waste[:gap]):
                        pass
            if download.position == start:
                return download
            download.close()
        self._download = self._pool.download(self.path, start)
        return self._download

    def _stop(self) -> None:
        if self._download is not None:
            self._download.close()
            self._download = None


class FTPReadFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file open for reading."""

    def __init__(self, fs: FTPFileSystem, path: str, *, size: int, **kwargs: Any) -> None:
        self._reader = RangeReader(fs.pool, path, size)
        super().__init__(fs, path, "rb", size=size, **kwargs)

    def _fetch_range(self, start: int, end: int) -> bytes:
        data: bytes = self.fs.read_range(self._reader, start, end)
        return data

    def close(self) -> None:
        """End the transfer that may be under way."""
        if not self.closed:
            self._reader.close()
        super().close()


class FTPWriteFile:
    """A file open for writing: a temporary sibling until it is committed.

    Appended bytes are kept back on this side (in memory, and on disk if they are many). When the
    file is closed, its old bytes and they are written together: what the server was given of a
    file it keeps, so that an append that breaks off could not be taken back.

    Parameters
    ----------
    fs : FTPFileSystem
    path : str
    mode : str
        ``"wb"``, ``"xb"`` or ``"ab"``.
    position : int
        Where appended bytes begin.
    autocommit : bool
        Whether :meth:`close` commits; else a transaction does.
    passing : bool
        Whether it is written without a pause.
    """

    def __init__(
        self,
        fs: FTPFileSystem,
        path: str,
        mode: str,
        *,
        position: int = 0,
        autocommit: bool = True,
        passing: bool = False,
    ) -> None:
        self.fs = fs
        self.path = path
        self.mode = mode
        self.autocommit = autocommit
        self.closed = False
        self._process = os.getpid()
        self._position = position
        self._extends = position > 0
        self._temporary = temporary_beside(path, passing)
        self._collected = bytearray()
        self._upload: Upload | None = None
        self._landing = False  # whether the server may have a temporary file
        self._appended = tempfile.SpooledTemporaryFile(2**22) if mode == "ab" else None  # noqa: SIM115

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write bytes."""
        with memoryview(data).cast("B") as view:
            count = len(view)
            self._position += count
            if self._appended is not None:
                self._appended.write(view)
            elif len(self._collected) + count < COLLECTED:
                self._collected += view
            else:
                self.flush()
                self._send(view)
        return count

    def flush(self) -> None:
        """Send what was collected."""
        if self._collected:
            self._send(self._collected)
            self._collected = bytearray()

    def tell(self) -> int:
        """Where the next byte goes."""
        return self._position

    def seekable(self) -> bool:
        """Never."""
        return False

    def close(self) -> None:
        """Send the rest, and commit unless a transaction is to."""
        if self.closed:
            return
        if self._appended is None:
            self.flush()
            self._begun().finish()
        if self.closed:  # by who abandoned it meanwhile
            raise OSError(errno.ECANCELED, "the write was abandoned", self.path)
        if self.autocommit:
            self.commit()
        self.closed = True

    def commit(self) -> None:
        """Make this the file's content."""
        if self._appended is not None:
            self._append()
        self.fs.land(self._temporary, self.path, exclusive="x" in self.mode)
        self._landing = False

    def discard(self) -> None:
        """Drop what was written."""
        self.closed = True
        if self._appended is not None:
            self._appended.close()
        if self._upload is not None:
            self._upload.abort()
        if self._landing and self._process == os.getpid():
            self._landing = False
            self.fs.drop(self._temporary)

    def _begun(self) -> Upload:
        if self._upload is None:
            try:
                self._upload = self.fs.begin_upload("STOR", self._temporary, self.path)
            except BaseException as error:
                self._landing = dropped(error)  # the server may have begun all the same
                raise
            self._landing = True
        return self._upload

    def _send(self, data: bytearray | memoryview) -> None:
        self._begun().write(data)

    def _append(self) -> None:
        assert self._appended is not None
        with self._appended as source:
            source.seek(0)
            upload = self._begun()
            try:
                if self._extends:
                    self.fs.download(self.path, upload.write)
                while chunk := source.read(COLLECTED):
                    upload.write(chunk)
                upload.finish()
            finally:
                upload.abort()

    def __del__(self) -> None:
        if not getattr(self, "closed", True):
            self.discard()
