"""What is at one end of a transfer: files below a root, by their names relative to it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import email.utils
import errno
import functools
import itertools
import math
import os
import posixpath
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from mlartifacts.checksums import Checksum, Hasher, Kind, listed
from mlartifacts.errors import InvalidURI
from mlartifacts.transfer.pool import Pool, submit_all
from mlartifacts.writing import is_passing, is_temporary

__all__ = [
    "End",
    "File",
    "checksum_of",
    "folder_of",
    "listed_with_links",
    "means_inside",
    "refuse_empty_step",
    "state_of",
    "unverified",
]

_PIECE = 8 * 2**20
# Files whose listing does not say how long they are.
_ASKED_AT_ONCE = 16
# What the drivers call the time of a file's last change.
_TIMES = (
    *("mtime", "LastModified", "last_modified", "updated", "modified", "modify"),
    "Last-Modified",  # HTTP's
)


_parse_iso = datetime.datetime.fromisoformat


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
    state : str or None
        Of a local file, what changes when it is written to, renamed or replaced.
    unit : float
        What `modified` is told in, in seconds; 0: as exactly as it is.
    """

    name: str
    size: int
    modified: float | None = None
    checksum: Checksum | None = field(default=None, compare=False)
    version: str | None = field(default=None, compare=False)
    state: str | None = field(default=None, compare=False)
    unit: float = field(default=1.0, compare=False)

    @classmethod
    def listed(cls, name: str, info: Mapping[str, Any]) -> File:
        """The file of an entry of a listing."""
        # Google's ETag is another one, too, where nothing but a setting of an object changes.
        version = info.get("ETag") or info.get("generation") or info.get("etag")
        if str(version).startswith("W/"):
            version = None  # the server itself says that it may be of other content
        return cls(
            name,
            int(info["size"] or 0),
            _time(info),
            listed(info),
            None if version is None else str(version),
            unit=info.get("mtime_unit", 1.0),
        )

    @classmethod
    def local(cls, name: str, status: os.stat_result) -> File:
        """The file that a disk says something of."""
        return cls(name, status.st_size, status.st_mtime, state=state_of(status), unit=0)


def unverified(files: Mapping[str, File]) -> dict[str, File]:
    """Files without the checksums that their store lists: what comes is compared with none."""
    return {name: dataclasses.replace(file, checksum=None) for name, file in files.items()}


