"""Writes that land whole or not at all.

``fsspec``'s buffered files commit whatever was written when they are closed, and they are
closed by a ``with`` block that an exception ends, by an ``OpenFile`` likewise, and by the
garbage collector. :class:`WholeWrite` stands around a driver's file and tells a finished
write, which it commits, from a broken one, which it abandons.
"""

from __future__ import annotations

import atexit
import contextlib
import dis
import functools
import io
import os
import re
import secrets
import stat
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any

__all__ = [
    "WholeText",
    "WholeWrite",
    "create_like",
    "give_name",
    "is_passing",
    "is_probe",
    "is_temporary",
    "landing",
    "naming",
    "probe_beside",
    "surely",
    "temporary_beside",
    "tidied_behind",
]

# The instruction that calls an ``__exit__`` with an exception.
_LEAVING_WITH = dis.opmap["WITH_EXCEPT_START"]
# Where fsspec's asynchronous drivers run.
_DRIVERS_THREAD = "fsspecIO"

_ENDING = r"(?:\.part|-part(?:\.[0-9A-Za-z]+)?)"
_TEMPORARY = re.compile(
    rf"\.?mlartifacts-[0-9a-f]{{16}}(?:-?[0-9a-f]{{16}}|~[^/]*)?{_ENDING}", re.DOTALL
)
_PASSING = re.compile(rf"\.?mlartifacts-[0-9a-f]{{32}}{_ENDING}")
_PROBE = re.compile(rf"mlartifacts-[0-9a-f]{{16}}(?:[0-9a-f]{{16}}|~[^/]*){_ENDING}", re.DOTALL)

# How many bytes of instructions are between that one and the wait for what it gave.
_AWAITING = 8


def temporary_beside(target: str, passing: bool = False) -> str:
    """Name a file that no listing of `target`'s directory has yet, to be renamed to `target`.

    Parameters
    ----------
    target : str
    passing : bool, default False
        It is written without a pause, and nobody misses it if that breaks off: see
        :func:`is_passing`.
    """
    directory, slash, _ = target.rpartition("/")
    return f"{directory}{slash}.mlartifacts-{secrets.token_hex(16 if passing else 8)}.part"


def probe_beside(target: str, like: str | None = None, ending: str | None = None) -> str:
    """Name a file that is put beside `target` for a moment, to see what becomes of it.

    It is temporary to all transfers, but has no dot, as a server may not show what has one; and
    servers of ours take it.

    Parameters
    ----------
    target : str
    like : str, optional
        A last step: the name has as many characters, and mostly these.
    ending : str, optional
        How it ends: as other files do (``.bin``), or with no such ending (``""``).
    """
    directory, slash, _ = target.rpartition("/")
    if like is None:
        kind = ".part" if ending is None else f"-part{ending}"
        return f"{directory}{slash}mlartifacts-{secrets.token_hex(16)}{kind}"
    start = f"mlartifacts-{secrets.token_hex(8)}~"
    return f"{directory}{slash}{start}{like[len(start) + len('.part') :]}.part"


def is_probe(path: str) -> bool:
    """Whether a path ends with a name that :func:`probe_beside` gives."""
    return _PROBE.fullmatch(path.rpartition("/")[2]) is not None


def is_temporary(path: str) -> bool:
    """Whether a path ends with a name that :func:`temporary_beside` gives, or a transfer."""
    return _TEMPORARY.fullmatch(path.rpartition("/")[2]) is not None


def is_passing(path: str) -> bool:
    """Whether a path ends with a name of what is written without a pause, as in a transfer.

    Of any other temporary name, nobody but who made it knows what is in it: a file that somebody
    opened, and writes to once a week, or the old content of one that is being replaced.
    """
    return _PASSING.fullmatch(path.rpartition("/")[2]) is not None


@contextlib.contextmanager
def landing(target: str, exclusive: bool = False) -> Iterator[str]:
    """Give a temporary local name, renamed to `target` at the end, removed on an exception.

    A link stays a link, and a file that is replaced keeps its mode. What is neither a file nor
    nothing (a device, a pipe) is given itself.

    Raises
    ------
    OSError
        What the file system says of the temporary name, of `target`.
    FileExistsError
        `exclusive`, and the target is there.
    """
    real = os.path.realpath(target)
    if os.path.exists(real) and not os.path.isfile(real):
        yield real
        return
    with naming(temporary_beside(real.replace(os.sep, "/"), passing=True), target) as temporary:
        try:
            create_like(real, temporary)
            yield temporary
            give_name(temporary, real, exclusive)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


