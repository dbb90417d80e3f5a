"""How open files are read: a cache that suits both sequences and jumps, and checked ranges.

A reader of artifacts either goes through a file from its start, or jumps about in it
(Parquet footers and columns, zip directories, safetensors headers). fsspec's default
read-ahead fetches megabytes at every jump. :class:`ProportionalCache` fetches what was asked
for, and reads ahead only once reads follow each other, further each time.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from fsspec.caching import BaseCache, register_cache

__all__ = ["UNPACKED", "ProportionalCache", "checked"]

#: Headers of HTTP that ask for bytes as they are stored: a range of what a server packs for the
#: way is none of the file's.
UNPACKED = {"Accept-Encoding": "identity"}

Fetcher = Callable[[int, int], bytes]


class ProportionalCache(BaseCache):  # type: ignore[misc]
    """Read ahead in proportion to what was read in sequence; nothing ahead after a jump.

    Parameters
    ----------
    blocksize : int
        Bytes of the longest read-ahead.
    fetcher : callable
        ``(start, end) -> bytes``.
    size : int
        Bytes in the file.
    """

    name: ClassVar[str] = "proportional"

    # One round trip costs about as much as this many bytes take to arrive, so less is never
    # worth a request of its own once reading is in sequence.
    _FIRST: ClassVar[int] = 2**18
    # Small reads at a place (a header, then what it points to right behind it) share one.
    _LEAST: ClassVar[int] = 2**13

    def __init__(self, blocksize: int, fetcher: Fetcher, size: int) -> None:
        super().__init__(blocksize, fetcher, size)
        self.start = 0
        self.end = 0
        self.cache = b""
        self._ahead = 0

    def begin(self, data: bytes) -> None:
        """Take the file's first bytes, which came before they were asked for."""
        self.start, self.end, self.cache = 0, len(data), data

    def _fetch(self, start: int | None, end: int | None) -> bytes:
        start = 0 if start is None else start
        end = self.size if end is None else min(end, self.size)
        if start >= end:
            return b""
        if self.start <= start and end <= self.end:
            self.hit_count += 1
            return self.cache[start - self.start : end - self.start]
        self.miss_count += 1
        if self.start <= start <= self.end and self.end > 0:  # goes on where it stopped
            kept = self.cache[start - self.start :]
            self._ahead = min(max(self._FIRST, 4 * self._ahead), self.blocksize)
        else:
            kept = b""
            self._ahead = 0
        ahead = self._ahead or max(self._LEAST - (end - start), 0)
        first = start + len(kept)
        last = min(end + ahead, self.size)
        fetched: bytes = self.fetcher(first, last)
        self.total_requested_bytes += last - first
        data = kept + fetched if kept else fetched
        self.start, self.end, self.cache = start, start + len(data), data
        return data[: end - start] if len(data) > end - start else data


register_cache(ProportionalCache, clobber=True)


def checked(
    fetch: Fetcher, path: str, size: int, explaining: Callable[[], AbstractContextManager[None]]
) -> Fetcher:
    """Make a fetcher raise the errors that `explaining` gives, and refuse a short answer.

    fsspec's caches ask for whole blocks, also where a file of `size` bytes ends within one.

    Raises
    ------
    OSError
        The store gave other than the bytes asked for (the object changed, or the connection
        was cut without the driver noticing).
    """

    def fetch_checked(start: int, end: int, *more: Any) -> bytes:
        end = min(end, size)
        if start >= end:
            return b""
        with explaining():
            data = fetch(start, end, *more)
        if len(data) != end - start:
            raise OSError(errno.EIO, f"short read: {len(data)} bytes for {start}-{end}", path)
        return data

    return fetch_checked