@dataclass(frozen=True)
class End:
    """One end of a transfer.

    Attributes
    ----------
    fs : fsspec.AbstractFileSystem
    root : str
        A path in it: of a directory, or of a file.
    inside_alone : bool, default False
        What is in the directory is meant, as by a slash at the end, and no file of its name.
    passing : dict of str to File
        What listings showed of what is being written to a directory, or was when its writer died.
    links : set of str
        What listings of a server's own files showed of links.
    """

    fs: Any
    root: str
    inside_alone: bool = False
    passing: dict[str, File] = field(default_factory=dict, compare=False, repr=False)
    links: set[str] = field(default_factory=set, compare=False, repr=False)

    @functools.cached_property
    def is_local(self) -> bool:
        """Whether it is this machine's disk."""
        return isinstance(self.fs, LocalFileSystem)

    @functools.cached_property
    def _above(self) -> str:
        """What the paths of what is in it begin with."""
        return f"{self.root.rstrip('/')}/" if self.root else ""

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
        """The same place in a store, which of a logical one is where it is written."""
        return self.everywhere()[0]

    @property
    def has_directories(self) -> bool:
        """Whether no file in a directory may have the name of a directory in it."""
        return hasattr(self.fs, "has_directories") and self.fs.has_directories(self.root)

    @property
    def holds_keys(self) -> bool:
        """Whether it is in a store of objects, whose names are texts, and need no directories."""
        return bool(getattr(self.physical().fs, "lists_flat", False))

    @property
    def keeps_times(self) -> bool:
        """Whether files can be given the time of what they are copies of."""
        if self.is_local or not hasattr(self.fs, "keeps_times"):
            return self.is_local
        with contextlib.suppress(OSError):  # a server that cannot be asked fails for each file
            return bool(self.fs.keeps_times(self.root))
        return False

    def give_time(self, name: str, modified: float) -> None:
        """Give a file of a store a time, as far as it lets who may write the file do it."""
        with contextlib.suppress(OSError, OverflowError, ValueError):  # no year of the store's, too
            self.fs.set_modified(self.path(name), math.floor(modified))

    def unfit(self, name: str) -> str | None:
        """Why it cannot hold a name; ``None`` where it can, as far as is known."""
        reason: str | None = None
        if hasattr(self.fs, "unfit"):
            reason = self.fs.unfit(self.path(name))
        return reason

    def lies_in(self, other: End, perhaps: bool = False) -> bool:
        """Whether it is another end, or below it, however the two were named and opened.

        Parameters
        ----------
        other : End
        perhaps : bool, default False
            Say so where it may be: servers may show each login a root of its own, and a store
            may not say what its servers are.
        """
        pairs = itertools.product(self.everywhere(), other.everywhere())
        return any(
            _have_the_same(one.fs, above.fs, perhaps) and one._is_below(above)
            for one, above in pairs
        )

    def everywhere(self) -> list[End]:
        """Itself, or the places in stores where what lies at a logical one may be."""
        if not hasattr(self.fs, "everywhere"):
            return [self]
        places = self.fs.everywhere(self.root)
        return [End(fs, path, self.inside_alone) for fs, path in places]

    def _is_below(self, other: End) -> bool:
        # As it is written, too: who logs in otherwise may not be told where links lead.
        pairs = ((self.real(), other.real()), (self.followed(), other.followed()))
        for path, above in pairs:
            above = above.rstrip("/")
            if f"{path}/".startswith(f"{above}/" if above or other.root else ""):
                return True
        if not self.is_local or not other.is_local or not os.path.exists(other.root):
            return False
        # Two names of one directory: another case of the letters, a mount of a part of a disk.
        path = self.real()
        parents = [each for each in (Path(path), *Path(path).parents) if each.exists()]
        return any(parent.samefile(other.root) for parent in parents)

    def followed(self, name: str = "") -> str:
        """The path of a file, with its links followed where the store says where they lead."""
        if self.is_local or not hasattr(self.fs, "realpath"):
            return self.real(name)
        path, rest = self.path(name), ""
        while path:
            try:
                return f"{self.fs.realpath(path)}{rest}"
            except (FileNotFoundError, NotADirectoryError):  # it is not there yet
                path, _, step = path.rpartition("/")
                rest = f"/{step}{rest}"
            except OSError:
                break
        return self.path(name)

    def real(self, name: str = "") -> str:
        """The path of a file, links in it followed where they are this machine's."""
        path = self.path(name)
        return os.path.realpath(path) if self.is_local else path

    def is_directory(self) -> bool:
        """Whether it is there, as a directory."""
        return bool(self.fs.isdir(self.root))

    def may_be_directory(self) -> bool:
        """Whether what is written to its very name could be meant to go into it.

        Who may write to a store of objects need not be let look. There a name is a file's, also
        where others begin with it.
        """
        try:
            return self.is_directory()
        except PermissionError:
            if self.has_directories:
                raise
            return False

    def checks_uploads(self, name: str) -> bool:
        """Whether what its store took of a file is what was sent, for sure."""
        return hasattr(self.fs, "checks_uploads") and self.fs.checks_uploads(self.path(name))

    def has(self, name: str) -> bool:
        """Whether a name is there; a store that cannot tell raises."""
        return bool(self.fs.exists(self.path(name)))

    def is_link(self) -> bool:
        """Whether it is a link itself, as far as its store says."""
        root = self.root.rstrip("/")
        above, _, step = root.rpartition("/")
        if self.is_local:
            return os.path.islink(root)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if hasattr(self.fs, "realpath"):
                own = f"{self.fs.realpath(above or '/').rstrip('/')}/{step}"
                return bool(step) and self.fs.realpath(root) != own
            if hasattr(self.fs, "links_in"):
                return root in self.fs.links_in(above or "/")
        return False

    def files(
        self, surely: bool = False, failed: dict[str, OSError] | None = None
    ) -> dict[str, File]:
        """Every file, by name; but for what somebody is writing.

        Parameters
        ----------
        surely : bool, default False
            Something is to be deleted because it is not there: raise where a server may not have
            said all.
        failed : dict of str to OSError, optional
            Takes why a file, or under a name that ends with a slash a directory, could not be
            looked at: it is not to be read, or vanished meanwhile, or a link leads nowhere. Raised
            unless given.

        Raises
        ------
        FileNotFoundError
            There is nothing.
        NotADirectoryError
            There is a file alone, and what is in a directory is meant.
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
            if self.inside_alone and not self.is_url:
                return self._beside_file()
            if self.is_local and not os.path.isfile(self.root):
                raise InvalidURI(f"{self.root!r} is neither a file nor a directory.")
            return {"": self.file("") if self.is_local else self._measured("", info)}
        if self.is_local:
            return _walk(self.root, failed)
        if entries is None:
            infos = self._listed(surely=surely, failed=failed)
        else:
            infos = self._named(entries)
        unknown = [name for name, info in infos.items() if info["size"] is None]
        files = {name: File.listed(name, info) for name, info in infos.items()}
        return files | self.asked(unknown)

    @property
    def tells_links(self) -> bool:
        """Whether its server says what is a link."""
        return hasattr(self.fs, "realpath") or hasattr(self.fs, "links_in")

    def _listed(
        self,
        follow: bool = True,
        surely: bool = False,
        failed: dict[str, OSError] | None = None,
        folders: Collection[str] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """The entries of a server's files, by name."""
        if hasattr(self.fs, "realpath") or (self.tells_links and not follow):
            links: set[str] = set()
            found = dict(_served(self.fs, self.root, follow, failed, links, folders))
            self.links.update(path.removeprefix(self._above) for path in links)
        elif surely and hasattr(self.fs, "find_surely"):
            found = self.fs.find_surely(self.root)
        elif failed is not None and self.has_directories and self.physical().fs is self.fs:
            found = self.fs.find(self.root, detail=True, on_error=self._teller(failed))
        else:
            found = self.fs.find(self.root, detail=True)
        return self._named(found)

    def _teller(self, failed: dict[str, OSError]) -> Callable[[OSError], None]:
        """What a server's walk tells of a directory that it cannot list."""

        def tell(error: OSError) -> None:
            with _telling(failed, f"{error.filename}/".removeprefix(f"{self.root.rstrip('/')}/")):
                raise error

        return tell

    def _named(self, found: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        infos = {path.removeprefix(self._above): info for path, info in found.items()}
        self.passing.update({n: File.listed(n, i) for n, i in infos.items() if is_passing(n)})
        return {name: info for name, info in infos.items() if not is_temporary(name)}

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
        FileNotFoundError, NotADirectoryError
            As :meth:`files`.
        """
        failed: dict[str, OSError] = {}
        if self.is_local:
            if not os.path.isdir(self.root):
                if self.inside_alone:
                    return self._beside_file()
                return {"": File.local("", os.lstat(self.root))}
            files = {each.name: each for each in _own(self.root, failed)}
            files = {name: file for name, file in files.items() if not is_temporary(name)}
        elif self.tells_links and self.is_directory():
            infos = self._listed(follow=False, failed=failed)
            files = {name: File.listed(name, info) for name, info in infos.items()}
        else:
            files = self.files()
        for error in failed.values():
            if not isinstance(error, FileNotFoundError | NotADirectoryError):  # it is not gone
                raise error
        return files

    def beside(self, folders: Iterable[str]) -> dict[str, File]:
        """What a server that tells links lists in some directories below it, and in itself."""
        paths = {self.path(folder) for folder in folders}
        infos = self._listed(follow=False, failed={}, folders=paths)
        return {name: File.listed(name, info) for name, info in infos.items()}

    def leads(self, links: Collection[str]) -> dict[str, str]:
        """The names that links lead to, or paths of what lies elsewhere, as far as is told."""
        if self.is_local or hasattr(self.fs, "realpath"):
            above = f"{self.followed().rstrip('/')}/"
            asked = submit_all(self.followed, links, _ASKED_AT_ONCE)
            real = [f"{each.result()}/".removeprefix(above).rstrip("/") for each in asked]
            return dict(zip(links, real, strict=True))
        told = self.fs.link_targets([self.path(name) for name in links]) if links else {}
        found = {}
        for path, target in told.items():
            whole = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            # A server may show a directory of its own as the root, and say where that lies.
            _, is_below, name = f"{whole}/".partition(self._above or "/")
            found[path.removeprefix(self._above)] = name.rstrip("/") if is_below else whole
        return found

    def below(self) -> dict[str, File]:
        """Every file below it, also where an object has its name."""
        found = self._named(self.fs.find(self.root, detail=True))
        found.pop(self.root, None)  # given where there is nothing else
        return {name: File.listed(name, info) for name, info in found.items()}

    def has_file_beside(self) -> bool:
        """Whether an object has the name of the directory, in which alone is meant."""
        return self.inside_alone and not self.has_directories and bool(self.fs.isfile(self.root))

    def _beside_file(self) -> dict[str, File]:
        files = {} if self.has_directories else self.below()
        if not files:
            reason = "a file is there, and no directory, which a slash at the end means"
            raise NotADirectoryError(errno.ENOTDIR, reason, str(self))
        return files

    def inside(self, folder: str) -> dict[str, File]:
        """The files in a directory by its name, without what is below, and of which it says all.

        Raises
        ------
        FileNotFoundError
            There is no such directory.
        """
        entries = self.fs.ls(self.path(folder), detail=True)
        files = {each["name"]: each for each in entries if each["type"] != "directory"}
        named = self._named(files)
        return {n: File.listed(n, info) for n, info in named.items() if info["size"] is not None}

    def directories(self, names: Iterable[str]) -> set[str]:
        """Which of some names are those of directories, and not of links to one."""
        names = set(names)

        def inside(folder: str) -> set[str]:
            entries: list[dict[str, Any]] = []
            links: frozenset[str] = frozenset()
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                entries, links = listed_with_links(self.fs, self.path(folder))
            found = {
                e["name"]: e for e in entries if not e.get("islink") and e["name"] not in links
            }
            return {name for name, e in self._named(found).items() if e["type"] == "directory"}

        folders = {name.rpartition("/")[0] for name in names}
        asked = submit_all(inside, folders, _ASKED_AT_ONCE)
        return {name for each in asked for name in each.result() & names}

    def checksum(self, file: File, kind: Kind) -> Checksum | None:
        """The checksum of a file: what its store lists, or of its bytes where they are at hand."""
        if file.checksum is not None and file.checksum.kind == kind:
            return file.checksum
        return checksum_of(self, file.name, kind) if self.is_local else None

    def asked(self, names: Collection[str]) -> dict[str, File]:
        """Files by their own entries, which may say more than a listing; but for those that fail.

        Whoever reads such a one is told.
        """
        files: dict[str, File] = {}
        asked = submit_all(self.file, names, _ASKED_AT_ONCE)
        for name, file in zip(names, asked, strict=True):
            with contextlib.suppress(OSError):
                files[name] = file.result()
        return files

    def vouches(self, name: str, checksum: Checksum) -> bool:
        """Whether what its store lists as a file's checksum is one, for sure."""
        if checksum.certain or not hasattr(self.fs, "vouches"):
            return checksum.certain
        with contextlib.suppress(OSError):  # not everybody may ask
            return bool(self.fs.vouches(self.path(name), checksum))
        return False

    def timed(self, unclear: Iterable[File]) -> dict[str, File]:
        """Files whose times are listed coarsely, or not at all, with times that are asked for."""
        files = {file.name: file for file in unclear}
        undated = [name for name, file in files.items() if file.modified is None]
        found = self.asked([name for name in files if name not in undated])
        if not undated or not hasattr(self.fs, "ranged"):
            return found
        if len(undated) > 1 and not self.fs.ranged(self.path(undated[0])):
            return found  # a server that sends all of a file may fetch all of it to tell its time
        asked = submit_all(lambda name: self.fs.modified(self.path(name)), undated, _ASKED_AT_ONCE)
        for name, when in zip(undated, asked, strict=True):
            with contextlib.suppress(OSError, NotImplementedError):
                modified = when.result().timestamp()
                found[name] = dataclasses.replace(files[name], modified=modified)
        return found

    def file(self, name: str) -> File:
        """One file, as it is now.

        Raises
        ------
        FileNotFoundError, IsADirectoryError
        """
        path = self.path(name)
        if self.is_local:
            status = os.stat(path)
            if not stat.S_ISDIR(status.st_mode):
                return File.local(name, status)
        elif (info := self.fs.info(path))["type"] != "directory":
            return self._measured(name, info)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)


