"""What is at one end of a transfer: files below a root, by their names relative to it."""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from mlartifacts.checksums import Checksum, Hasher, Kind, listed
from mlartifacts.errors import InvalidURI
from mlartifacts.transfer.pool import Pool
from mlartifacts.writing import is_temporary

__all__ = ["End", "File", "checksum_of"]

_PIECE = 8 * 2**20
# Files whose listing does not say how long they are.
_ASKED_AT_ONCE = 16
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
    checksum : Checksum or None
        Where its store lists one.
    version : str or None
        What changes with its content, where its store lists such a thing.
    """

    name: str
    size: int
    modified: float | None = None
    checksum: Checksum | None = field(default=None, compare=False)
    version: str | None = field(default=None, compare=False)

    @classmethod
    def listed(cls, name: str, info: Mapping[str, Any]) -> File:
        """The file of an entry of a listing."""
        version = info.get("ETag") or info.get("etag") or info.get("generation")
        return cls(
            name,
            int(info["size"] or 0),
            _time(info),
            listed(info),
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

    def where(self, name: str, writing: bool = False) -> tuple[Any, str] | None:
        """The filesystem that a file lies in, which a logical one is not, and its path there."""
        if self.is_local or not hasattr(self.fs, "where"):
            return None
        found: tuple[Any, str] | None = self.fs.where(self.path(name), writing)
        return found

    def __str__(self) -> str:
        return str(self.fs.unstrip_protocol(self.root))

    @property
    def is_url(self) -> bool:
        """Whether its path is a URL: what stands behind ``?`` may be a signature."""
        return bool({"http", "https"} & set(self.fs.protocol))

    @property
    def name(self) -> str:
        """The last step of its path, without what stands behind a URL's."""
        root = re.split(r"[?#]", self.root)[0] if self.is_url else self.root
        return root.rstrip("/").rpartition("/")[2]

    def physical(self) -> End:
        """The same place in the store that a logical one lies in, where it must be there."""
        found = self.where("")
        return self if found is None else End(*found)

    def lies_in(self, other: End) -> bool:
        """Whether it is another end, or below it."""
        one, other = self.physical(), other.physical()
        if not (one.fs is other.fs or (one.is_local and other.is_local)):
            return False
        above = other.real().rstrip("/")
        return f"{one.real()}/".startswith(f"{above}/" if above or other.root else "")

    def real(self, name: str = "") -> str:
        """The path of a file, links in it followed where they are this machine's."""
        path = self.path(name)
        return os.path.realpath(path) if self.is_local else path

    def is_directory(self) -> bool:
        """Whether it is there, as a directory."""
        return bool(self.fs.isdir(self.root))

    def files(self) -> dict[str, File]:
        """Every file, by name; but for what somebody is writing.

        Raises
        ------
        FileNotFoundError
            There is nothing.
        InvalidURI
            A link leads out of the tree, or in a circle; or it is a device or a pipe. FTP has no
            way to ask where a link leads.
        """
        entries = self.fs.entries(self.root) if hasattr(self.fs, "entries") else None
        if entries is None:
            info = self.fs.info(self.root)
        else:
            info = entries.get(self.root, {"type": "directory"})
        if info["type"] != "directory":
            if self.is_local and not os.path.isfile(self.root):
                raise InvalidURI(f"{self.root!r} is neither a file nor a directory.")
            return {"": self.file("") if self.is_local else self._measured("", info)}
        if self.is_local:
            names = _walk(self.root)
            return {name: self.file(name) for name in names if not is_temporary(name)}
        infos = self._listed() if entries is None else self._named(entries)
        unknown = [name for name, info in infos.items() if info["size"] is None]
        pool = Pool(min(len(unknown), _ASKED_AT_ONCE))
        asked = {name: pool.submit(self.file, name) for name in unknown}
        pool.close()
        files = {name: File.listed(name, info) for name, info in infos.items()}
        for name, file in asked.items():
            with contextlib.suppress(OSError):  # who reads it is told
                files[name] = file.result()
        return files

    def _listed(self, follow: bool = True) -> dict[str, dict[str, Any]]:
        """The entries of a server's files, by name."""
        if hasattr(self.fs, "realpath"):
            found = dict(_served(self.fs, self.root, follow))
        else:
            found = self.fs.find(self.root, detail=True)
        return self._named(found)

    def _named(self, found: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        above = self.root.rstrip("/") + "/" if self.root else ""
        return {p.removeprefix(above): i for p, i in found.items() if not is_temporary(p)}

    def _measured(self, name: str, info: Mapping[str, Any]) -> File:
        """A file whose server may not say how long it is: then what it sends is counted."""
        if info["size"] is None:
            with self.fs.open(self.path(name), "rb") as file:
                info = {**info, "size": file.size}
        return File.listed(name, info)

    def there(self, names: Iterable[str]) -> dict[str, File]:
        """Which of some files are there; other ones, too, where a listing says it."""
        names = list(names)
        if self.is_local and not os.path.lexists(self.root):
            return {}
        files: dict[str, File] = {}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            files = {} if self.is_local else self.own()
        if self.is_local or ("" in files and "" not in names):
            # One by one: what else is in somebody's folder, a link that leads nowhere say, is
            # none of ours; and where an object has a directory's name, that alone is listed.
            return {name: file for name in names if (file := self._found(name)) is not None}
        return files

    def _found(self, name: str) -> File | None:
        try:
            return self.file(name) if self.fs.isfile(self.path(name)) else None
        except (FileNotFoundError, NotADirectoryError):
            return None

    def own(self) -> dict[str, File]:
        """Every file that lies there itself: a link to one counts, and none is followed.

        As in :meth:`files`, what somebody is writing is left out.

        Raises
        ------
        FileNotFoundError
            There is nothing.
        """
        if not self.is_local and hasattr(self.fs, "realpath") and self.is_directory():
            return {n: File.listed(n, info) for n, info in self._listed(follow=False).items()}
        if not self.is_local:
            return self.files()
        if os.path.isdir(self.root):
            return {file.name: file for file in _own(self.root) if not is_temporary(file.name)}
        status = os.lstat(self.root)
        return {"": File("", status.st_size, status.st_mtime)}

    def checksum(self, file: File, kind: Kind) -> Checksum | None:
        """The checksum of a file: what its store lists, or of its bytes where they are at hand."""
        if file.checksum is not None and file.checksum.kind == kind:
            return file.checksum
        return checksum_of(self, file.name, kind) if self.is_local else None

    def file(self, name: str) -> File:
        """One file, as it is now."""
        if not self.is_local:
            return self._measured(name, self.fs.info(self.path(name)))
        status = os.stat(self.path(name))
        return File(name, status.st_size, status.st_mtime)


def checksum_of(end: End, name: str, kind: Kind) -> Checksum:
    """The checksum of a file's bytes, which are read."""
    hasher = Hasher([kind])
    with end.fs.open(end.path(name), "rb") as file:
        while piece := file.read(_PIECE):
            hasher.update(piece)
    return hasher.checksums()[kind]


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


def _served(fs: Any, root: str, follow: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The files below a directory of a server that says where links lead, as :func:`_walk`.

    Where none is to be followed, a link to a file is one, and a link to a directory nothing.
    """
    real = fs.realpath(root)
    pool = Pool(_ASKED_AT_ONCE)
    level: list[tuple[str, tuple[str, ...]]] = [(root, (real,))]
    try:
        while level:
            asked = [pool.submit(fs.ls, folder, True) for folder, _ in level]
            folders, level = level, []
            for (_, above), entries in zip(folders, asked, strict=True):
                for info in entries.result():
                    path = info["name"]
                    there = f"{above[-1].rstrip('/')}/{path.rpartition('/')[2]}"
                    is_link = info["type"] == "link" or info.get("islink")
                    if is_link and follow:
                        if info["type"] == "link":
                            raise FileNotFoundError(errno.ENOENT, "the link leads nowhere", path)
                        there = fs.realpath(path)
                        if there in above:
                            raise InvalidURI(f"The link {path!r} leads in a circle.")
                        if not there.startswith(f"{real.rstrip('/')}/"):
                            raise InvalidURI(f"The link {path!r} leads out of {root!r}.")
                    if info["type"] != "directory":
                        yield path, info
                    elif follow or not is_link:
                        level.append((path, (*above, there)))
    finally:
        pool.close()


def _own(root: str) -> Iterator[File]:
    """The files, and the links to files, below a local directory."""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(name)
                elif entry.is_file(follow_symlinks=False) or (
                    entry.is_symlink() and not os.path.isdir(entry.path)
                ):
                    status = entry.stat(follow_symlinks=False)
                    yield File(name, status.st_size, status.st_mtime)


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
