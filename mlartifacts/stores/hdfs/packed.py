"""The compression that MLflow adds on HDFS to files of some names, taken off and put on.

MLflow opens its streams of pyarrow with pyarrow's default, ``compression="detect"``: a file whose
name ends with ``.gz``, ``.bz2``, ``.lz4`` or ``.zst`` is compressed while it is written, though it
mostly is compressed already, and decompressed while it is read. What users logged is the inside.
Other programs store such files as they are, and nothing but their bytes tells the two apart.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

from mlartifacts.errors import MissingDriver
from mlartifacts.stores.hdfs.driver import Driver, Reader, Status, Writer, failure

__all__ = ["Packing", "codec_of"]

_PIECE = 2**20
# Decompressing so much of a file shows how its inside begins.
_HEAD = 2**16
_KNOWN = 10_000
# What deflate makes of zeros.
_GZIP_RATIO = 1032


@dataclass(frozen=True, slots=True)
class _Codec:
    """A compression.

    Attributes
    ----------
    name : str
        As pyarrow calls it.
    magic : bytes
        How each file of it begins.
    own : tuple of bytes
        How files begin that pyarrow's streams have written, with their defaults, and few others;
        empty where they look as all do.
    """

    name: str
    magic: bytes
    own: tuple[bytes, ...] = ()


_CODECS = {
    # No time, the best compression, Unix: `gzip -9n` writes that, too.
    ".gz": _Codec("gzip", b"\x1f\x8b", (bytes.fromhex("1f8b0800000000000203"),)),
    ".bz2": _Codec("bz2", b"BZh"),
    # Blocks of 64 KiB that depend on each other, without checksums.
    ".lz4": _Codec("lz4", bytes.fromhex("04224d18"), (bytes.fromhex("04224d184040c0"),)),
    # No size, a window of 512 KiB; and the whole file of nothing.
    ".zst": _Codec(
        "zstd",
        bytes.fromhex("28b52ffd"),
        (bytes.fromhex("28b52ffd0048"), bytes.fromhex("28b52ffd2000010000")),
    ),
}


def codec_of(path: str) -> _Codec | None:
    """What pyarrow compresses a file of this name with, if at all."""
    return next((codec for ending, codec in _CODECS.items() if path.endswith(ending)), None)


class Packing:
    """Reads and writes files of a driver as MLflow does.

    Parameters
    ----------
    driver : Driver
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._sizes: dict[Hashable, int] = {}

    def open(self, path: str) -> Reader:
        """Open a file for reading; the inside of one that was compressed for its name."""
        reader = self._driver.open(path)
        codec = codec_of(path)
        if codec is None:
            return reader
        try:
            return _Inside(path, reader, codec) if _has_inside(reader, codec) else reader
        except BaseException:
            reader.close()
            raise

    def create(self, temporary: str, target: str) -> Writer:
        """Start a new file, which will be called `target`."""
        writer = self._driver.create(temporary)
        codec = codec_of(target)
        return writer if codec is None else _Packed(writer, codec)

    def told(self, status: Status) -> Status:
        """A status with the size of what is read from the file.

        That of what is stored, where it cannot be read: an attempt to read it says why.
        """
        if status.is_dir or not status.size or codec_of(status.path) is None:
            return status
        key = (status.path, status.size, status.mtime)
        size = self._sizes.get(key)
        if size is None:
            try:
                with contextlib.closing(self.open(status.path)) as reader:
                    size = reader.size
            except Exception:
                return status
            while len(self._sizes) >= _KNOWN:
                self._sizes.pop(next(iter(self._sizes)), None)
            self._sizes[key] = size
        return replace(status, size=size)


def _has_inside(reader: Reader, codec: _Codec) -> bool:
    """Whether a file was compressed for its name, which shows where it is compressed twice.

    It also shows in how pyarrow begins a file.
    """
    head = reader.read_at(0, min(_HEAD, reader.size))
    if head.startswith(codec.own):
        return True
    if not head.startswith(codec.magic):
        return False
    inside = b""
    with contextlib.suppress(OSError):  # it only begins as if it were compressed
        inside = _inside(io.BytesIO(head), codec).read(len(codec.magic))
    return inside == codec.magic


def _inside(file: Any, codec: _Codec) -> Any:
    return _pyarrow().CompressedInputStream(file, codec.name)


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingDriver("hdfs", "pyarrow", ", as MLflow compresses by it.") from error
    return pyarrow


class _Inside:
    """A file whose inside is read: from its beginning on, and again for what was passed."""

    def __init__(self, path: str, reader: Reader, codec: _Codec) -> None:
        self._path = path
        self._reader = reader
        self._codec = codec
        self._begin()

    def _begin(self) -> None:
        self._stream = _inside(_Raw(self._reader), self._codec)
        self._at = 0

    @functools.cached_property
    def size(self) -> int:
        stored = self._reader.size
        if self._codec.name == "gzip" and stored < 2**32 // _GZIP_RATIO:  # else it may be short
            return int.from_bytes(self._reader.read_at(stored - 4, 4), "little")
        self._skip(None)
        return self._at

    def read_at(self, start: int, length: int) -> bytes:
        if start < self._at:
            self._begin()
        self._skip(start)
        return self._read(length)

    def _skip(self, end: int | None) -> None:
        while end is None or self._at < end:
            if not self._read(_PIECE if end is None else min(_PIECE, end - self._at)):
                break

    def _read(self, length: int) -> bytes:
        try:
            data = bytes(self._stream.read(length))
        except OSError as error:
            if error.errno is not None:  # of reading what is stored
                raise
            reason = f"what was compressed for its name is damaged: {error}"
            raise failure(errno.EIO, self._path, reason) from error
        self._at += len(data)
        return data

    def close(self) -> None:
        self._reader.close()


class _Raw(io.RawIOBase):
    """What is stored of a file, for pyarrow to read in order."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._reader.read_at(self._at, min(len(buffer), self._reader.size - self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class _Sink(io.RawIOBase):
    """Where pyarrow writes what it compressed."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._writer.write(bytes(data))
        return len(data)


class _Packed:
    """A file that is compressed while it is written, unless its beginning says otherwise.

    What is no file of the compression, and would not be known again, is written as it is.
    """

    def __init__(self, writer: Writer, codec: _Codec) -> None:
        self._writer = writer
        self._codec = codec
        self._head = b""
        self._stream: Any = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._stream is None:
            self._head += bytes(data)
            if len(self._head) >= len(self._codec.magic):
                self._begin()
        else:
            self._stream.write(data)

    def _begin(self) -> None:
        self._stream = self._writer
        if self._head.startswith(self._codec.magic) or _is_known_again(self._codec):
            sink = _pyarrow().PythonFile(_Sink(self._writer), "w")
            self._stream = _pyarrow().CompressedOutputStream(sink, self._codec.name)
        self._stream.write(self._head)

    def close(self) -> None:
        try:
            if self._stream is None and self._head:
                self._begin()
            if self._stream is not None and self._stream is not self._writer:
                self._stream.close()
        finally:
            self._writer.close()


@functools.cache
def _is_known_again(codec: _Codec) -> bool:
    """Whether this pyarrow begins a file as those that the codec knows."""
    sink = _pyarrow().BufferOutputStream()
    with _pyarrow().CompressedOutputStream(sink, codec.name) as stream:
        stream.write(b"-")
    return bytes(sink.getvalue()).startswith(codec.own)
