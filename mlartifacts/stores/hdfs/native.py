"""HDFS through hdfs-native, which speaks the protocol itself: no JVM, and quick to start.

What to know of it (0.14):

- It has no timeout. A server that hangs holds a call forever, so each call runs in a thread
  that is left behind once nothing was heard for that long (the calls release the interpreter's
  lock).
- An error of the cluster is a ``RuntimeError`` whose text holds the Java exception's name.
- A simple cluster's user comes from ``HADOOP_USER_NAME``, at each connection, and from
  nowhere else. With Kerberos, a ticket cache needs its principal named beside it.
- A client does not work in a forked child, and freeing it there hangs; a new one works.
- A ``viewfs`` must have a ``linkFallback`` in its mount table.
- Seeking or reading past a file's end panics.
"""

# ruff: noqa: D102  (the operations are documented where a Driver is)

from __future__ import annotations

import errno
import getpass
import os
import queue
import re
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from mlartifacts.errors import InvalidConfig
from mlartifacts.stores.hdfs import site
from mlartifacts.stores.hdfs.driver import Cluster, Status, failure, ticketless

__all__ = ["NativeDriver"]

T = TypeVar("T")

# Bytes read in one call, and written: the latter must arrive within the timeout.
_PIECE = 2**24
_WRITTEN = 2**18

_RPC = re.compile(r'(?:Fatal)?RPCError\("([\w.$]+)", "(.*)"\)', re.DOTALL)
_OS_ERROR = re.compile(r"\(os error (\d+)\)")

# The names of Java exceptions (without their packages), and what they are here.
_ERRNO_OF = {
    "AccessControlException": errno.EACCES,
    "AuthorizationException": errno.EACCES,
    "DSQuotaExceededException": errno.EDQUOT,
    "FileAlreadyExistsException": errno.EEXIST,
    "FileNotFoundException": errno.ENOENT,
    "InvalidPathException": errno.EINVAL,
    "InvalidToken": errno.EACCES,
    "NSQuotaExceededException": errno.EDQUOT,
    "ParentNotDirectoryException": errno.ENOTDIR,
    "PathIsNotEmptyDirectoryException": errno.ENOTEMPTY,
    "SafeModeException": errno.EROFS,
}


_drivers: weakref.WeakSet[NativeDriver] = weakref.WeakSet()
_inherited: list[Any] = []


def _disown() -> None:
    """In a forked child: begin anew, and keep what was the parent's from being freed.

    Freeing it would wait for threads of the parent.
    """
    for driver in _drivers:
        _inherited.append(driver._connected)
        driver._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown)