def means_inside(place: str | os.PathLike[str]) -> bool:
    """Whether a URI, or a local path, ends with a slash: it means a directory and what is in it."""
    return os.fspath(place).endswith(("/", os.sep))


def refuse_empty_step(place: str | os.PathLike[str], end: End) -> None:
    """Refuse a URI that ends with two slashes, where that is not what one slash means.

    Raises
    ------
    InvalidURI
        It is in a store of objects, in which ``d//x`` is not ``d/x``.
    """
    if os.fspath(place).endswith("//") and end.holds_keys:
        raise InvalidURI(
            f"{end}// ends with an empty step, and would be taken for {end}: write one slash."
        )


def folder_of(name: str) -> str:
    """The directory that a name is in, with the slash at its end; ``""`` for the root."""
    return name[: name.rfind("/") + 1]


def state_of(status: os.stat_result) -> str:
    """What changes when a local file is written to, renamed or replaced."""
    return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_ctime_ns}"


def _have_the_same(one: Any, other: Any, perhaps: bool) -> bool:
    """Whether two filesystems have, or perhaps have, the same files under the same paths."""
    if one is other or (isinstance(one, LocalFileSystem) and isinstance(other, LocalFileSystem)):
        return True
    if not hasattr(one, "store") or one.store is not getattr(other, "store", None):
        return False
    names, others = one.servers(), other.servers()
    if not names or not others:
        return perhaps
    return bool(names & others) and (perhaps or not one.roots_by_login)


