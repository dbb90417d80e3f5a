"""HDFS's filesystem: fsspec's operations over either of two drivers."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.util
import os
import posixpath
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal

from fsspec import AbstractFileSystem
from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.spec import AbstractBufferedFile
from fsspec.utils import isfilelike, tokenize

from mlartifacts.errors import InvalidConfig, MissingDriver
from mlartifacts.promises import SyncArtifactFileSystem, texts, unfit_text
from mlartifacts.stores.hdfs import STORE, clean, libhdfs, site
from mlartifacts.stores.hdfs.driver import Cluster, Driver, Reader, failure
from mlartifacts.stores.hdfs.packed import Packing, codec_of
from mlartifacts.uri import server_name
from mlartifacts.writing import WholeWrite, surely, temporary_beside

__all__ = ["HDFSArtifactFileSystem", "HDFSFileSystem"]

_DRIVERS = ("pyarrow", "hdfs-native")
_SILENCE_SECONDS = 60.0
_READ_AHEAD = 5 * 2**20
_PIECE = 4 * 2**20
# Each write to a driver costs a crossing into Java or into another thread.
_WRITE_BUFFER = 2**20
# Of HDFS itself.
_LONGEST_PATH = 8000
_DEEPEST = 1000


class HDFSFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """HDFS in fsspec's terms.

    Parameters
    ----------
    host : str
        ``hdfs://host``, ``viewfs://name``, or ``default`` for ``fs.defaultFS``.
    port : int
        0 for Hadoop's own.
    user : str, optional
        The user, or with Kerberos the principal.
    kerb_ticket : str, optional
        A Kerberos ticket cache.
    extra_conf : mapping, optional
        Settings of Hadoop, over those of its site files.
    replication : int, optional
        Copies of each block that is written; the cluster's ``dfs.replication`` unless given.
    driver : {"pyarrow", "hdfs-native"}, optional
        pyarrow, unless it cannot be used here and hdfs-native is installed.
    timeout : float or None
        Seconds after which a server that does not answer counts as hanging.
    """

    root_marker = "/"
    cachable = True

    def __init__(
        self,
        host: str = "default",
        port: int = 0,
        user: str | None = None,
        kerb_ticket: str | None = None,
        extra_conf: Mapping[str, str] | None = None,
        replication: int | None = None,
        driver: Literal["pyarrow", "hdfs-native"] | None = None,
        timeout: float | None = _SILENCE_SECONDS,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if "://" not in host and host != "default":
            host = f"hdfs://{host}"
        self.cluster = Cluster(
            host, port, user, kerb_ticket, dict(extra_conf or {}), replication, timeout
        )
        self.driver: Driver = _make_driver(driver, self.cluster)
        self.packing = Packing(self.driver)

    @property
    def fsid(self) -> str:
        """The cluster; equal for equal files."""
        return "hdfs_" + str(tokenize(self.cluster.authority))

    # ---- Reading -------------------------------------------------------------------------

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        found = self.driver.find(path)
        if found is None:
            raise failure(errno.ENOENT, path)
        return self.packing.told(found).as_info()

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        path = self._strip_protocol(path)
        entries = self.driver.list(path)
        if entries is None:
            infos = [self.info(path)]
        else:
            infos = [self.packing.told(each).as_info() for each in entries]
        infos.sort(key=lambda info: str(info["name"]))
        return infos if detail else [info["name"] for info in infos]

    def modified(self, path: str) -> datetime:
        when: datetime = self.info(path)["mtime"]
        return when

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        path = self._strip_protocol(path)
        reader = self._reader(path)
        try:
            if start is not None and end is not None and 0 <= start <= end:
                data = reader.read_at(start, end - start)
                if len(data) == end - start:
                    return data  # without having asked for the size
            first, last, _ = slice(start, end).indices(reader.size)
            data = reader.read_at(first, last - first) if last > first else b""
            if len(data) != max(last - first, 0):
                reason = f"short read: {len(data)} bytes for {first}-{last}"
                raise failure(errno.EIO, path, reason)
            return data
        finally:
            reader.close()

    def get_file(
        self,
        rpath: str,
        lpath: Any,
        callback: Any = DEFAULT_CALLBACK,
        outfile: Any = None,
        **kwargs: Any,
    ) -> None:
        rpath = self._strip_protocol(rpath)
        given = outfile if outfile is not None else lpath if isfilelike(lpath) else None
        if given is not None:
            self._copy_out(rpath, given, callback)
        elif self.isdir(rpath):
            os.makedirs(lpath, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(os.path.abspath(lpath)), exist_ok=True)
            with open(lpath, "wb") as file:
                self._copy_out(rpath, file, callback)

    def _copy_out(self, path: str, file: Any, callback: Any = DEFAULT_CALLBACK) -> None:
        reader = self._reader(path)
        try:
            size = reader.size
            callback.set_size(size)
            for start in range(0, size, _PIECE):
                end = min(start + _PIECE, size)
                data = reader.read_at(start, end - start)
                if len(data) != end - start:
                    raise failure(errno.EIO, path, f"short read: {len(data)} for {start}-{end}")
                file.write(data)
                callback.relative_update(len(data))
        finally:
            reader.close()

    def _reader(self, path: str) -> Reader:
        try:
            return self.packing.open(path)
        except FileNotFoundError as error:  # what HDFS says of a directory, too
            found = self.driver.find(path)
            if found is not None and found.is_dir:
                raise failure(errno.EISDIR, path) from error
            raise

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        cache_type: str = "proportional",
        **kwargs: Any,
    ) -> AbstractBufferedFile:
        if mode != "rb":
            raise ValueError(f"HDFS files cannot be opened with mode {mode!r}.")
        found = self.driver.find(path)
        if found is None:
            raise failure(errno.ENOENT, path)
        if found.is_dir:
            raise failure(errno.EISDIR, path)
        return _ReadFile(
            self,
            path,
            mode,
            block_size or _READ_AHEAD,
            cache_type=cache_type,
            cache_options=cache_options,
            size=self.packing.told(found).size,
        )

    # ---- Writing -------------------------------------------------------------------------

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        path = self._strip_protocol(path)
        found = self.driver.peek(path)
        if found is not None and not (exist_ok and found.is_dir):
            raise failure(errno.EEXIST, path)
        if found is None:
            self.driver.mkdir(path)

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        path = self._strip_protocol(path)
        if not create_parents and not self.isdir(self._parent(path)):
            raise failure(errno.ENOENT, path)
        self.makedirs(path)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        if self.isdir(source):
            self.makedirs(target, exist_ok=True)
            return
        with self.open(target, "wb") as file:
            self._copy_out(source, file)

    def mv(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(path1, str) or not isinstance(path2, str):
            super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth, **kwargs)
            return
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        moved = self.driver.find(source)
        if moved is None:
            raise failure(errno.ENOENT, source)
        there = self.driver.peek(target)
        if (there is not None and there.is_dir) or path2.endswith("/"):
            target = posixpath.join(target, posixpath.basename(source))
            there = self.driver.peek(target)
        if target == source:
            return
        if target.startswith(f"{source}/"):
            raise failure(errno.EINVAL, source, f"a directory cannot move into itself ({target})")
        if there is not None and (there.is_dir or moved.is_dir):
            raise failure(errno.EISDIR if there.is_dir else errno.ENOTDIR, target)
        if not moved.is_dir and codec_of(source) != codec_of(target):
            self.cp_file(source, target)
            self.driver.remove(source)
        else:
            self.driver.mkdir(self._parent(target))
            self.driver.rename(source, target)

    def rm_file(self, path: str) -> None:
        self._remove(self._strip_protocol(path), recursive=False)

    def rmdir(self, path: str) -> None:
        path = self._strip_protocol(path)
        if not self.info(path)["type"] == "directory":
            raise failure(errno.ENOTDIR, path)
        self.driver.rmdir(path)

    def rm(
        self, path: str | Iterable[str], recursive: bool = False, maxdepth: int | None = None
    ) -> None:
        """Delete files, or whole trees in one request each; a pattern is never expanded."""
        if maxdepth is not None:
            super().rm(path, recursive=recursive, maxdepth=maxdepth)
            return
        for each in texts(path):
            self._remove(self._strip_protocol(each), recursive)

    def _remove(self, path: str, recursive: bool) -> None:
        found = self.driver.find(path)
        if found is None:
            raise failure(errno.ENOENT, path)
        if not found.is_dir:
            self.driver.remove(path)
        elif path == "/":
            raise failure(errno.EPERM, path, "HDFS does not delete its root")
        elif recursive:
            self.driver.rmtree(path)
        else:
            raise failure(errno.EISDIR, path)


class HDFSArtifactFileSystem(SyncArtifactFileSystem, HDFSFileSystem):  # type: ignore[misc]
    """HDFS under this package's promises.

    A write goes to a temporary name beside its target and is renamed over it at the end. With
    hdfs-native that is one atomic step. With pyarrow, which cannot ask for it, a file that is
    replaced is away for some milliseconds; it is never half one thing and half another.
    """

    store = STORE
    told_size = True

    @classmethod
    def _clean(cls, path: str) -> str:
        return clean(path)

    def _translate(self, error: Exception, path: str) -> Exception | None:
        if isinstance(error, FileNotFoundError) and error.errno is None:
            return None  # fsspec's own
        return self.driver.explain(error, path)

    @functools.cached_property
    def _settings(self) -> dict[str, str]:
        return site.read([*site.class_path(), *site.conf_dir()], self.cluster.extra_conf)

    def servers(self) -> frozenset[str]:
        """The name nodes, of which a name service has several; none for a ``viewfs``."""
        authority = self.cluster.authority
        if self.cluster.host == "default":
            authority = self._settings.get("fs.defaultFS", "")
        with contextlib.suppress(ValueError):  # a port that is no number
            nodes = site.namenodes(authority, self._settings)
            return frozenset(server_name(*node) for node in nodes)
        return frozenset()

    def has_directories(self, path: str) -> bool:
        return True

    def copies_within(self, path: str) -> bool:
        return False

    def ranged(self, path: str) -> bool:
        """Whether it may be stored as it is; else a range comes with all before it."""
        return codec_of(path) is None

    def is_written(self, path: str) -> bool:
        """A file has the time when it was begun, until it is closed, and one writer at most."""
        try:
            self.driver.append_nothing(path)
        except Exception:
            return True
        return False

    def unfit(self, path: str) -> str | None:
        """What HDFS refuses; how long a step may be is the cluster's setting, 255 bytes mostly."""
        if ":" in path:
            return "HDFS allows no ':' in a name"
        if half := unfit_text(path):
            return half
        steps = path.split("/")
        if len(path) > _LONGEST_PATH or path.count("/") > _DEEPEST:
            return "the path is too long"
        longest = site.longest_step(self._settings)
        if longest and (long := next((s for s in steps if len(s.encode()) > longest), None)):
            return f"{long[:20]!r}... has more than {longest} bytes ({site.LONGEST_STEP})"
        return None

    def _open_whole(
        self,
        path: str,
        mode: str,
        autocommit: bool = True,
        size: int | None = None,
        **kwargs: Any,
    ) -> WholeWrite:
        if mode not in {"wb", "xb", "ab"}:
            raise ValueError(f"HDFS files cannot be opened with mode {mode!r}.")
        there = self.driver.peek(path)
        if there is not None and there.is_dir:
            raise failure(errno.EISDIR, path)
        if there is not None and "x" in mode:
            raise failure(errno.EEXIST, path)
        upload = _Upload(self, path, "x" in mode, autocommit, size is not None)
        if there is not None and "a" in mode:
            # Appending in place could not be taken back if it broke off.
            try:
                self._copy_out(path, upload)
            except BaseException:
                surely(upload.discard)
                raise
        explaining = functools.partial(self._explaining, path)
        return WholeWrite(upload, upload.close, upload.discard, explaining)