class NativeDriver:
    """The operations of a cluster through ``hdfs_native.Client``."""

    name = "hdfs-native"

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._url, self._conf, self._identity = _connection(cluster)
        self._begin()
        _drivers.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._connected: Any = None
        self._calls = _Calls(self._cluster.timeout)

    @property
    def _client(self) -> Any:
        client = self._connected
        if client is None:
            from hdfs_native import Client

            with self._lock:
                client = self._connected = Client(self._url, self._conf, **self._identity)
        return client

    def _call(self, function: Callable[..., T], *args: Any) -> T:
        try:
            return self._calls(function, *args)
        except TimeoutError:
            # It waits on a connection that answers nobody; the next call gets another.
            self._connected = None
            raise

    # ---- Operations ----------------------------------------------------------------------

    def peek(self, path: str) -> Status | None:
        return self.find(path)

    def find(self, path: str) -> Status | None:
        try:
            return _status(path, self._call(self._client.get_file_info, path))
        except FileNotFoundError:
            return None
        except RuntimeError as error:
            # A step of the path is a file, or its name is one that HDFS does not allow.
            if _number(*_java(error)) in (errno.ENOTDIR, errno.EINVAL):
                return None
            raise

    def list(self, path: str) -> list[Status] | None:
        entries = self._call(lambda: list(self._client.list_status(path)))
        if len(entries) == 1 and not entries[0].isdir and entries[0].path == path:
            return None
        return [_status(each.path, each) for each in entries]

    def open(self, path: str) -> _Reader:
        return _Reader(self._call(self._client.read, path), self._call)

    def create(self, path: str) -> _Writer:
        from hdfs_native import WriteOptions

        options = WriteOptions(
            replication=self._cluster.replication, overwrite=True, create_parent=True
        )
        return _Writer(self._call(self._client.create, path, options), self._call)

    def append_nothing(self, path: str) -> None:
        self._call(self._call(self._client.append, path).close)

    def mkdir(self, path: str) -> None:
        self._call(self._client.mkdirs, path, 0o755, True)

    def rename(self, source: str, target: str) -> None:
        self._call(self._client.rename, source, target, True)

    def rename_new(self, source: str, target: str) -> None:
        self._call(self._client.rename, source, target, False)

    def remove(self, path: str) -> None:
        if not self._call(self._client.delete, path, False):
            raise failure(errno.ENOENT, path)

    def rmdir(self, path: str) -> None:
        self.remove(path)

    def rmtree(self, path: str) -> None:
        if not self._call(self._client.delete, path, True):
            raise failure(errno.ENOENT, path)

    # ---- Errors --------------------------------------------------------------------------

    def explain(self, error: Exception, path: str) -> Exception | None:
        text = str(error)
        if isinstance(error, OSError):
            return self._explain_os(error, text, path)
        if not isinstance(error, RuntimeError):
            return None
        if "No viewfs fallback" in text:
            return InvalidConfig(
                "hdfs-native serves a viewfs only if its mount table has a linkFallback"
                f" (fs.viewfs.mounttable.{self._where().removeprefix('viewfs://')}.linkFallback):"
                " add one, or use driver='pyarrow'."
            )
        java, message = _java(error)
        if java == "SafeModeException":
            message = "the NameNode is in safe mode: nothing is written"
        if java == "InvalidPathException" and ":" in path:
            message = "HDFS allows no ':' in a name"
        if number := _number(java, message):
            return failure(number, path, message)
        if java:
            return failure(errno.EIO, path, f"{java}: {message}")
        if "GSSAPIError" in text or "SASL" in text:
            return ticketless(self._cluster, path, text.rpartition('", "')[2] or text)
        return failure(errno.EIO, path, text)

    def _explain_os(self, error: OSError, text: str, path: str) -> OSError:
        number = error.errno
        if found := _OS_ERROR.search(text):
            number = int(found.group(1))
        if number in (errno.ECONNREFUSED, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH):
            text = f"the NameNode or a DataNode of {self._where()} cannot be reached: {text}"
        elif "failed to lookup address" in text:
            number = errno.EHOSTUNREACH
            text = f"the NameNode's host in {self._where()} is not known"
        if number is not None:
            explained = failure(number, path, text.splitlines()[0])
            if number in (errno.EHOSTUNREACH, errno.ENETUNREACH):
                explained = ConnectionError(number, text, path)
            return explained
        if isinstance(error, FileNotFoundError):
            return failure(errno.ENOENT, path)
        if isinstance(error, FileExistsError):
            return failure(errno.EEXIST, path)
        if isinstance(error, IsADirectoryError):
            return failure(errno.EISDIR, path)
        if isinstance(error, TimeoutError):
            seconds = self._cluster.timeout
            reason = f"{self._where()} did not answer within {seconds:g} seconds"
            return TimeoutError(errno.ETIMEDOUT, reason, path)
        # Tokio says "early eof", "connection reset", "RPC listener disconnected" in words alone.
        return ConnectionError(errno.ECONNABORTED, f"{self._where()}: {text}", path)

    def _where(self) -> str:
        return self._url or "the default cluster (fs.defaultFS)"


class _Reader:
    def __init__(self, file: Any, call: Callable[..., Any]) -> None:
        self._file = file
        self._call = call
        self.size = int(file.inner.file_length())

    def read_at(self, start: int, length: int) -> bytes:
        end = min(start + length, self.size)
        pieces = [
            self._call(self._piece, at, min(_PIECE, end - at)) for at in range(start, end, _PIECE)
        ]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _piece(self, start: int, length: int) -> bytes:
        # Twice as fast as read_range, which waits for each packet to be copied.
        pieces = []
        for piece in self._file.read_range_stream(start, length):
            _heard()
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        self._file.close()


class _Writer:
    def __init__(self, file: Any, call: Callable[..., Any]) -> None:
        self._file = file
        self._call = call

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._call(self._write, memoryview(data))

    def _write(self, data: memoryview) -> None:
        for start in range(0, len(data), _WRITTEN):
            self._file.write(data[start : start + _WRITTEN])
            _heard()

    def close(self) -> None:
        self._call(self._file.close)


class _Calls:
    """Runs calls in threads that may be left behind, each lent to one caller at a time."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._idle: list[_Worker] = []

    def __call__(self, function: Callable[..., T], *args: Any) -> T:
        if sys.is_finalizing():  # when no thread but this one runs any more
            return function(*args)
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = _Worker()
        worker.last.at = time.monotonic()
        worker.tasks.put((function, args))
        value, error = self._result(worker)
        self._idle.append(worker)
        if error is not None:
            try:
                raise error
            finally:
                del error  # or the error and this frame would keep each other alive
        return value  # type: ignore[no-any-return]

    def _result(self, worker: _Worker) -> tuple[Any, BaseException | None]:
        left = self._timeout
        while True:
            try:
                return worker.results.get(timeout=left)  # type: ignore[no-any-return]
            except queue.Empty:
                assert self._timeout is not None
                left = worker.last.at + self._timeout - time.monotonic()
                if left <= 0:
                    raise TimeoutError from None


class _Last:
    """When something was last heard of a call."""

    at = 0.0


# The call that a thread is at.
_current = threading.local()


def _heard() -> None:
    """Say that the server does something for this thread's call."""
    if hasattr(_current, "last"):
        _current.last.at = time.monotonic()