def checksum_of(end: End, name: str, kind: Kind) -> Checksum:
    """The checksum of a file's bytes, which are read."""
    hasher = Hasher([kind])
    with end.fs.open(end.path(name), "rb") as file:
        while piece := file.read(_PIECE):
            hasher.update(piece)
    return hasher.checksums()[kind]


@contextlib.contextmanager
def _telling(failed: dict[str, OSError] | None, name: str) -> Iterator[None]:
    """Have it told why something below a root cannot be looked at, and go on with the others."""
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise  # nobody answers
    except OSError as error:
        if failed is None or name in {"", "/"}:
            raise
        failed[name] = error


def _walk(root: str, failed: dict[str, OSError] | None) -> dict[str, File]:
    """The files below a local directory; links are followed inside of it."""
    files: dict[str, File] = {}
    real = os.path.realpath(root)
    waiting: list[tuple[str, tuple[str, ...]]] = [("", (real,))]
    while waiting:
        folder, above = waiting.pop()
        entries: list[os.DirEntry[str]] = []
        with _telling(failed, f"{folder}/"), os.scandir(os.path.join(root, folder)) as found:
            entries = sorted(found, key=lambda each: each.name)
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            with _telling(failed, name):
                _refuse_link(root, real, name, entry)
                if entry.is_dir():
                    inside = os.path.realpath(entry.path)
                    if inside in above:
                        raise InvalidURI(f"The link {name!r} leads in a circle.")
                    waiting.append((name, (*above, inside)))
                elif entry.is_file() and not is_temporary(name):
                    files[name] = File.local(name, os.stat(entry.path))
    return files


