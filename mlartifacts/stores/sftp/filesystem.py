"""sshfs's filesystem, with what it lacks: checked hosts, new connections, whole writes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import posixpath
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from glob import has_magic
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.asyn import _run_coros_in_chunks, sync_wrapper
from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.implementations.local import trailing_sep
from fsspec.utils import isfilelike

from mlartifacts.errors import of_store
from mlartifacts.promises import AsyncArtifactFileSystem, synced, texts
from mlartifacts.reading import checked
from mlartifacts.stores.sftp import STORE
from mlartifacts.uri import server_name
from mlartifacts.writing import WholeWrite, landing, temporary_beside

with STORE.driver():
    import asyncssh
    from asyncssh.sftp import SFTPOpUnsupported
    from sshfs import SSHFileSystem
    from sshfs.pools import SFTPSoftChannelPool
    from sshfs.utils import as_progress_handler

    from mlartifacts.stores.sftp.connection import (
        LOST,
        Channels,
        Connections,
        alone,
        explanation,
        seen,
    )
    from mlartifacts.stores.sftp.files import (
        PIECE,
        SENT,
        Ranges,
        Reader,
        Upload,
        one_by_one,
        parallel,
    )

__all__ = ["SFTPArtifactFileSystem"]

Operation = Callable[[Any], Awaitable[Any]]

_MISSING = (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath)
_REFUSED = (asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists)

# What is no link, or is gone; or the server knows no links.
_NO_LINK = (*_MISSING, *_REFUSED, asyncssh.SFTPBadMessage, SFTPOpUnsupported)

_NUMBERS: dict[type[Exception], int] = {
    asyncssh.SFTPNoSuchFile: errno.ENOENT,
    asyncssh.SFTPNoSuchPath: errno.ENOENT,
    asyncssh.SFTPPermissionDenied: errno.EACCES,
    asyncssh.SFTPFileAlreadyExists: errno.EEXIST,
    asyncssh.SFTPFileIsADirectory: errno.EISDIR,
    asyncssh.SFTPNotADirectory: errno.ENOTDIR,
    asyncssh.SFTPDirNotEmpty: errno.ENOTEMPTY,
    asyncssh.SFTPNoSpaceOnFilesystem: errno.ENOSPC,
    asyncssh.SFTPQuotaExceeded: errno.EDQUOT,
    asyncssh.SFTPWriteProtect: errno.EROFS,
    asyncssh.SFTPLinkLoop: errno.ELOOP,
    asyncssh.SFTPInvalidFilename: errno.EINVAL,
    asyncssh.SFTPOpUnsupported: errno.EOPNOTSUPP,
    # OpenSSH's word for a name that is too long, or otherwise none.
    asyncssh.SFTPBadMessage: errno.EINVAL,
}

# SFTP's version 3, which everybody speaks, has one number for all of these; some servers say
# which it was.
_SAID = {
    os.strerror(number): number
    for number in (
        *(errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.ENOSPC),
        *(errno.EDQUOT, errno.EROFS, errno.EXDEV, errno.EFBIG),
    )
}

_REMOVED_AT_ONCE = 64
_DISCARDING_SECONDS = 5
_PORT = 22

_OF_FSSPEC = frozenset(
    "asynchronous loop batch_size skip_instance_cache use_listings_cache listings_expiry_time"
    " max_paths".split()
)


class SFTPArtifactFileSystem(AsyncArtifactFileSystem, SSHFileSystem):  # type: ignore[misc]
    """Files on an SFTP server.

    The connection is made at the first operation, and again after it was lost. A path that
    does not begin with a slash is relative to the login's home directory.
    """

    store = STORE
    roots_by_login = True
    told_size = True
    # A file takes two or three round trips, and little else.
    files_at_once = 32
    # A thread for each would wait for the others' turns: a third more of CPU.
    files_together = 8
    protocol = ("sftp", "ssh")
    root_marker = ""

    # fsspec makes the plain methods of the asynchronous ones where it finds its own; sshfs's
    # stand for sshfs's asynchronous ones, whatever a subclass does.
    mkdir = AbstractFileSystem.mkdir
    makedirs = AbstractFileSystem.makedirs
    checksum = AbstractFileSystem.checksum  # sshfs runs md5sum in a shell, which few servers have

    @classmethod
    def _clean(cls, path: str) -> str:
        return path.rstrip("/") or path[:1]

    @classmethod
    def _parent(cls, path: str) -> str:
        return posixpath.dirname(str(cls._strip_protocol(path)))

    # ---- The connection ------------------------------------------------------------------

    def connect(
        self,
        host: str,
        pool_type: Any,
        *,
        max_sftp_channels: int,
        timeout: float | None,
        connect_args: dict[str, Any],
        sftp_client_kwargs: dict[str, Any],
    ) -> tuple[None, Connections]:
        """Say how to connect, for :meth:`SSHFileSystem.__init__`; nothing connects yet."""
        if pool_type is SFTPSoftChannelPool:  # the default, that is
            pool_type = Channels
        self._timeout = timeout
        self._client_lock = asyncio.Semaphore(2)
        self._closing: set[asyncio.Task[None]] = set()
        pool_of = functools.partial(
            pool_type, max_channels=max_sftp_channels, sftp_client_kwargs=sftp_client_kwargs
        )
        arguments = {name: v for name, v in connect_args.items() if name not in _OF_FSSPEC}
        return None, Connections(host, arguments, pool_of, timeout)

    @staticmethod
    def _finalize(_loop: Any, pool: Connections, _stack: Any) -> None:
        pool.close()

    async def aclose(self) -> None:
        """Hang up before the loop ends, where the loop is the caller's (``asynchronous=True``)."""
        await self._pool.aclose()

    def servers(self) -> frozenset[str]:
        """The host that is meant, by whichever of its names in ssh_config."""
        host, port = synced(self.loop, self._pool.address)
        return frozenset({server_name(host, port, _PORT)})

    def has_directories(self, path: str) -> bool:
        return True

    async def _execute(self, *args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("check", True)
        async with self._client_lock:
            return await (await self._pool.client()).run(*args, **kwargs)

    async def _limited(self, work: Awaitable[Any]) -> Any:
        return await self._pool.limited(work)

    async def _run(self, operation: Operation, done: tuple[type[Exception], ...] = ()) -> Any:
        return await self._limited(self._pool.run(operation, done))

    def _behind(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that nobody waits for."""
        task = asyncio.ensure_future(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        task.add_done_callback(seen)

    # ---- Errors --------------------------------------------------------------------------

    def _translate(self, error: Exception, path: str) -> Exception | None:
        explained = explanation(error)
        if explained is not None:
            kind, number, message = explained
            meant = kind(number, message, path)
            return of_store(meant) if isinstance(meant, PermissionError) else meant
        if isinstance(error, LOST):
            reason = getattr(error, "reason", "") or str(error) or "connection lost"
            return ConnectionResetError(errno.ECONNRESET, f"SSH: {reason}", path)
        if isinstance(error, TimeoutError) and self._timeout is not None:
            reason = (
                f"{self._pool.host} did not answer for {self._timeout:g} s"
                " (MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT sets how long to wait)"
            )
            return TimeoutError(errno.ETIMEDOUT, reason, path)
        if not isinstance(error, asyncssh.Error):
            return None
        said = (number for text, number in _SAID.items() if error.reason.endswith(text))
        known = _NUMBERS.get(type(error)) or next(said, None)
        if known is None:
            return OSError(errno.EIO, f"the SFTP server said: {error.reason}", path)
        return OSError(known, os.strerror(known), path)

    @contextlib.asynccontextmanager
    async def _looking_closer(self, path: str, *, exclusive: bool = False) -> AsyncIterator[None]:
        """Find out what a server means that says no more than that it failed."""
        try:
            yield
        except _REFUSED as error:
            said = error.reason in _SAID
            number = None if said else await self._reason(path, exclusive)
            if number is None:
                raise
            raise OSError(number, os.strerror(number), path) from error

    async def _reason(self, path: str, exclusive: bool) -> int | None:
        try:
            is_directory = await self._isdir(path)
            if is_directory:
                return errno.EISDIR
            if exclusive and await self._exists(path):
                return errno.EEXIST
            space = await self._run(lambda channel: channel.statvfs(self._parent(path) or "."))
        except (OSError, asyncssh.Error):
            return None
        return errno.ENOSPC if space.bavail == 0 or space.favail == 0 < space.files else None

    # ---- Looking -------------------------------------------------------------------------

    def _described(self, path: str, attributes: Any) -> dict[str, Any]:
        if attributes.permissions is None:  # a server may keep them to itself
            attributes.permissions = 0
        return {**self._decode_attributes(attributes), "name": path}

    async def _info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        attributes = await self._run(lambda channel: channel.stat(path or "."))
        return self._described(path, attributes)

    async def _realpath(self, path: str) -> str:
        path = self._strip_protocol(path)
        with self._explaining(path):
            real: str = await self._run(lambda channel: channel.realpath(path or "."))
        return real

    def realpath(self, path: str) -> str:
        """The absolute path of a file, every link in it followed by the server."""
        return str(synced(self.loop, self._realpath, path))

    def link_targets(self, paths: list[str]) -> dict[str, str]:
        """What those of some files lead to that are links, in the server's words."""

        async def ask(path: str) -> str | None:
            with self._explaining(path), contextlib.suppress(*_NO_LINK):
                target: str = await self._run(lambda channel: channel.readlink(path))
                return target
            return None

        asking = [ask(path) for path in paths]
        told = synced(self.loop, _run_coros_in_chunks, asking, nofiles=True)
        return {path: target for path, target in zip(paths, told, strict=True) if target}

    def keeps_times(self, path: str) -> bool:
        return True

    def set_modified(self, path: str, seconds: int) -> None:
        synced(self.loop, self._set_modified, self._strip_protocol(path), seconds)

    async def _set_modified(self, path: str, seconds: int) -> None:
        with self._explaining(path):
            await self._run(lambda channel: channel.utime(path, (seconds, seconds)))

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        path = self._strip_protocol(path)
        try:
            entries = await self._run(lambda channel: channel.readdir(path or "."))
        except (*_MISSING, *_REFUSED, asyncssh.SFTPNotADirectory):
            info = await self._info(path)
            if info["type"] == "directory":
                raise
            return [info] if detail else [path]
        names = [entry.filename for entry in entries]
        found = [
            self._described(posixpath.join(path, name), entry.attrs)
            for name, entry in zip(names, entries, strict=True)
            if name not in {"", ".", ".."}
        ]
        if not detail:
            return [info["name"] for info in found]
        links = [info for info in found if info["type"] == "link"]
        await _run_coros_in_chunks([self._follow(info) for info in links], nofiles=True)
        return found

    async def _follow(self, link: dict[str, Any]) -> None:
        """Describe a link by what it points to, as :meth:`_info` does; one to nowhere stays."""
        with contextlib.suppress(*_MISSING, OSError):
            link.update(await self._info(link["name"]), islink=True)

    # ---- Reading -------------------------------------------------------------------------

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        path = self._strip_protocol(path)

        async def cat(channel: Any) -> bytes:
            most, options = one_by_one(channel)
            file = await channel.open(path, "rb", **options)
            try:
                first, last, begin = start or 0, end, b""
                if last is None and first >= 0:
                    # At once, as these are all of a small file.
                    told = await asyncio.gather(file.stat(), file.read(most, first))
                    begin = told[1]
                    first, last = first + len(begin), told[0].size or 0
                elif last is None or last < 0 or first < 0:
                    size = (await file.stat()).size or 0
                    first, last, _ = slice(first, last).indices(size)
                if last <= first:
                    return begin
                if last - first > most:
                    file.read_len = most
                rest: bytes = await file.read(last - first, first)
                return begin + rest if begin else rest
            finally:
                self._behind(file.close())  # nothing hangs on the answer

        is_long = end is not None and end - (start or 0) >= PIECE
        async with self._looking_closer(path):
            with alone() if is_long else contextlib.nullcontext():
                data: bytes = await self._run(cat)
            return data

    def chunks(self, path: str) -> tuple[int | None, int | None]:
        return PIECE, SENT

    async def _get_file(
        self, rpath: str, lpath: Any, callback: Any = DEFAULT_CALLBACK, **kwargs: Any
    ) -> None:
        rpath = self._strip_protocol(rpath)
        if isfilelike(lpath):
            lpath.write(await self._cat_file(rpath))
            return
        os.makedirs(os.path.dirname(os.path.abspath(lpath)), exist_ok=True)
        try:
            with landing(lpath) as temporary:
                await self._run(
                    lambda channel: channel.get(
                        rpath,
                        temporary,
                        follow_symlinks=True,
                        sparse=False,
                        progress_handler=as_progress_handler(callback),
                        **parallel(channel),
                    )
                )
        except asyncssh.SFTPFailure as error:
            # asyncssh's own words, after it has asked.
            if not error.reason.endswith(" is a directory"):
                raise
            os.makedirs(lpath, exist_ok=True)

    def ranges(self, path: str, size: int, modified: float | None) -> Callable[[int, int], bytes]:
        path = self._strip_protocol(path)
        explaining = functools.partial(self._explaining, path)
        with explaining():
            opened = Ranges(self, path, size)
        return checked(opened.read, path, size, explaining)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Reader:
        if mode != "rb":
            raise ValueError(f"SFTP files open as rb, wb, xb and ab, not {mode!r}.")
        block_size = kwargs.pop("block_size", None)
        options = {"block_size": block_size or PIECE, "cache_type": "proportional", **kwargs}
        return Reader(self, path, **options)

    # ---- Writing -------------------------------------------------------------------------

    def _open_whole(self, path: str, mode: str, **kwargs: Any) -> WholeWrite:
        if mode not in {"wb", "xb", "ab"}:
            raise ValueError(f"SFTP files open as rb, wb, xb and ab, not {mode!r}.")
        is_sized = kwargs.get("size") is not None
        upload = Upload(self, path, mode, kwargs.get("autocommit", True), is_sized)
        explaining = functools.partial(self._explaining, path)
        return WholeWrite(upload, upload.finish, upload.abandon, explaining)

    async def _pipe_file(
        self, path: str, value: Any, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        data = bytes(value)

        async def pipe(channel: Any, temporary: str) -> None:
            most, options = one_by_one(channel, writing=True)
            file = await channel.open(temporary, "wb", **options)
            if 0 < len(data) <= most:
                # A server does in turn what it is asked of one file, so both are asked at once.
                both = await asyncio.gather(file.write(data), file.close(), return_exceptions=True)
                for answer in both:
                    if isinstance(answer, BaseException):
                        raise answer
                return
            file.write_len = most
            async with file:
                if data:
                    await file.write(data)

        await self._write(self._strip_protocol(path), pipe, exclusive=mode == "create")

    async def _put_file(
        self,
        lpath: str,
        rpath: str,
        callback: Any = DEFAULT_CALLBACK,
        mode: str = "overwrite",
        **kwargs: Any,
    ) -> None:
        if os.path.isdir(lpath):
            await self._makedirs(rpath, exist_ok=True)
            return
        handler = as_progress_handler(callback)

        async def put(channel: Any, temporary: str) -> None:
            # A sparse copy leaves a hole at the end of a file out, and the file is shorter.
            options = {"sparse": False, "follow_symlinks": True, "progress_handler": handler}
            await channel.put(lpath, temporary, **options, **parallel(channel, writing=True))

        with open(lpath, "rb"):  # its absence is said in terms of this machine
            pass
        await self._write(self._strip_protocol(rpath), put, exclusive=mode == "create")

    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        with self._explaining(source):
            info = await self._info(source)
        if info["type"] == "directory":
            await self._makedirs(target, exist_ok=True)
            return
        await self._write(target, lambda channel, temporary: _copy(channel, source, temporary))

    async def _copy_to(self, source: str, temporary: str) -> None:
        await self._run(lambda channel: _copy(channel, source, temporary))

    async def _write(
        self,
        target: str,
        write: Callable[[Any, str], Awaitable[None]],
        *,
        exclusive: bool = False,
    ) -> None:
        """Let `write` write a file beside `target`, and rename it."""
        if exclusive and await self._exists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        temporary = temporary_beside(target, passing=True)
        try:
            async with self._looking_closer(target):
                writing = self._with_parents(target, lambda channel: write(channel, temporary))
                await self._pool.unless_cancelled(writing)
            await self._land(temporary, target, exclusive)
        except _MISSING:
            raise  # it was never there
        except BaseException:
            await self._discard(temporary)
            raise

    async def _with_parents(self, target: str, operation: Operation) -> Any:
        """Run what makes a file beside `target`, making the directory if it is not there."""
        try:
            return await self._run(operation)
        except _MISSING:
            parent = self._parent(target)
            if not parent:
                raise
        # Another may be making it right now, which is why nobody asks whether it is there.
        await self._makedirs(parent, exist_ok=True)
        return await self._run(operation)

    async def _land(self, temporary: str, target: str, exclusive: bool) -> None:
        """Give a file that is written its name."""

        async def rename(channel: Any) -> None:
            if exclusive:
                await channel.rename(temporary, target)  # which never overwrites
            else:
                await _replace(channel, temporary, target)

        async with self._looking_closer(target, exclusive=exclusive):
            await self._pool.unless_cancelled(self._run(rename, done=_MISSING))

    async def _discard(self, temporary: str, file: Any = None) -> None:
        """Close and remove a file that is not to be, if its server can be reached at all."""

        async def remove(channel: Any) -> None:
            with contextlib.suppress(*_MISSING):
                await channel.remove(temporary)

        async def discard() -> None:
            if file is not None:
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(file.close(), _DISCARDING_SECONDS)
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._pool.run(remove), _DISCARDING_SECONDS)

        if self._pool.is_silent:
            self._behind(discard())
        else:
            await discard()

    # ---- Directories ---------------------------------------------------------------------

    async def _mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        path = self._strip_protocol(path)
        if create_parents:
            await self._makedirs(path, exist_ok=False)
            return
        try:
            await self._run(lambda channel: channel.mkdir(path))
        except _REFUSED as error:
            await self._expect_directory(path, error, exist_ok=False)

    async def _makedirs(self, path: str, exist_ok: bool = False, **kwargs: Any) -> None:
        path = self._strip_protocol(path)
        try:
            await self._run(lambda channel: channel.mkdir(path))
        except _MISSING:
            parent = self._parent(path)
            if parent in {"", path}:
                raise
            await self._makedirs(parent, exist_ok=True)
            await self._makedirs(path, exist_ok=exist_ok)
        except (*_REFUSED, asyncssh.SFTPPermissionDenied) as error:
            # Permission is what some servers deny for a directory that is there, above a chroot.
            await self._expect_directory(path, error, exist_ok)

    async def _expect_directory(self, path: str, error: Exception, exist_ok: bool) -> None:
        try:
            info = await self._info(path)
        except FileNotFoundError:
            raise error from None
        if info["type"] != "directory" and exist_ok:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from error
        if not exist_ok:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from error

    # ---- Moving and deleting -------------------------------------------------------------

    async def _mv(
        self,
        path1: Any,
        path2: str,
        recursive: bool = False,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(path1, str) or (has_magic(path1) and not await self._exists(path1)):
            await self._copy(path1, path2, recursive, on_error="raise", maxdepth=maxdepth)
            await self._rm(path1, recursive=recursive)
            return
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        if source == target:  # nor does a directory go into itself
            await self._info(source)
            return
        inside = not trailing_sep(path1) and (trailing_sep(path2) or await self._isdir(target))
        if inside:
            target = posixpath.join(target, posixpath.basename(source))
        await self._mv_file(source, target)

    async def _mv_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)

        async def move(channel: Any) -> None:
            await _replace(channel, source, target)

        try:
            try:
                await self._run(move, done=_MISSING)
            except _MISSING:  # one of the two
                await self._run(lambda channel: channel.lstat(source))
                await self._with_parents(target, move)
        except asyncssh.SFTPFailure:
            # Between two file systems of the server. The source goes when the copy is there.
            await self._copy(source, target, recursive=True, on_error="raise")
            await self._rm(source, recursive=True)

    async def _rm(
        self, path: Any, recursive: bool = False, maxdepth: int | None = None, **kwargs: Any
    ) -> None:
        if maxdepth is not None:
            raise NotImplementedError("SFTP trees are deleted whole: rm takes no maxdepth.")
        removals = [self._rm_one(self._strip_protocol(each), recursive) for each in texts(path)]
        await _run_coros_in_chunks(removals, batch_size=self.batch_size, nofiles=True)

    async def _rm_one(self, path: str, recursive: bool) -> None:
        with self._explaining(path):
            # Not what a link points to: it is the link that goes.
            attributes = await self._run(lambda channel: channel.lstat(path))
            if attributes.permissions is None or not stat.S_ISDIR(attributes.permissions):
                await self._run(lambda channel: channel.remove(path), done=_MISSING)
            elif recursive:
                await self._run(lambda channel: _rmtree(channel, path), done=_MISSING)
            else:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)

    async def _rm_file(self, path: str, **kwargs: Any) -> None:
        path = self._strip_protocol(path)
        async with self._looking_closer(path):
            await self._run(lambda channel: channel.remove(path), done=_MISSING)

    async def _rmdir(self, path: str, **kwargs: Any) -> None:
        path = self._strip_protocol(path)
        try:
            await self._run(lambda channel: channel.rmdir(path), done=_MISSING)
        except (*_MISSING, *_REFUSED) as error:
            directory = (await self._info(path))["type"] == "directory"
            number = errno.ENOTEMPTY if directory else errno.ENOTDIR
            raise OSError(number, os.strerror(number), path) from error

    rmdir = sync_wrapper(_rmdir)  # which fsspec does not make of itself


async def _replace(channel: Any, source: str, target: str) -> None:
    """Rename over what is there, or as near to that as the server can."""
    with contextlib.suppress(SFTPOpUnsupported):
        await channel.posix_rename(source, target)
        return
    try:
        await channel.rename(source, target)
    except _REFUSED:
        await channel.remove(target)
        await channel.rename(source, target)


async def _rmtree(channel: Any, path: str) -> None:
    """Delete a directory and all that it holds; asyncssh's own refuses backslashes in names."""

    async def remove(below: str, is_directory: bool) -> None:
        with contextlib.suppress(*_MISSING):  # somebody else deleted it
            await (_rmtree(channel, below) if is_directory else channel.remove(below))

    removals = []
    for entry in await channel.readdir(path):
        if entry.filename in {"", ".", ".."}:
            continue
        below = posixpath.join(path, entry.filename)
        mode = entry.attrs.permissions
        if mode is None:
            mode = (await channel.lstat(below)).permissions or 0
        removals.append(remove(below, stat.S_ISDIR(mode)))
    await _run_coros_in_chunks(removals, batch_size=_REMOVED_AT_ONCE, nofiles=True)
    await channel.rmdir(path)


async def _copy(channel: Any, source: str, target: str) -> None:
    """Copy a file on the server, or through here a piece at a time where it cannot."""
    async with (
        channel.open(source, "rb", **parallel(channel)) as old,
        channel.open(target, "wb", **parallel(channel, writing=True)) as new,
    ):
        if channel.supports_remote_copy:
            await channel.remote_copy(old, new)
            return
        offset = 0
        while data := await old.read(PIECE, offset):
            await new.write(data, offset)
            offset += len(data)
