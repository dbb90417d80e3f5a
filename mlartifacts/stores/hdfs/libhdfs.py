"""HDFS through ``pyarrow.fs``, which loads libhdfs, which starts a JVM.

What to know of that stack, all of it seen on Hadoop 3.3.6 and pyarrow 25:

- A process loads it once. A first failure is final, so what it needs is looked for before.
  The JVM reads ``CLASSPATH`` when it starts, and does not survive a ``fork``. It takes the signals
  that end a program, so that Ctrl-C ends Python without a ``KeyboardInterrupt``, unless ``-Xrs``
  in ``LIBHDFS_OPTS`` keeps it from them.
- ``get_file_info`` says "not found" of what it may not see and of a NameNode that is down.
  Listing the same path tells these apart, and is the one request that does not print a Java
  stack to stderr for a file that is just not there.
- Most Java exceptions arrive as errno 255 without a text (that went to stderr), so the cause
  is looked for here, after the fact.
- Names go to Java as its "modified UTF-8", which pyarrow does not know: characters beyond
  U+FFFF would be garbled on the way in, and raise on the way out.
- A rename onto a file is refused by HDFS's old call, the only one in libhdfs. The old file is
  moved aside for the moment, and comes back if the rename fails.
"""

# ruff: noqa: D102  (the operations are documented where a Driver is)

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import glob
import os
import posixpath
import socket
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from mlartifacts.errors import InvalidConfig
from mlartifacts.stores.hdfs import site
from mlartifacts.stores.hdfs.driver import Cluster, Status, failure, ticketless
from mlartifacts.writing import temporary_beside

__all__ = ["LibhdfsDriver", "missing"]

_JAVA_EXCEPTION = 255  # libhdfs' number for any that it has no number for
_PROBE_SECONDS = 5.0
# How often a rename is tried while other processes replace the same file.
_RACES = 5
# Bytes of a call: libhdfs has an array made of them in Java's memory, which may be small.
_PIECE = 2**23

_LIBRARY = {"darwin": "lib{}.dylib", "win32": "{}.dll"}.get(sys.platform, "lib{}.so")
# Where pyarrow looks for the JVM's library under JAVA_HOME.
_JVM_PLACES = ("", "lib/server", "jre/lib/server", "jre/lib/amd64/server", "lib/amd64/server")

_lock = threading.Lock()
_jvm_process: int | None = None


def missing() -> list[str]:
    """What keeps libhdfs from being loaded, each with its cure; empty when nothing does."""
    if _jvm_process is not None:
        return []
    problems = []
    java = os.environ.get("JAVA_HOME")
    places = [os.path.join(java, place) for place in _JVM_PLACES] if java else []
    places += [f"/usr/lib/jvm/default-java/{place}" for place in _JVM_PLACES]
    if not _loadable("jvm", places):
        named = f"under JAVA_HOME={java}" if java else "because JAVA_HOME is not set"
        problems.append(
            f"no JVM was found ({_LIBRARY.format('jvm')}) {named}: set JAVA_HOME to a JDK or JRE"
        )
    hadoop, arrow = os.environ.get("HADOOP_HOME"), os.environ.get("ARROW_LIBHDFS_DIR")
    places = [os.path.join(hadoop, "lib", "native")] if hadoop else []
    places += [arrow] if arrow else []
    if not _loadable("hdfs", [*places, "."]):
        named = " or ".join(places) or "the system's libraries"
        problems.append(
            f"no {_LIBRARY.format('hdfs')} in {named}: set ARROW_LIBHDFS_DIR to its directory"
            " (lib/native of a Hadoop distribution)"
        )
    if not os.environ.get("CLASSPATH"):
        problems.append(
            "CLASSPATH is not set: export CLASSPATH=$(hadoop classpath --glob) before Python starts"
        )
    return problems