@contextlib.contextmanager
def naming(temporary: str, target: str) -> Iterator[str]:
    """Give `temporary`, and have the errors about it name `target`."""
    try:
        yield temporary
    except OSError as error:
        if error.filename != temporary:
            raise
        raise OSError(error.errno, error.strerror, target) from error


def give_name(temporary: str, target: str, exclusive: bool) -> None:
    """Rename a complete local file; `exclusive` fails where the target came to be meanwhile."""
    if exclusive:
        os.link(temporary, target)
        os.unlink(temporary)
    else:
        os.replace(temporary, target)


def create_like(target: str, temporary: str) -> None:
    """Make an empty file that nobody may read or write who may not `target`."""
    mode = stat.S_IMODE(os.stat(target).st_mode) if os.path.exists(target) else 0o666
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    if os.path.exists(target):
        os.chmod(temporary, mode)  # which creating cuts by the umask


# Writes that go on. What is still open when the interpreter ends is abandoned while the threads
# that can clean up behind it still run.
_going_on: weakref.WeakSet[WholeWrite] = weakref.WeakSet()


@functools.cache
def _abandon_at_exit() -> None:
    """Have them abandoned, from the first write on: what is registered last is done first.

    Drivers' connections, which are needed for it, end at exit, too: by finalizers, all of which
    are called where the first one was made.
    """
    weakref.finalize(WholeWrite, int).detach()

    def abandon() -> None:
        for writer in list(_going_on):
            writer.abandon()

    atexit.register(abandon)


def surely(tidy: Callable[[], object]) -> None:
    """Tidy up, and wait for it; Ctrl-C ends the waiting alone, as a thread does it."""
    done: Future[None] = Future()

    def tidy_up() -> None:
        try:
            tidy()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    try:
        threading.Thread(target=tidy_up).start()
    except RuntimeError:  # the interpreter ends, and no more threads begin
        tidy_up()
    done.result()


def tidied_behind(tidy: Callable[[], object]) -> None:
    """Tidy up at a server that fell silent, for which nobody waits a second time."""

    def in_vain() -> None:
        with contextlib.suppress(Exception):
            tidy()

    threading.Thread(target=in_vain, daemon=True).start()