class _ReadFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file being read, opened at its first read and kept open."""

    _reader: Reader | None = None

    def _fetch_range(self, start: int, end: int) -> bytes:
        if self._reader is None:
            self._reader = self.fs.packing.open(self.path)
        return self._reader.read_at(start, end - start)

    def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
        super().close()


class _Upload:
    """A file under a temporary name, renamed when it is complete."""

    def __init__(
        self, fs: HDFSFileSystem, target: str, exclusive: bool, autocommit: bool, is_sized: bool
    ) -> None:
        self._driver = fs.driver
        self._target = target
        self._exclusive = exclusive
        self._autocommit = autocommit
        self._temporary = temporary_beside(target, passing=is_sized and autocommit)
        self._writer = fs.packing.create(self._temporary, target)
        self._ended = False
        self._buffer = bytearray()
        self._written = 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._written += len(view)
        if len(self._buffer) + len(view) <= _WRITE_BUFFER:
            self._buffer += view
        else:
            self.flush()
            self._writer.write(view)
        return len(view)

    def flush(self) -> None:
        if self._buffer:
            full, self._buffer = self._buffer, bytearray()
            self._writer.write(full)

    def tell(self) -> int:
        return self._written

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        """Complete the file, and unless a transaction holds it back, give it its name."""
        self.flush()
        self._ended = True
        self._writer.close()
        if self._autocommit:
            self.commit()

    def commit(self) -> None:
        """Give the complete file its name."""
        if self._exclusive:
            self._driver.rename_new(self._temporary, self._target)
        else:
            self._driver.rename(self._temporary, self._target)

    def discard(self) -> None:
        """Remove what was written."""
        if not self._ended:
            self._ended = True
            with contextlib.suppress(OSError):  # which a broken line makes it: it is removed
                self._writer.close()
        self._driver.remove(self._temporary)


def _make_driver(name: str | None, cluster: Cluster) -> Driver:
    """The driver that was asked for, or the first that can work here.

    Raises
    ------
    InvalidConfig
        The name is no driver's, or what libhdfs needs is not there.
    MissingDriver
        hdfs-native was asked for and is not installed, or neither driver is.
    """
    if name not in (None, *_DRIVERS):
        raise InvalidConfig(f"driver={name!r}: HDFS has the drivers {', '.join(_DRIVERS)}.")
    native, pyarrow = (importlib.util.find_spec(each) for each in ("hdfs_native", "pyarrow"))
    if name == "hdfs-native" and native is None:
        raise MissingDriver("hdfs-native", "hdfs_native")
    problems = [] if name == "hdfs-native" else libhdfs.missing()
    if name == "hdfs-native" or (name is None and native and (problems or not pyarrow)):
        from mlartifacts.stores.hdfs.native import NativeDriver

        return NativeDriver(cluster)
    other = "" if native else ". Or, without Java: pip install 'mlartifacts[hdfs-native]'"
    if pyarrow is None:
        more = "".join(f"; {problem}" for problem in problems)
        raise MissingDriver("hdfs", "pyarrow", f"{more}{other}.")
    if problems:
        raise InvalidConfig(f"pyarrow cannot reach HDFS here: {'; '.join(problems)}{other}.")
    return libhdfs.LibhdfsDriver(cluster)
