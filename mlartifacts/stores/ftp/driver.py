"""An fsspec filesystem over FTP.

fsspec's own holds a single ``ftplib`` connection, which threads tear out of each other's
hands, and cannot do without MLSD. This one borrows a connection for each exchange
(:mod:`~mlartifacts.stores.ftp.connections`), asks for a listing once for each directory, and
finds out what a refusal means: FTP's 550 is all of "not there", "not yours" and "a directory".
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import errno
import ftplib
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, TypeVar

from fsspec.spec import AbstractFileSystem

from mlartifacts.promises import abandoned
from mlartifacts.stores.ftp.connections import (
    AT_ONCE,
    Connection,
    ConnectionPool,
    Endpoint,
    Upload,
    is_crowded,
    reply,
)
from mlartifacts.stores.ftp.files import FTPReadFile, FTPWriteFile, RangeReader
from mlartifacts.stores.ftp.listings import (
    Entry,
    UnknownLine,
    parse_facts,
    parse_line,
    parse_time,
)
from mlartifacts.writing import surely, temporary_beside, tidied_behind

__all__ = ["FTPFileSystem"]

T = TypeVar("T")

_CHUNK = 2**18
# What the zones of the world differ by.
_ZONES = timedelta(minutes=15)

# What servers say with a 550 or 553, where they say anything. Those that do not are asked.
_REASONS = (
    (errno.ENOTDIR, ("not a directory",)),
    (errno.EISDIR, ("is a directory",)),
    (errno.ENOTEMPTY, ("not empty",)),
    (errno.EACCES, ("permission", "not enough privileges", "access is denied", "not allowed")),
    (errno.EEXIST, ("file exists", "already exists")),
    (errno.ENOSPC, ("no space", "disk full", "quota")),
    (errno.ENOENT, ("no such file", "not found", "cannot find", "does not exist")),
)


class FTPFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """Files on an FTP server.

    Parameters
    ----------
    host : str
    port : int, default 21
    username : str, optional
        ``anonymous`` unless given.
    password : str, optional
    tls : bool, default False
        Explicit TLS (``AUTH TLS``) for commands and data. The certificate is verified, against
        the system's authorities or those of ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``.
    timeout : float or None, default 60
        Seconds of silence after which a server counts as hanging.
    encoding : str, default "utf-8"
        Of names. Bytes that do not fit are kept as they are.
    """

    root_marker = "/"
    # What is read in sequence comes from one transfer: to read further ahead would save nothing.
    blocksize = _CHUNK

    def __init__(
        self,
        host: str = "localhost",
        port: int = 21,
        username: str | None = None,
        password: str | None = None,
        tls: bool = False,
        timeout: float | None = 60,
        encoding: str = "utf-8",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pool = ConnectionPool.shared(
            Endpoint(
                host,
                port,
                username or "",
                password or "",
                tls,
                timeout,
                encoding,
                (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")) if tls else (),
            )
        )

    def close(self) -> None:
        """Close the connections that nobody uses; the filesystem can be used on."""
        self.pool.close_idle()

    # ---- Looking -------------------------------------------------------------------------

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """List a directory, with one listing command."""
        path = self._strip_protocol(path)
        entries = self._entries(path)
        if entries is None:
            infos = [self.info(path)]
        else:
            infos = [self._resolved(_join(path, entry.name), entry) for entry in entries]
            infos.sort(key=lambda info: str(info["name"]))
        return infos if detail else [info["name"] for info in infos]

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Ask for one path, without a listing."""
        path = self._strip_protocol(path)
        return self._resolved(path, self._entry(path))

    def created(self, path: str) -> datetime:
        """When a file was made, where the server tells."""
        time = self.info(path).get("created")
        if time is None:
            raise NotImplementedError("This FTP server tells no creation times.")
        return time  # type: ignore[no-any-return]

    def modified(self, path: str) -> datetime:
        """When a file was last written."""
        time = self.info(path).get("mtime")
        if time is None:
            raise NotImplementedError(f"This FTP server tells no modification time of {path}.")
        return time  # type: ignore[no-any-return]

    def links_in(self, path: str) -> frozenset[str]:
        """The paths in a directory that are links, by LIST: MLSD need not tell."""
        return frozenset(self._links(self._strip_protocol(path)))

    def link_targets(self, paths: list[str]) -> dict[str, str]:
        """What those of some files lead to that are links, in the server's words."""
        folders = {self._parent(path) for path in paths}
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as threads:
            links = {k: v for told in threads.map(self._links, folders) for k, v in told.items()}
        return {path: links[path] for path in paths if path in links}

    def _links(self, path: str) -> dict[str, str]:
        lines = self._run(lambda c: self._list(c, path), repeatable=True)
        entries = (parse_line(line) for line in lines)
        return {_join(path, e.name): e.target or "" for e in entries if e and e.kind == "link"}

    def _entries(self, path: str) -> list[Entry] | None:
        """The names in a directory; ``None`` for something that is none."""
        try:
            if "MLST" in self.pool.features():
                lines = self._run(lambda c: c.read_lines(f"MLSD {path}"), repeatable=True)
                entries = [parse_facts(line) for line in lines]
            else:
                lines = self._run(lambda c: self._list(c, path), repeatable=True)
                entries = self._in_utc(path, [parse_line(line) for line in lines])
        except ftplib.error_perm as error:
            kind = self._entry(path).kind  # raises where there is nothing
            if kind == "directory" or self._is_directory(path):
                raise _os_error(errno.EACCES, path) from error
            return None
        except UnknownLine as error:
            raise OSError(errno.EIO, str(error), path) from error
        return [entry for entry in entries if entry is not None]

    def _in_utc(self, path: str, entries: list[Entry | None]) -> list[Entry | None]:
        """Entries of LIST, which has the times of a zone that MDTM gives away, in UTC.

        One file of a server's tells: which zone that is changes with its summer alone.
        """
        if self.pool.zone is None:
            timed = (e for e in entries if e and e.kind == "file" and e.modified and e.unit <= 60)
            self.pool.zone = self._zone(path, next(timed, None))
        zone = self.pool.zone
        return [
            dataclasses.replace(entry, modified=entry.modified - zone)
            if zone and entry is not None and entry.modified
            else entry
            for entry in entries
        ]

    def _zone(self, path: str, entry: Entry | None) -> timedelta | None:
        """What an entry's time in a listing is ahead of its time in UTC."""
        if entry is None or entry.modified is None:
            return None
        command = f"MDTM {_join(path, entry.name)}"
        answer = self._run(lambda c: _answer(c, command, "213"), repeatable=True)
        exact = parse_time(answer or "")
        if exact is None:
            return timedelta()  # it does not know MDTM
        ahead = entry.modified - exact
        zone = round(ahead / _ZONES) * _ZONES
        # Unless it has been written to since it was listed.
        return zone if abs(ahead - zone) <= timedelta(seconds=entry.unit) else None

    def _list(self, connection: Connection, path: str) -> list[str]:
        # LIST with a path would take a name for a pattern (vsftpd) or for an option, and of a
        # missing one it gives an empty listing. CWD takes it as it is, and refuses it.
        connection.voidcmd(f"CWD {path}")
        if self.pool.list_hidden:
            try:
                lines = connection.read_lines("LIST -a")
            except ftplib.error_perm:
                lines = []
            # A server that knows the option shows the directory itself, even if it is empty.
            if any(line.endswith(" .") for line in lines):
                return lines
            self.pool.list_hidden = False
        return connection.read_lines("LIST")

    def _entry(self, path: str) -> Entry:
        """What there is at a path."""
        if "MLST" in self.pool.features():
            try:
                lines = self._run(lambda c: c.sendcmd(f"MLST {path}")).splitlines()
            except ftplib.error_perm as error:
                self._refuse(error, path, exists=False)
            entry = parse_facts(lines[1].strip() if len(lines) > 1 else "")
            return entry or Entry(path, "directory")
        return self._run(lambda c: self._probe(c, path), repeatable=True)

    def _probe(self, connection: Connection, path: str) -> Entry:
        """What there is at a path, on a server that can only be asked indirectly."""
        try:
            size = connection.size(path)
            modified = _answer(connection, f"MDTM {path}", "213")
            return Entry(path, "file", size, parse_time(modified or ""))
        except ftplib.error_perm as error:
            refusal = error
        if _answer(connection, f"CWD {path}", "2") is not None:
            return Entry(path, "directory")
        if path == "/":
            raise _os_error(errno.EACCES, path) from refusal
        # Neither a file nor a directory that can be entered. A name that can be renamed is
        # there all the same; the next command takes the renaming back.
        parent = self._parent(path)
        if _answer(connection, f"RNFR {path}", "350") is not None:
            if (entry := self._listed(connection, path)) is not None:
                return entry
            raise _os_error(errno.EACCES, path) from refusal
        number = errno.ENOENT
        if _answer(connection, f"CWD {parent}", "2") is None:
            # Is it the way there that is missing, or are we not let through?
            try:
                above = self._probe(connection, parent).kind
            except OSError as error:
                number = error.errno or errno.ENOENT
            else:
                number = errno.EACCES if above == "directory" else errno.ENOTDIR
                if _answer(connection, f"CWD {parent}", "2") is not None:
                    number = errno.ENOENT  # somebody has just made it
        raise _os_error(number, path) from refusal

    def _listed(self, connection: Connection, path: str) -> Entry | None:
        """What LIST shows at a path, which of a link is the link itself."""
        parent = self._parent(path)
        entries = (parse_line(line) for line in self._list(connection, parent))
        return next((e for e in entries if e is not None and _join(parent, e.name) == path), None)

    def _kept(self, path: str) -> Entry:
        """What there is at a path that a server refused to delete.

        A link that leads nowhere, or out of the server's root, is there only for LIST.
        """
        try:
            return self._entry(path)
        except FileNotFoundError:
            entry = None
            with contextlib.suppress(ftplib.error_perm):  # nor is its directory there
                entry = self._run(lambda c: self._listed(c, path), repeatable=True)
            if entry is None:
                raise
            return entry

    def _resolved(self, path: str, entry: Entry) -> dict[str, Any]:
        """An entry in fsspec's form; a link is what it leads to."""
        kind, size = entry.kind, entry.size
        info: dict[str, Any] = {"name": path}
        if kind == "link":
            info |= {"islink": True, "destination": entry.target}
            size = self._run(lambda c: _size(c, path), repeatable=True)
            kind = "file" if size is not None else "other"
            if size is None and self._is_directory(path):
                kind = "directory"
        info |= {"type": kind, "size": 0 if kind == "directory" else size}
        if entry.modified is not None:
            info["mtime"] = entry.modified
            if entry.unit > 1:
                info["mtime_unit"] = entry.unit
        if entry.created is not None:
            info["created"] = entry.created
        return info

    def _is_directory(self, path: str) -> bool:
        return self._run(lambda c: _answer(c, f"CWD {path}", "2"), repeatable=True) is not None

    # ---- Reading -------------------------------------------------------------------------

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        """Read a file, or the range of it that a slice would give."""
        path = self._strip_protocol(path)
        size = self._size_to_read(path)
        first, last, _ = slice(start, end).indices(size)
        if first >= last:
            return b""
        reader = RangeReader(self.pool, path, size)
        try:
            data = self.read_range(reader, first, last)
        finally:
            reader.close()
        if len(data) != last - first:
            raise OSError(errno.EIO, f"short read: {len(data)} bytes of {last - first}", path)
        return data

    def download(self, path: str, write: Callable[[memoryview], Any]) -> int:
        """Read a whole file in pieces, with bounded memory; give its size."""
        path = self._strip_protocol(path)
        size = self._size_to_read(path)
        reader = RangeReader(self.pool, path, size)
        position = 0
        try:
            with memoryview(bytearray(_CHUNK)) as view:
                while position < size:
                    count = reader.readinto(position, view[: size - position])
                    write(view[:count])
                    position += count
        except ftplib.error_perm as error:
            self._refuse_reading(error, path)
        finally:
            reader.close()
        return size

    def read_range(self, reader: RangeReader, start: int, end: int) -> bytes:
        """Read through a reader, and say why it is refused if it is."""
        try:
            return reader.read(start, end)
        except ftplib.error_perm as error:
            self._refuse_reading(error, reader.path)

    def _refuse_reading(self, error: ftplib.error_perm, path: str) -> NoReturn:
        self._entry(path)  # raises where it is not there, any more
        self._refuse(error, path, exists=True)

    def _size_to_read(self, path: str) -> int:
        try:
            size = self._run(lambda c: c.size(path), repeatable=True)
        except ftplib.error_perm as error:
            entry = self._entry(path)
            if entry.kind == "directory" or (entry.kind != "file" and self._is_directory(path)):
                raise _os_error(errno.EISDIR, path) from error
            if entry.size is None:
                raise _os_error(errno.EACCES, path) from error
            size = entry.size
        assert size is not None
        return size

    # ---- Writing -------------------------------------------------------------------------

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        size: int | None = None,
        **kwargs: Any,
    ) -> FTPReadFile | FTPWriteFile:
        if mode == "rb":
            size = self._size_to_read(path) if size is None else size
            kwargs.setdefault("cache_type", "proportional")
            return FTPReadFile(
                self,
                path,
                size=size,
                block_size=block_size or self.blocksize,
                cache_options=cache_options,
                **kwargs,
            )
        if mode not in {"wb", "xb", "ab"}:
            raise ValueError(f"FTP files cannot be opened in mode {mode!r}")
        position = 0
        if mode == "xb":
            if self._exists(path):
                raise _os_error(errno.EEXIST, path)
        elif self._is_directory(path):
            raise _os_error(errno.EISDIR, path)
        elif mode == "ab":
            position = self._run(lambda c: _size(c, path), repeatable=True) or 0
        passing = size is not None and autocommit
        return FTPWriteFile(
            self, path, mode, position=position, autocommit=autocommit, passing=passing
        )

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **kwargs: Any) -> None:
        """Write a file at once."""
        if self._intrans or mode != "overwrite":
            super().pipe_file(path, value, mode=mode, **kwargs)
            return
        # Without asking before whether it is a directory: that is said at the file's renaming.
        with self._writing(self._strip_protocol(path)) as writer:
            writer.write(value)

    @contextlib.contextmanager
    def _writing(self, path: str) -> Iterator[FTPWriteFile]:
        """Write a file without a pause: it is there in the end, or nothing of it."""
        writer = FTPWriteFile(self, path, "wb", passing=True)
        abandoned(writer.discard)
        try:
            yield writer
            writer.close()
        except TimeoutError:
            tidied_behind(writer.discard)
            raise
        except BaseException:
            surely(writer.discard)
            raise

    def begin_upload(self, command: str, path: str, target: str) -> Upload:
        """Start to write at `path`; directories above that are missing are made."""
        try:
            return self.pool.upload(f"{command} {path}")
        except ftplib.error_perm as error:
            if refuses_login(error):
                raise
            parent = self._parent(path)
            if not self._is_directory(parent):
                try:
                    self.makedirs(parent, exist_ok=True)
                except FileExistsError:
                    raise _os_error(errno.ENOTDIR, target) from error
        # Again also where the directory is there: another thread may have made it meanwhile.
        try:
            return self.pool.upload(f"{command} {path}")
        except ftplib.error_perm as error:
            self._refuse(error, target, exists=True)

    def land(self, temporary: str, path: str, *, exclusive: bool = False) -> None:
        """Give a written file its name, in place of a file that had it."""
        if exclusive and self._exists(path):
            raise _os_error(errno.EEXIST, path)
        try:
            self._rename(temporary, path)
        except ftplib.error_perm as error:
            if self._is_directory(path):
                raise _os_error(errno.EISDIR, path) from error
            if not self._exists(path):
                self._refuse(error, path, exists=True)
            self._land_beside(temporary, path, error)

    def _land_beside(self, temporary: str, path: str, refusal: Exception) -> None:
        """Land on a server that overwrites nothing by renaming; the old file goes last."""
        old = temporary_beside(path)
        try:
            self._rename(path, old)
        except ftplib.error_perm:
            raise _os_error(errno.EACCES, path) from refusal
        try:
            self._rename(temporary, path)
        except BaseException:
            self._rename(old, path)
            raise
        self.drop(old)

    def drop(self, path: str) -> None:
        """Delete a file of ours, if it is there."""
        self._run(lambda c: _answer(c, f"DELE {path}", "2"))

    def _rename(self, path: str, target: str) -> None:
        def exchange(connection: Connection) -> None:
            connection.sendcmd(f"RNFR {path}")
            connection.voidcmd(f"RNTO {target}")

        self._run(exchange)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Copy a file through this machine, as FTP has no copies; memory is bounded."""
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        try:
            self._size_to_read(source)
        except IsADirectoryError:
            self.makedirs(target, exist_ok=True)
            return
        with self._writing(target) as writer:
            self.download(source, writer.write)

    def mv(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Rename a file or a directory; into `path2`, where that is a directory."""
        single = isinstance(path1, str) and isinstance(path2, str) and not path1.endswith("/")
        if not single or maxdepth is not None:
            super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth, **kwargs)
            return
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        if path2.endswith("/") or self._is_directory(target):
            target = _join(target, source.rpartition("/")[2])
        if source == target:
            return
        entry = self._entry(source)  # raises where there is nothing
        self.makedirs(self._parent(target), exist_ok=True)
        if entry.kind != "directory":
            self.land(source, target)
            return
        try:
            self._rename(source, target)
        except ftplib.error_perm as error:
            taken = self._exists(target)
            raise _os_error(errno.EEXIST if taken else errno.EACCES, target) from error

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """Make a directory."""
        path = self._strip_protocol(path)
        if create_parents:
            self.makedirs(path)
        else:
            self._make_directory(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a directory, and those above it that are missing."""
        path = self._strip_protocol(path)
        try:
            self._make_directory(path)
        except FileNotFoundError:
            self.makedirs(self._parent(path), exist_ok=True)
            self.makedirs(path, exist_ok=True)  # somebody else may have made it meanwhile
        except FileExistsError:
            if not exist_ok or not self._is_directory(path):
                raise

    def _make_directory(self, path: str, again: bool = True) -> None:
        try:
            self._run(lambda c: c.voidcmd(f"MKD {path}"))
        except ftplib.error_perm as error:
            if path == "/" or self._exists(path):
                raise _os_error(errno.EEXIST, path) from error
            parent = self._parent(path)
            if not self._exists(parent):
                raise _os_error(errno.ENOENT, path) from error
            if again:  # the parent may be there only since the server said no
                self._make_directory(path, again=False)
                return
            refused = errno.EACCES if self._is_directory(parent) else errno.ENOTDIR
            raise _os_error(refused, path) from error

    def touch(self, path: str, truncate: bool = True, **kwargs: Any) -> None:
        """Make an empty file, or (``truncate=False``) give a file this moment's time."""
        path = self._strip_protocol(path)
        if truncate or not self._exists(path):
            with self.open(path, "wb"):
                return
        self.set_modified(path, int(time.time()))

    @property
    def sets_times(self) -> bool:
        """Whether the server takes a file's time."""
        return "MFMT" in self.pool.features()

    def set_modified(self, path: str, seconds: int) -> None:
        """Say when a file was last changed, in seconds since the epoch."""
        if not self.sets_times:
            raise NotImplementedError("This FTP server cannot change a file's time.")
        path = self._strip_protocol(path)
        when = datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%d%H%M%S")
        self._run(lambda c: c.sendcmd(f"MFMT {when} {path}"))

    # ---- Deleting ------------------------------------------------------------------------

    def rm_file(self, path: str) -> None:
        """Delete a file."""
        path = self._strip_protocol(path)
        try:
            self._run(lambda c: c.voidcmd(f"DELE {path}"))
        except ftplib.error_perm as error:
            if self._kept(path).kind == "directory":
                raise _os_error(errno.EISDIR, path) from error
            self._refuse(error, path, exists=True)

    def rmdir(self, path: str) -> None:
        """Delete an empty directory."""
        path = self._strip_protocol(path)
        try:
            self._run(lambda c: c.voidcmd(f"RMD {path}"))
        except ftplib.error_perm as error:
            if self._kept(path).kind != "directory":
                raise _os_error(errno.ENOTDIR, path) from error
            number = errno.ENOTEMPTY if self._entries(path) else errno.EACCES
            raise _os_error(number, path) from error

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Delete files, and directories with all that is in them if `recursive`."""
        for each in [path] if isinstance(path, str | os.PathLike) else path:
            stripped = self._strip_protocol(each)
            try:
                self.rm_file(stripped)
            except IsADirectoryError:
                if not recursive:
                    raise
                self._rm_tree(stripped, maxdepth)

    def _rm_tree(self, path: str, maxdepth: int | None) -> bool:
        """Delete a directory down to a depth; whether it is gone."""
        if maxdepth is not None and maxdepth < 1:
            return False
        # What is listed as a directory may be a link to one (MLSD follows them), and what that
        # leads to is not ours to delete. DELE takes a link, and refuses a directory.
        below = [_join(path, entry.name) for entry in self._entries(path) or []]
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as threads:
            left = [each for each in threads.map(self._rm_unless_directory, below) if each]
        deeper = None if maxdepth is None else maxdepth - 1
        complete = True
        for each in left:
            with contextlib.suppress(FileNotFoundError):  # somebody else deleted it
                complete = self._rm_tree(each, deeper) and complete
        if complete and path != "/":
            self.rmdir(path)
        return complete

    def _rm_unless_directory(self, path: str) -> str | None:
        """Delete a file, if it is there; the path of what is a directory."""
        try:
            self.rm_file(path)
        except FileNotFoundError:
            return None
        except IsADirectoryError:
            return path
        return None

    # ---- Refusals ------------------------------------------------------------------------

    def _run(self, exchange: Callable[[Connection], T], *, repeatable: bool = False) -> T:
        return self.pool.run(exchange, repeatable=repeatable)

    def _exists(self, path: str) -> bool:
        try:
            self._entry(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _refuse(self, error: ftplib.error_perm, path: str, *, exists: bool) -> NoReturn:
        """Raise what a refusal means, by the server's words, else by what is known."""
        number = meaning(error)
        if number is None or (exists and number == errno.ENOENT):
            number = errno.EACCES if exists else errno.ENOENT
        raise _os_error(number, path, str(error)) from error


def refuses_login(error: ftplib.Error) -> bool:
    """Whether a server does not take the user and the password."""
    return reply(error) in {"530", "532"} and not is_crowded(error)


def meaning(error: ftplib.Error) -> int | None:
    """The ``errno`` that a server's words name, if they do."""
    if reply(error) in {"452", "552"}:
        return errno.ENOSPC
    if refuses_login(error):
        return errno.EACCES
    text = str(error).lower()
    return next((number for number, words in _REASONS if any(w in text for w in words)), None)


def _answer(connection: Connection, command: str, code: str) -> str | None:
    """Ask, and give the answer's text if its code is the one hoped for."""
    try:
        response = connection.sendcmd(command)
    except ftplib.error_perm:
        return None
    return response[3:].strip() if response.startswith(code) else None


def _size(connection: Connection, path: str) -> int | None:
    answer = _answer(connection, f"SIZE {path}", "213")
    return int(answer) if answer is not None and answer.isdigit() else None


def _join(directory: str, name: str) -> str:
    return f"{directory.rstrip('/')}/{name}"


def _os_error(number: int, path: str, text: str | None = None) -> OSError:
    return OSError(number, os.strerror(number) if text is None else text, path)
