"""Checksums: what stores list of their files, and the same of bytes that pass."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import importlib.util
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["MD5", "Checksum", "Hasher", "Kind", "listed", "matching"]

_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


class Kind(NamedTuple):
    """How a checksum is made.

    Attributes
    ----------
    algorithm : str
        A name of :mod:`hashlib`'s, ``"crc32"`` or ``"crc32c"``.
    part : int, default 0
        Where a store hashes each part of a file, and then what came out: the bytes of a part.
    """

    algorithm: str
    part: int = 0

    @property
    def is_known(self) -> bool:
        """Whether it can be made here."""
        return _maker(self.algorithm) is not None


#: Of a whole file; what most stores list.
MD5 = Kind("md5")


@dataclass(frozen=True, slots=True)
class Checksum:
    """A checksum of a file.

    Attributes
    ----------
    kind : Kind
    digest : bytes
    certain : bool, default True
        Whether it is one at all: an encrypted object of S3's may have another number in its place.
    """

    kind: Kind
    digest: bytes
    certain: bool = field(default=True, compare=False)

    @classmethod
    def encoded(cls, algorithm: str, text: Any, part: int = 0) -> Checksum | None:
        """One in base 64, as headers have it; ``None`` where it is none, or cannot be made here."""
        kind = Kind(algorithm, part)
        try:
            digest = base64.b64decode(text, validate=True)
        except (binascii.Error, TypeError, ValueError):
            return None
        return cls(kind, digest) if digest and kind.is_known else None


class Hasher:
    """Makes checksums of bytes that pass.

    Parameters
    ----------
    kinds : iterable of Kind
        None at all: nothing is done.
    """

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self._running = {kind: _Running(kind) for kind in kinds}

    def __bool__(self) -> bool:
        return bool(self._running)

    def update(self, data: Any) -> None:
        """Take the bytes that follow."""
        for running in self._running.values():
            running.update(data)

    def checksums(self) -> dict[Kind, Checksum]:
        """Those of all bytes so far."""
        return {kind: Checksum(kind, each.digest()) for kind, each in self._running.items()}


def listed(info: Mapping[str, Any]) -> Checksum | None:
    """What an entry of a listing says.

    A composite object of Google's has a CRC32C alone, and an S3 object that came in parts none.
    """
    settings = info.get("content_settings")  # Azure's
    if isinstance(given := settings and settings.get("content_md5"), bytes | bytearray):
        return Checksum(MD5, bytes(given))
    for algorithm, name in (("md5", "md5Hash"), ("crc32c", "crc32c")):  # Google's
        if name in info and (found := Checksum.encoded(algorithm, info[name])):
            return found
    match = _MD5.fullmatch(str(info.get("ETag", "")))
    return Checksum(MD5, bytes.fromhex(match[1]), certain=False) if match else None


def matching(checksum: Checksum | None, made: Mapping[Kind, Checksum]) -> bool | None:
    """Whether one of `made` is it; ``None`` where none is of its kind."""
    if checksum is None or checksum.kind not in made:
        return None
    return made[checksum.kind] == checksum


class _Running:
    """One checksum in the making."""

    def __init__(self, kind: Kind) -> None:
        make = _maker(kind.algorithm)
        if make is None:
            raise ValueError(f"no {kind.algorithm} can be made here")
        self._make: Callable[[], Any] = make
        self._part = kind.part
        self._of_part = make()
        self._of_parts: Any = make() if kind.part else None
        self._left = kind.part

    def update(self, data: Any) -> None:
        if not self._part:
            self._of_part.update(data)
            return
        view = memoryview(data)
        while len(view):
            piece, view = view[: self._left], view[self._left :]
            self._of_part.update(piece)
            self._left -= len(piece)
            if not self._left:
                self._next()

    def _next(self) -> None:
        self._of_parts.update(self._of_part.digest())
        self._of_part, self._left = self._make(), self._part

    def digest(self) -> bytes:
        if self._part and self._left < self._part:
            self._next()
        last = self._of_parts if self._part else self._of_part
        digest: bytes = last.digest()
        return digest


class _CRC32:
    """zlib's, with hashlib's methods."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: Any) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


class _CRC32C:
    """That of a package that comes with gcsfs, which takes nothing but bytes."""

    def __init__(self) -> None:
        from google_crc32c import extend

        self._extend, self._value = extend, 0

    def update(self, data: Any) -> None:
        self._value = self._extend(self._value, bytes(data))

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


@functools.cache
def _maker(algorithm: str) -> Callable[[], Any] | None:
    if algorithm == "crc32":
        return _CRC32
    if algorithm == "crc32c":
        return _CRC32C if importlib.util.find_spec("google_crc32c") else None
    if algorithm not in hashlib.algorithms_available:
        return None
    return lambda: hashlib.new(algorithm, usedforsecurity=False)