class WholeWrite(io.BufferedIOBase):
    """A binary file being written, committed by :meth:`close` alone.

    It is abandoned (the target keeps its old content, or stays absent) when a ``with`` block
    around it is left by an exception, when a write failed, or when it is garbage collected
    unclosed, which warns with :class:`ResourceWarning` as Python's own files do.

    Parameters
    ----------
    file : file-like
        The driver's file; attributes that this class lacks are its.
    commit : callable
        Finishes the write: closes `file` and publishes its bytes.
    abandon : callable
        Ends the write without publishing.
    explaining : callable
        Makes a context that turns a driver's errors into the ones to raise.
    """

    def __init__(
        self,
        file: Any,
        commit: Callable[[], None],
        abandon: Callable[[], None],
        explaining: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._file = file
        self._commit = commit
        self._abandon = abandon
        self._explaining = explaining
        self._state = "open"
        self._failure: Exception | None = None
        # A file opened inside an ``except`` block is not broken by that block's exception, nor
        # by the ``with`` block that is being left.
        self._handled_at_open = sys.exc_info()[1]
        self._leaving_at_open = _leaving() if self._handled_at_open is not None else frozenset()
        # A fork's copy is not the parent's write.
        self._process = os.getpid()
        _going_on.add(self)
        _abandon_at_exit()

    def write(self, data: Any) -> int:
        """Write bytes; into an abandoned file they vanish (a layer above may flush late)."""
        if self._state == "abandoned":
            return memoryview(data).nbytes
        self._check_open()
        with self._remembering_failure():
            written: int | None = self._file.write(data)
        return memoryview(data).nbytes if written is None else written

    def flush(self) -> None:
        """Hand complete blocks to the driver."""
        if self._state != "open":
            return
        with self._remembering_failure():
            self._file.flush()

    def close(self) -> None:
        """Commit, unless an exception is closing this file or an earlier write failed.

        Raises
        ------
        OSError
            The commit failed, or an earlier write did; nothing was published.
        """
        if self._state != "open":
            return
        error = sys.exc_info()[1]
        if error not in (None, self._handled_at_open) and _leaving() - self._leaving_at_open:
            self.abandon()
        elif self._failure is not None:
            self.abandon()
            with self._explaining():
                raise self._failure
        else:
            try:
                with self._explaining():
                    self._commit()
            except BaseException as failure:  # Ctrl-C amid the commit, too
                self._failure = failure if isinstance(failure, Exception) else None
                self.abandon()
                raise
            self._state = "committed"

    def abandon(self) -> None:
        """End the write without publishing; never raises."""
        self._end(surely)

    def _end(self, tidied: Callable[[Callable[[], object]], object]) -> None:
        if self._state != "open":
            return
        self._state = "abandoned"
        if self._process != os.getpid():
            self._disown()
            return
        if sys.is_finalizing():
            return  # nobody is there any more to be waited for
        if threading.current_thread().name == _DRIVERS_THREAD:
            # Collected there: it cannot wait for itself.
            threading.Thread(target=self._clean_up).start()
        elif isinstance(self._failure, TimeoutError):
            tidied_behind(self._abandon)
        else:
            tidied(self._clean_up)

    def _clean_up(self) -> None:
        try:
            self._abandon()
        except Exception as error:
            # The write is lost either way, and its own error is the one worth raising.
            warnings.warn(
                f"Remains of an abandoned write were not removed: {error}",
                ResourceWarning,
                stacklevel=2,
            )

    # fsspec's transactions end each of their files by one of these two names.
    def commit(self) -> None:
        """Publish a file that a transaction held back; one that failed stays abandoned."""
        if self._state != "committed":  # closed by an exception, or not at all
            self.abandon()
            return
        with self._explaining():
            self._publish()

    def _publish(self) -> None:
        self._file.commit()

    def discard(self) -> None:
        """Drop a file, also one that a transaction held back."""
        if self._state == "committed":  # closed, that is, and not yet published
            self._state = "open"
        self.abandon()

    @property
    def closed(self) -> bool:
        """Whether the write has ended, either way."""
        return self._state != "open"

    def tell(self) -> int:
        """Bytes written so far."""
        return int(self._file.tell())

    def writable(self) -> bool:
        """Whether more can be written."""
        return not self.closed

    def readable(self) -> bool:
        """Never."""
        return False

    def seekable(self) -> bool:
        """Whether the driver's file can be overwritten where it was written (a local one can)."""
        return bool(self._file.seekable())

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to another place, where :meth:`seekable`."""
        return int(self._file.seek(offset, whence))

    def truncate(self, size: int | None = None) -> int:
        """Cut the file, where :meth:`seekable`."""
        return int(self._file.truncate(size))

    @contextlib.contextmanager
    def _remembering_failure(self) -> Iterator[None]:
        try:
            with self._explaining():
                yield
        except Exception as error:
            self._failure = error
            raise

    def _check_open(self) -> None:
        if self._state != "open":
            raise ValueError("I/O operation on closed file.")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.abandon()
        self.close()

    def _disown(self) -> None:
        """Lose a fork's copy: what it buffers would reach the parent's file a second time."""
        if isinstance(self._file, io.BufferedWriter) and not self._file.closed:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._file.fileno(), inheritable=False)

    def __del__(self) -> None:
        if getattr(self, "_state", "closed") != "open":
            return
        if self._process == os.getpid():
            warnings.warn(f"unclosed file {self!r}: not written", ResourceWarning, stacklevel=2)
        self._end(lambda tidy: tidy())  # no thread can begin wherever garbage is collected

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_file":
            raise AttributeError(name)
        return getattr(self._file, name)

    def __repr__(self) -> str:
        return f"<WholeWrite {self._state} {self.__dict__.get('_file')!r}>"


class WholeText(io.TextIOWrapper):
    """Text over a :class:`WholeWrite`, abandoned by an exception as the bytes beneath are."""

    def __del__(self) -> None:
        # Python's own finalizer would close the bytes beneath, and so publish them.
        if not self.closed:
            warnings.warn(f"unclosed file {self!r}: not written", ResourceWarning, stacklevel=2)
            self.buffer.abandon()  # type: ignore[attr-defined]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.buffer.abandon()  # type: ignore[attr-defined]
        super().__exit__(kind, error, traceback)


def _leaving() -> frozenset[int]:
    """The frames on the stack that are leaving a ``with`` block by an exception right now.

    fsspec's ``OpenFile``, pandas' handles, pyarrow's streams and ``ExitStack`` close the files
    that they hold without saying why. A frame on the stack is calling their ``__exit__`` with
    the exception, though, or awaiting their ``__aexit__``, a few instructions further. A
    ``close()`` in an ``except`` block is no such case: it commits.
    """
    found = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_lasti >= 0:
            code = frame.f_code.co_code
            if _LEAVING_WITH in code[max(frame.f_lasti - _AWAITING, 0) : frame.f_lasti + 1 : 2]:
                found.append(id(frame))
        frame = frame.f_back
    return frozenset(found)
