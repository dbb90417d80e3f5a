"""Files that are read over HTTP."""

from __future__ import annotations

import contextlib
import errno
import re
import tempfile
import weakref
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from fsspec.spec import AbstractBufferedFile

from mlartifacts.promises import synced
from mlartifacts.reading import ProportionalCache

__all__ = ["RangedFile", "Stream"]

_IN_MEMORY = 16 * 2**20
_PIECE = 2**20
# About what arrives in the time of a request, so that a small file is one.
_BEGINNING = 2**16

_TOTAL = re.compile(r"bytes [^/]*/(\d+)")

T = TypeVar("T")


class Stream:
    """A file that is read in order, from one answer, so that all of it is of one version.

    What is skipped is thrown away; who jumps back asks anew.

    Parameters
    ----------
    fs : AsyncFileSystem
    ask : callable
        Gives the store's answer, an error raised.
    explaining : callable
        What errors are raised in.
    """

    def __init__(
        self,
        fs: Any,
        ask: Callable[[], contextlib.AbstractAsyncContextManager[Any]],
        explaining: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        self._fs, self._ask, self._explaining = fs, ask, explaining
        self._answer: Any = None
        self._wanted = self._position = 0

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        if self._answer is not None:
            synced(self._fs.loop, self._end)

    def seek(self, position: int) -> None:
        """Have the bytes there be the next ones."""
        self._wanted = position

    def read(self, size: int) -> bytes:
        """The next bytes; fewer only at the end."""
        with self._explaining():
            data: bytes = synced(self._fs.loop, self._read, size)
        return data

    async def _read(self, size: int) -> bytes:
        if self._answer is None or self._wanted < self._position:
            await self._end()
            self._held = contextlib.AsyncExitStack()
            self._answer = await self._held.enter_async_context(self._ask())
        while self._position < self._wanted:
            if not await self._some(min(self._wanted - self._position, _PIECE)):
                return b""
        pieces = []
        while size and (piece := await self._some(size)):
            pieces.append(piece)
            size -= len(piece)
        self._wanted = self._position
        return b"".join(pieces)

    async def _some(self, size: int) -> bytes:
        data: bytes = await self._answer.content.read(size)
        self._position += len(data)
        return data

    async def _end(self) -> None:
        answer, self._answer, self._position = self._answer, None, 0
        if answer is not None:
            answer.close()  # the rest of it may be on its way
            await self._held.aclose()


class RangedFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file that can be read anywhere, also where its server knows neither ranges nor sizes.

    Such a server sends everything whatever it is asked; it is asked once, and what it sends is
    kept, on the disk where it is large.

    Parameters
    ----------
    fs : AsyncFileSystem
    path : str
    size : int, optional
        In bytes; the first request tells it unless given.
    etag : str, optional
        The version that is read, where it is known.
    **options
        Those of fsspec's buffered files.
    """

    #: When the version that is read was last changed, where that is known.
    modified: float | None = None

    def __init__(
        self, fs: Any, path: str, size: int | None = None, etag: str | None = None, **options: Any
    ) -> None:
        self._everything: Any = None
        self._version = etag
        self.fs, self.path = fs, path
        beginning = b""
        if size is None:
            size, beginning = synced(fs.loop, self._trying, self._begin)
        super().__init__(fs, path, size=size, **options)
        if isinstance(self.cache, ProportionalCache):
            self.cache.begin(beginning)

    # ---- What a store says -----------------------------------------------------------------

    def ask(self, headers: dict[str, str]) -> contextlib.AbstractAsyncContextManager[Any]:
        """The store's answer, an error raised; 416 is none."""
        raise NotImplementedError

    async def _trying(self, act: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Do something, as often as the store wishes."""
        return await act(*args)

    async def _is_whole(self, response: Any, size: int) -> None:
        """Raise where a whole answer is shorter than the file."""

    # ---- Reading ---------------------------------------------------------------------------

    async def _begin(self) -> tuple[int, bytes]:
        """How many bytes there are, and the first of them."""
        async with self.ask({"Range": f"bytes=0-{_BEGINNING - 1}"}) as response:
            self._is_the_same(response)
            total = _TOTAL.match(response.headers.get("Content-Range", ""))
            if response.status == 206 and total is not None:
                return int(total[1]), await response.read()
            if response.status == 416:
                return 0, b""  # the first byte of none
            if response.status == 200:
                return await self._keep(response), b""
        async with self.ask({}) as response:
            return await self._keep(response), b""

    async def _range(self, start: int, end: int) -> bytes:
        if self._everything is None:
            async with self.ask({"Range": f"bytes={start}-{end - 1}"}) as response:
                self._is_the_same(response)
                if response.status == 206:
                    data: bytes = await response.read()
                    return data
                if response.status != 200:  # its body tells of an error
                    reason = f"the server has no such bytes any more ({response.status})"
                    raise OSError(errno.ESTALE, reason, self.path)
                await self._keep(response)
        self._everything.seek(start)
        kept: bytes = self._everything.read(end - start)
        return kept

    async def _keep(self, response: Any) -> int:
        everything = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
        # Also where this file is forgotten, or what comes breaks off.
        weakref.finalize(self, everything.close)
        async for piece in response.content.iter_chunked(_PIECE):
            everything.write(piece)
        size = everything.tell()
        await self._is_whole(response, size)
        self._everything = everything
        return size

    def _is_the_same(self, response: Any) -> None:
        """Refuse another version than the one that was opened."""
        changed = response.headers.get("Last-Modified")
        said = response.headers.get("ETag") or changed
        if self._version is None:
            self._version = said
        is_same = said is None or said == self._version
        if is_same and self.modified is not None and changed:
            with contextlib.suppress(OverflowError, ValueError):  # it tells nothing
                is_same = parsedate_to_datetime(changed).timestamp() == self.modified // 1
        if not is_same:
            raise OSError(errno.ESTALE, "the file changed while it was read", self.path)

    def _fetch_range(self, start: int, end: int) -> bytes:
        data: bytes = synced(self.fs.loop, self._trying, self._range, start, end)
        return data

    def close(self) -> None:
        """Forget what was kept."""
        super().close()
        if self._everything is not None:
            self._everything.close()