class _Worker:
    def __init__(self) -> None:
        self.last = _Last()
        self.tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(
            target=_work,
            args=(self.tasks, self.results, self.last),
            name="hdfs-native",
            daemon=True,
        ).start()

    def __del__(self) -> None:
        self.tasks.put(None)


def _work(tasks: queue.SimpleQueue[Any], results: queue.SimpleQueue[Any], last: _Last) -> None:
    _current.last = last
    while (task := tasks.get()) is not None:
        function, args = task
        result: tuple[Any, BaseException | None]
        try:
            result = function(*args), None
        except Exception as error:
            result = None, error
        except BaseException as error:  # a panic in Rust, which is no Exception in Python
            result = None, OSError(errno.EIO, f"hdfs-native failed: {error}")
        results.put(result)
        del task, function, args, result  # an idle thread must keep nothing alive


def _connection(cluster: Cluster) -> tuple[str | None, dict[str, str], dict[str, str]]:
    """The URL, the settings and the identity for a client.

    Raises
    ------
    InvalidConfig
        There is no default cluster, or the user is one that hdfs-native cannot be.
    """
    settings = site.read(site.conf_dir(), cluster.extra_conf)
    url: str | None = cluster.authority
    if cluster.host == "default":
        if not settings.get("fs.defaultFS"):
            raise InvalidConfig(
                "The URI names no host, and no core-site.xml sets fs.defaultFS: set HADOOP_CONF_DIR"
                " to Hadoop's configuration directory, or write hdfs://host:port/path."
            )
        url = None
    conf = {}
    addresses = site.namenodes(url or settings["fs.defaultFS"], settings)
    if len(addresses) == 1:
        # Nothing to fail over to. (By default the one host is tried for minutes.)
        conf["dfs.client.failover.max.attempts"] = "0"
        if url is not None:
            host, port = addresses[0]
            url = f"hdfs://[{host}]:{port}" if ":" in host else f"hdfs://{host}:{port}"
    return url, {**conf, **cluster.extra_conf}, _identity(cluster, site.is_secure(settings))


def _identity(cluster: Cluster, secure: bool) -> dict[str, str]:
    if secure and cluster.kerb_ticket is not None:
        cache = cluster.kerb_ticket
        return {
            "kerberos_cache": cache,
            "kerberos_principal": cluster.user or _principal(cache.removeprefix("FILE:")),
        }
    if secure and cluster.user is not None:
        return {"kerberos_principal": cluster.user}
    if not secure and cluster.user not in (None, _simple_user()):
        raise InvalidConfig(
            f"The user {cluster.user!r} (of the URI, MLFLOW_KERBEROS_USER or user=) is not"
            f" {_simple_user()!r}, and hdfs-native takes a user from HADOOP_USER_NAME alone:"
            f" set HADOOP_USER_NAME={cluster.user}, or use driver='pyarrow'."
        )
    return {}


def _simple_user() -> str:
    return os.environ.get("HADOOP_USER_NAME") or getpass.getuser()


def _principal(cache: str) -> str:
    """The default principal of a ticket cache file (version 4 of MIT's format).

    Raises
    ------
    InvalidConfig
        It is no such file.
    """
    try:
        with open(cache, "rb") as file:
            version, header = struct.unpack(">HH", file.read(4))
            if version != 0x0504:
                raise ValueError("not a ticket cache of version 4")
            file.read(header)
            _, count = struct.unpack(">II", file.read(8))
            realm, *names = (_counted(file.read) for _ in range(count + 1))
    except (OSError, ValueError, struct.error) as error:
        raise InvalidConfig(
            f"The Kerberos ticket cache {cache} (MLFLOW_KERBEROS_TICKET_CACHE) cannot be read:"
            f" {error}."
        ) from error
    return f"{'/'.join(names)}@{realm}"


def _counted(read: Callable[[int], bytes]) -> str:
    (length,) = struct.unpack(">I", read(4))
    return read(length).decode()


def _java(error: Exception) -> tuple[str, str]:
    """The name of a Java exception (without its package) and the first line of its message."""
    found = _RPC.match(str(error))
    if found is None:
        return "", ""
    message = found.group(2).replace("\\n", "\n").replace('\\"', '"').partition("\n")[0]
    return found.group(1).rpartition(".")[2].rpartition("$")[2], message


def _number(java: str, message: str) -> int | None:
    if java == "AccessControlException" and message.endswith("(is not a directory)"):
        return errno.ENOTDIR
    return _ERRNO_OF.get(java)


def _status(path: str, status: Any) -> Status:
    more = {
        "owner": status.owner,
        "group": status.group,
        "permission": status.permission,
        "replication": status.replication,
    }
    mtime = datetime.fromtimestamp(status.modification_time / 1000, UTC)
    return Status(path, status.length, status.isdir, mtime, more)
