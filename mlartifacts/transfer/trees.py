"""What is at one end of a transfer: files below a root, by their names relative to it."""

from __future__ import annotations

import base64
import binascii
import concurrent.futures
import datetime
import errno
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from mlartifacts.errors import InvalidURI

__all__ = ["End", "File", "md5_of"]

_PIECE = 8 * 2**20
_ASKED_AT_ONCE = 16
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')
# What the drivers call the time of a file's last change.
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "modify")


@dataclass(frozen=True, slots=True)
class File:
    """A file.

    Attributes
    ----------
    name : str
        Relative to the root of its tree; ``""`` where that is the file itself.
    size : int
        In bytes.
    modified : float or None
        Seconds since the epoch, where its store lists them.
    md5 : str or None
        In hexadecimal digits, where its store lists it. An S3 object that is encrypted or came
        in parts has none, or another number in its place.
    version : str or None
        What changes with its content, where its store lists such a thing.
    """

    name: str
    size: int
    modified: float | None = None
    md5: str | None = field(default=None, compare=False)
    version: str | None = field(default=None, compare=False)

    @classmethod
    def listed(cls, name: str, info: Mapping[str, Any]) -> File:
        """The file of an entry of a listing."""
        version = info.get("ETag") or info.get("etag") or info.get("generation")
        return cls(
            name,
            int(info["size"] or 0),
            _time(info),
            _md5(info),
            None if version is None else str(version),
        )


@dataclass(frozen=True)
class End:
    """One end of a transfer.

    Attributes
    ----------
    fs : fsspec.AbstractFileSystem
    root : str
        A path in it: of a directory, or of a file.
    """

    fs: Any
    root: str

    @property
    def is_local(self) -> bool:
        """Whether it is this machine's disk."""
        return isinstance(self.fs, LocalFileSystem)

    def path(self, name: str) -> str:
        """The path of a file by its name."""
        if not name:
            return self.root
        return f"{self.root.rstrip('/')}/{name}" if self.root else name

    def __str__(self) -> str:
        return str(self.fs.unstrip_protocol(self.root))

    def is_directory(self) -> bool:
        """Whether it is there, as a directory."""
        return bool(self.fs.isdir(self.root))

    def files(self) -> dict[str, File]:
        """Every file, by name.

        Raises
        ------
        FileNotFoundError
            There is nothing.
        InvalidURI
            A link leads out of a local tree, or in a circle.
        """
        info = self.fs.info(self.root)
        if info["type"] != "directory":
            return {"": self.file("") if self.is_local else File.listed("", info)}
        if self.is_local:
            return {name: self.file(name) for name in _walk(self.root)}
        found = self.fs.find(self.root, detail=True)
        above = self.root.rstrip("/") + "/" if self.root else ""
        files = {
            path.removeprefix(above): File.listed(path.removeprefix(above), info)
            for path, info in found.items()
        }
        # Who does not know how large a file is fetches it whole, and then again.
        unsaid = [path.removeprefix(above) for path, info in found.items() if info["size"] is None]
        if unsaid:
            with concurrent.futures.ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
                files.update(pool.map(self._sized, unsaid, map(files.get, unsaid)))
        return files

    def _sized(self, name: str, listed: File) -> tuple[str, File]:
        """A file that a listing tells no size of; where it cannot be asked for, as it is listed."""
        try:
            return name, self.file(name)
        except OSError:
            return name, listed

    def md5(self, file: File) -> str | None:
        """The MD5 of a file: what its store lists, or of its bytes where they are at hand."""
        return md5_of(self, file.name) if file.md5 is None and self.is_local else file.md5

    def file(self, name: str) -> File:
        """One file, as it is now."""
        if not self.is_local:
            return File.listed(name, self.fs.info(self.path(name)))
        status = os.stat(self.path(name))
        return File(name, status.st_size, status.st_mtime)


def md5_of(end: End, name: str) -> str:
    """The MD5 of a file's bytes, which are read."""
    digest = hashlib.md5(usedforsecurity=False)
    with end.fs.open(end.path(name), "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _walk(root: str) -> Iterator[str]:
    """The names of the files below a local directory; links are followed inside of it."""
    real = os.path.realpath(root)
    waiting: list[tuple[str, tuple[str, ...]]] = [("", (real,))]
    while waiting:
        folder, above = waiting.pop()
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                name = f"{folder}/{entry.name}" if folder else entry.name
                there = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                if entry.is_symlink():
                    if os.path.commonpath([real, there]) != real:
                        raise InvalidURI(f"The link {name!r} leads out of {root!r}.")
                    if not os.path.exists(there):
                        raise FileNotFoundError(errno.ENOENT, "the link leads nowhere", entry.path)
                if entry.is_dir():
                    inside = os.path.realpath(entry.path)
                    if inside in above:
                        raise InvalidURI(f"The link {name!r} leads in a circle.")
                    waiting.append((name, (*above, inside)))
                elif entry.is_file():
                    yield name


def _time(info: Mapping[str, Any]) -> float | None:
    for name in _TIMES:
        value = info.get(name)
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str):
            try:
                value = datetime.datetime.fromisoformat(value)
            except ValueError:
                continue
        if isinstance(value, datetime.datetime):
            aware = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
            return aware.timestamp()
    return None


def _md5(info: Mapping[str, Any]) -> str | None:
    settings = info.get("content_settings")  # Azure's
    given = info.get("md5Hash") or (settings and settings.get("content_md5"))
    if isinstance(given, str):  # Google's
        try:
            given = base64.b64decode(given)
        except binascii.Error:
            return None
    if isinstance(given, bytes | bytearray):
        return given.hex()
    match = _MD5.fullmatch(str(info.get("ETag", "")))
    return match[1] if match else None