def _loadable(name: str, directories: list[str]) -> bool:
    file = _LIBRARY.format(name)
    if any(os.path.exists(os.path.join(directory, file)) for directory in directories):
        return True
    try:
        ctypes.CDLL(file)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _signals_left_to_python() -> Iterator[None]:
    """Have a JVM that starts take no signals; libhdfs reads its options from the environment."""
    given = os.environ.get("LIBHDFS_OPTS")
    os.environ["LIBHDFS_OPTS"] = f"{given or ''} -Xrs".lstrip()
    try:
        yield
    finally:
        if given is None:
            del os.environ["LIBHDFS_OPTS"]
        else:
            os.environ["LIBHDFS_OPTS"] = given


class LibhdfsDriver:
    """The operations of a cluster through ``pyarrow.fs.HadoopFileSystem``."""

    name = "pyarrow"

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._connected: Any = None
        self._replacing = threading.Lock()

    @property
    def _fs(self) -> Any:
        if _jvm_process not in (None, os.getpid()):
            raise OSError(
                errno.EDEADLK,
                "this process was forked from one whose JVM (libhdfs) was running, and a JVM does"
                " not survive that: start processes with 'spawn' or 'forkserver', or open the"
                " filesystem with driver='hdfs-native'",
                self._cluster.authority,
            )
        if self._connected is None:
            with _lock:
                if self._connected is None:
                    self._connected = self._connect()
        return self._connected

    def _connect(self) -> Any:
        global _jvm_process
        cluster = self._cluster
        if cluster.host == "default" and not self._settings().get("fs.defaultFS"):
            # Java's own default is the local disk, where the artifacts would go without a word.
            raise InvalidConfig(
                "The URI names no host, and no core-site.xml in a directory of CLASSPATH sets"
                " fs.defaultFS: add Hadoop's configuration directory to CLASSPATH, or write"
                " hdfs://host:port/path."
            )
        if problems := missing():
            raise InvalidConfig(f"libhdfs cannot be loaded: {'; '.join(problems)}.")
        try:
            from pyarrow.fs import HadoopFileSystem
        except ImportError as error:
            raise InvalidConfig(
                f"This pyarrow was built without HDFS ({error}): use driver='hdfs-native'."
            ) from error
        try:
            with _signals_left_to_python():
                connected = HadoopFileSystem(
                    cluster.host,
                    cluster.port,
                    user=cluster.user,
                    kerb_ticket=cluster.kerb_ticket,
                    # 3 is pyarrow's default, over dfs.replication of the cluster; 0 asks for that.
                    replication=cluster.replication or 0,
                    extra_conf={**self._limits(), **cluster.extra_conf},
                )
        except OSError as error:
            raise self._unconnected(error) from error
        _jvm_process = os.getpid()
        return connected

    def _limits(self) -> dict[str, str]:
        """Hadoop would try a host that swallows packets for 15 minutes."""
        limits = {"ipc.client.connect.max.retries.on.timeouts": "0"}
        if self._cluster.timeout is not None:
            milliseconds = str(max(1, int(self._cluster.timeout * 1000)))
            limits |= {
                "ipc.client.connect.timeout": milliseconds,
                "ipc.client.rpc-timeout.ms": milliseconds,
                "dfs.client.socket-timeout": milliseconds,
            }
        return limits

    def _settings(self) -> dict[str, str]:
        return site.read(site.class_path(), self._cluster.extra_conf)

    # ---- Operations ----------------------------------------------------------------------

    def peek(self, path: str) -> Status | None:
        return _status(path, self._fs.get_file_info(_encode(path)))

    def find(self, path: str) -> Status | None:
        found = self.peek(path)
        if found is not None:
            return found
        try:
            self._listed(path)
        except OSError as error:
            # EINVAL: a name that HDFS does not allow (it has a colon) is a name of nothing.
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EINVAL):
                return None
            if error.errno == errno.EACCES and self._is_beneath_a_file(path):
                return None
            if error.errno is not None:
                raise
        return self.peek(path)  # it came to be meanwhile

    def list(self, path: str) -> list[Status] | None:
        try:
            entries = self._listed(path)
        except OSError as error:
            if error.errno is None and (found := self.peek(path)) and not found.is_dir:
                return None
            if error.errno == errno.EINVAL:
                raise failure(errno.ENOENT, path) from error
            raise
        return [found for each in entries if (found := _status(_decode(each), each))]

    def _listed(self, path: str) -> Any:
        from pyarrow.fs import FileSelector

        return self._fs.get_file_info(FileSelector(_encode(path)))

    def _is_beneath_a_file(self, path: str) -> bool:
        """Whether a step of `path` is a file, which HDFS calls a denial of access."""
        while path != "/":
            path = posixpath.dirname(path)
            if found := self.peek(path):
                return not found.is_dir
        return False

    def open(self, path: str) -> _Reader:
        try:
            return _Reader(self._fs.open_input_file(_encode(path)))
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise failure(errno.ENOENT, path) from error
            raise

    def create(self, path: str) -> Any:
        # Without this, pyarrow compresses what is written under a name that ends in ".gz".
        return _Writer(self._fs.open_output_stream(_encode(path), compression=None))

    def append_nothing(self, path: str) -> None:
        self._fs.open_append_stream(_encode(path), compression=None).close()

    def mkdir(self, path: str) -> None:
        self._fs.create_dir(_encode(path), recursive=True)

    def rename(self, source: str, target: str) -> None:
        with self._replacing:
            for left in reversed(range(_RACES)):
                try:
                    self._replace(source, target)
                    return
                except OSError:
                    # Another process may have put a file there, or taken it, at this moment.
                    if not left or self.peek(source) is None:
                        raise

    def _replace(self, source: str, target: str) -> None:
        there = self.peek(target)
        if there is None or there.is_dir:
            self._move(source, target)
            return
        aside = temporary_beside(target)
        self._move(target, aside)
        try:
            self._move(source, target)
        except BaseException:
            if self.peek(target) is None:
                self._move(aside, target)
            else:
                self.remove(aside)  # another process has replaced it
            raise
        self.remove(aside)

    def rename_new(self, source: str, target: str) -> None:
        if self.peek(target) is not None:
            raise failure(errno.EEXIST, target)
        self._move(source, target)

    def _move(self, source: str, target: str) -> None:
        self._fs.move(_encode(source), _encode(target))

    def remove(self, path: str) -> None:
        self._fs.delete_file(_encode(path))

    def rmdir(self, path: str) -> None:
        if self._listed(path):  # pyarrow has no call that leaves this to the cluster
            raise failure(errno.ENOTEMPTY, path)
        self.rmtree(path)

    def rmtree(self, path: str) -> None:
        self._fs.delete_dir(_encode(path))

    # ---- Errors --------------------------------------------------------------------------

    def explain(self, error: Exception, path: str) -> Exception | None:
        if not isinstance(error, OSError) or isinstance(error, InvalidConfig):
            return None
        if error.errno == _JAVA_EXCEPTION:
            return self._diagnosed(path)
        if error.errno == errno.EROFS:
            return failure(errno.EROFS, path, "the NameNode is in safe mode: nothing is written")
        if error.errno == errno.EINVAL and ":" in path:
            return failure(errno.EINVAL, path, "HDFS allows no ':' in a name")
        if error.errno == errno.EACCES and self._is_beneath_a_file(path):
            return failure(errno.ENOTDIR, path)
        if error.errno is not None:
            return failure(error.errno, path)
        return failure(errno.EIO, path, str(error))

    def _diagnosed(self, path: str) -> OSError:
        """What a Java exception without a text was: no server, or one that does not know us."""
        settings = self._settings()
        if unreachable := self._unreachable(path, settings):
            return unreachable
        if site.is_secure(settings) and not self._answers():
            return ticketless(self._cluster, path)
        if self._answers():
            return failure(
                errno.EIO,
                path,
                "HDFS failed (the Java exception is on stderr): no DataNode, a full disk or quota,"
                " or a lost block",
            )
        return TimeoutError(
            errno.ETIMEDOUT,
            f"the NameNode of {self._cluster.authority} takes connections but does not answer"
            " (the Java exception is on stderr)",
            path,
        )

    def _answers(self) -> bool:
        return self.peek("/") is not None

    def _unreachable(self, path: str, settings: dict[str, str]) -> OSError | None:
        """The error of connecting to every NameNode there is, if there is no other."""
        authority = self._cluster.authority
        if self._cluster.host == "default":
            authority = settings.get("fs.defaultFS", "")
        last: OSError | None = None
        limit = min(_PROBE_SECONDS, self._cluster.timeout or _PROBE_SECONDS)
        for host, port in site.namenodes(authority, settings):
            try:
                socket.create_connection((host, port), timeout=limit).close()
            except socket.gaierror as error:
                reason = f"the NameNode's host {host!r} is not known ({error.strerror})"
                last = ConnectionError(errno.EHOSTUNREACH, reason, path)
            except TimeoutError:
                reason = f"the NameNode {host}:{port} does not answer"
                last = TimeoutError(errno.ETIMEDOUT, reason, path)
            except OSError as error:
                reason = f"the NameNode {host}:{port} cannot be reached: {error.strerror}"
                last = failure(error.errno or errno.EHOSTUNREACH, path, reason)
                if not isinstance(last, ConnectionError):
                    last = ConnectionError(error.errno or errno.EHOSTUNREACH, reason, path)
            else:
                return None
        return last

    def _unconnected(self, error: OSError) -> Exception:
        """Why no filesystem came to be: the libraries, the class path, the host, or the user."""
        if "libjvm" in str(error) or "libhdfs" in str(error):
            again = (
                " It stays so in this process: start Python again." if "Prior" in str(error) else ""
            )
            problem = str(error).splitlines()[0]
            return InvalidConfig(
                f"{problem}: check JAVA_HOME, and ARROW_LIBHDFS_DIR or HADOOP_HOME.{again}"
            )
        if not _has_hadoop(site.class_path()):
            return InvalidConfig(
                "CLASSPATH names no jar of Hadoop (a JVM reads it once, so Python must start again;"
                " older libhdfs do not expand '*'): export CLASSPATH=$(hadoop classpath --glob)"
            )
        authority = self._cluster.authority
        settings = self._settings()
        if unreachable := self._unreachable(authority, settings):
            return unreachable
        if site.is_secure(settings):
            return ticketless(self._cluster, authority)
        return failure(errno.EIO, authority, "libhdfs gave no connection (its reason is on stderr)")