def _refuse_link(root: str, real: str, name: str, entry: os.DirEntry[str]) -> None:
    """Refuse a link that leads out of a local directory (its path is `real`), or nowhere."""
    if not entry.is_symlink():
        return
    there = os.path.realpath(entry.path)
    if os.path.commonpath([real, there]) != real:
        raise InvalidURI(f"The link {name!r} leads out of {root!r}.")
    if not os.path.exists(there):
        raise FileNotFoundError(errno.ENOENT, "the link leads nowhere", entry.path)


def _served(
    fs: Any,
    root: str,
    follow: bool,
    failed: dict[str, OSError] | None,
    found: set[str],
    within: Collection[str] | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The files below a directory of a server that says where links lead, as :func:`_walk`.

    Where none is to be followed, a link to a file is one, and a link to a directory nothing;
    `found` takes both. Directories other than those `within` are not looked into.
    """
    real = fs.realpath(root) if follow else root
    start = f"{root.rstrip('/')}/"
    pool = Pool(_ASKED_AT_ONCE)
    level: list[tuple[str, tuple[str, ...]]] = [(root, (real,))]
    try:
        while level:
            asked = [pool.submit(listed_with_links, fs, folder) for folder, _ in level]
            folders, level = level, []
            for (folder, above), answer in zip(folders, asked, strict=True):
                infos: list[dict[str, Any]] = []
                links: frozenset[str] = frozenset()
                with _telling(failed, f"{folder}/".removeprefix(start)):
                    infos, links = answer.result()
                for info in infos:
                    path = info["name"]
                    is_link = info["type"] == "link" or info.get("islink") or path in links
                    there: str | None = f"{above[-1].rstrip('/')}/{path.rpartition('/')[2]}"
                    if is_link:
                        found.add(path)
                    if is_link and follow:
                        there = None
                        with _telling(failed, path.removeprefix(start)):
                            there = _followed_link(fs, root, real, above, info)
                    if there is None:
                        continue
                    if info["type"] != "directory":
                        yield path, info
                    elif (follow or not is_link) and (within is None or path in within):
                        level.append((path, (*above, there)))
    finally:
        pool.close()


def listed_with_links(fs: Any, folder: str) -> tuple[list[dict[str, Any]], frozenset[str]]:
    """What is in a directory of a server, and what of it only another listing says is a link."""
    infos = fs.ls(folder, True)
    is_parent = any(info["type"] == "directory" for info in infos)
    links_in = getattr(fs, "links_in", None)
    return infos, links_in(folder) if links_in and is_parent else frozenset()


def _followed_link(
    fs: Any, root: str, real: str, above: tuple[str, ...], info: Mapping[str, Any]
) -> str:
    """Where a link of a server leads; refused as by :func:`_refuse_link`."""
    path = info["name"]
    if info["type"] == "link":
        raise FileNotFoundError(errno.ENOENT, "the link leads nowhere", path)
    there = str(fs.realpath(path))
    if there in above:
        raise InvalidURI(f"The link {path!r} leads in a circle.")
    if not there.startswith(f"{real.rstrip('/')}/"):
        raise InvalidURI(f"The link {path!r} leads out of {root!r}.")
    return there


def _own(root: str, failed: dict[str, OSError]) -> Iterator[File]:
    """The files, and the links to files, below a local directory."""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        entries: list[os.DirEntry[str]] = []
        with _telling(failed, f"{folder}/"), os.scandir(os.path.join(root, folder)) as found:
            entries = list(found)
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                waiting.append(name)
            elif entry.is_file(follow_symlinks=False) or (
                entry.is_symlink() and not os.path.isdir(entry.path)
            ):
                with _telling(failed, name):
                    status = entry.stat(follow_symlinks=False)
                    yield File.local(name, status)


def _time(info: Mapping[str, Any]) -> float | None:
    for name in _TIMES:
        value = info.get(name)
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str):
            is_of_http = name == "Last-Modified"
            parse = email.utils.parsedate_to_datetime if is_of_http else _parse_iso
            try:
                value = parse(value)
            except (OverflowError, ValueError):
                continue
        if isinstance(value, datetime.datetime):
            aware = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
            return aware.timestamp()
    return None
