"""The carrier of a delegating filesystem: those of the stores that its paths lie in."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mlartifacts.carrying import Begun, Carrier
from mlartifacts.checksums import Checksum

if TYPE_CHECKING:
    from mlartifacts.filesystems.delegating import DelegatingFileSystem, Place

__all__ = ["DelegatingCarrier"]


class DelegatingCarrier:
    """Carries what lies in one place for certain, and leaves the rest to the filesystem.

    Parameters
    ----------
    fs : DelegatingFileSystem
    """

    def __init__(self, fs: DelegatingFileSystem) -> None:
        self._fs = fs
        # A file is asked about twice, one thread's soon after the other's.
        self._found = functools.lru_cache(maxsize=256)(self._find)

    def takes(self, path: str) -> bool:
        """Whether the store of a path has a carrier that takes it."""
        return self._found(path) is not None

    def sends(self, path: str, size: int) -> bool:
        """Whether the carrier of the store writes so many bytes."""
        found = self._found(path)
        return found is not None and found[0].sends(found[1].path, size)

    def read(
        self, path: str, start: int, end: int, version: str | None, whole: bool = False
    ) -> list[Any]:
        """The bytes from `start` to `end`; looked for elsewhere where they are not."""
        carrier, place = self._sure(path)
        try:
            with place.explaining():
                return carrier.read(place.path, start, end, version, whole)
        except FileNotFoundError:
            return [self._fs.cat_file(path, start, end)]

    def checksum(self, path: str, version: str | None) -> Checksum | None:
        """A checksum that the store does not list; none of a file that lies elsewhere."""
        carrier, place = self._sure(path)
        return carrier.checksum(place.path, version)

    def write(self, path: str, data: Any) -> Checksum | None:
        """Write a file at once."""
        carrier, place = self._sure(path)
        with place.explaining():
            return carrier.write(place.path, data)

    def write_pieces(
        self, path: str, pieces: Iterator[bytes], part: int, ahead: int, begun: Begun
    ) -> None:
        """Write a large file."""
        carrier, place = self._sure(path)
        with place.explaining():
            carrier.write_pieces(place.path, pieces, part, ahead, begun)

    def _sure(self, path: str) -> tuple[Carrier, Place]:
        found = self._found(path)
        assert found is not None, "it does not take the path"
        return found

    def _find(self, path: str) -> tuple[Carrier, Place] | None:
        if (place := self._fs.sure_place(path)) is None:
            return None
        carrier: Carrier | None = place.fs.carrier(place.path)
        return (carrier, place) if carrier is not None and carrier.takes(place.path) else None