class _Reader:
    def __init__(self, file: Any) -> None:
        self._file = file

    @property
    def size(self) -> int:
        return int(self._file.size())

    def read_at(self, start: int, length: int) -> bytes:
        end = start + length
        pieces = [self._file.read_at(min(_PIECE, end - at), at) for at in range(start, end, _PIECE)]
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # nothing is lost with a file that was read
            self._file.close()


class _Writer:
    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        for start in range(0, len(view), _PIECE):
            self._file.write(view[start : start + _PIECE])

    def close(self) -> None:
        self._file.close()


def _status(path: str, info: Any) -> Status | None:
    from pyarrow.fs import FileType

    if info.type == FileType.NotFound:
        return None
    is_dir = info.type == FileType.Directory
    mtime = info.mtime or datetime.fromtimestamp(0, UTC)
    return Status(path, 0 if is_dir else info.size, is_dir, mtime)


def _encode(path: str) -> str | bytes:
    """A name as Java's modified UTF-8 wants it: surrogate pairs, three bytes for each half."""
    if path.isascii() or max(path) <= "\uffff":
        return path
    units = array.array("H", path.encode("utf-16-le" if sys.byteorder == "little" else "utf-16-be"))
    return "".join(map(chr, units)).encode("utf-8", "surrogatepass")


def _decode(info: Any) -> str:
    """The name of an entry, also one that pyarrow cannot decode."""
    try:
        return str(info.path)
    except UnicodeDecodeError as error:
        halves = error.object.decode("utf-8", "surrogatepass")
        return halves.encode("utf-16", "surrogatepass").decode("utf-16")


def _has_hadoop(class_path: list[str]) -> bool:
    return any(
        "hadoop" in os.path.basename(jar)
        for part in class_path
        for jar in (glob.glob(part + ".jar") if part.endswith("*") else [part])
        if os.path.isfile(jar)
    )
